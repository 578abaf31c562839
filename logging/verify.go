// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// Header opens a run of evidence: whose log it is, and what the run starts from.
type Header struct {
	SPKI   []byte // device key
	Origin Origin
	Start  Tree // frontier before the first record; empty when the run starts at record 0
}

// Item is one piece of evidence; exactly one field is set. Evidence comes in the order of the log: a checkpoint or receipt
// that covers n records stands after record n-1, or after the last record when it covers more than there are.
type Item struct {
	Leaf       *Leaf
	Checkpoint []byte // signed note
	Receipt    []byte // signed note with at least one cosignature
}

// Expect is what the verifier knows from elsewhere. The zero value asks only that the evidence is consistent with itself.
type Expect struct {
	Device string      // device id the evidence must belong to; empty: any
	Policy Policy      // keys whose receipts count; receipts of other keys are ignored
	Acked  bool        // refuse a log that no quorum of Policy has acknowledged any of
	Head   *Checkpoint // a head of this device seen before: detects rollback and forks
}

// Report says what Verify found. When Verify refuses, the report describes everything up to the refusal.
type Report struct {
	Device string `json:"device"`
	Origin string `json:"origin"`
	Epoch  uint64 `json:"epoch"`

	First    uint64 `json:"first"`    // index of the first record present
	Size     uint64 `json:"size"`     // records covered by the newest good checkpoint
	Root     string `json:"root"`     // of that checkpoint, base64
	Unsigned uint64 `json:"unsigned"` // records after the newest checkpoint: read, hashed, but not signed yet

	Records     uint64 `json:"records"`     // records with a body
	Opaque      uint64 `json:"opaque"`      // of these, how many this program cannot read
	Personal    uint64 `json:"personal"`    // of these, how many still have personal values beside them
	Checkpoints uint64 `json:"checkpoints"` // verified

	Shed     []Range         `json:"shed"`     // records of which only the hash is left, their own or that of a subtree of them
	Unnamed  uint64          `json:"unnamed"`  // of these, how many no log.shed record in this evidence names
	Gaps     []Gap           `json:"gaps"`     // losses the device itself reported
	Receipts []ReceiptReport `json:"receipts"` // newest per key
	Acked    uint64          `json:"acked"`    // records a quorum has acknowledged
	Previous string          `json:"previous"` // origin of the epoch before, as the first record says

	HeadChecked bool `json:"head_checked"` // the expected head could be compared with the records

	FirstTime time.Time `json:"first_time"` // of the first readable record
	LastTime  time.Time `json:"last_time"`

	Bad *Range `json:"bad,omitempty"` // where the first bad record is: exact when First == Last
}

// Gap is a loss the device reported about itself in a log.gap or log.shed record.
type Gap struct {
	Index  uint64 `json:"index"` // of the record that reports it
	Code   string `json:"code"`
	Reason string `json:"reason"`
	Count  string `json:"count"`
}

// ReceiptReport is a verified receipt in a report.
type ReceiptReport struct {
	Key  string    `json:"key"`
	Size uint64    `json:"size"`
	Time time.Time `json:"time"`
}

// Verify checks a run of evidence from beginning to end and reports what it proves. Memory does not grow with the number
// of records.
//
// It refuses, with the code in brackets, when: the key does not belong to the device (device-mismatch); a checkpoint is
// not signed by it (bad-checkpoint); the bytes of a record do not match its hash (record-altered), a record is absent
// (record-missing) or is not the one that belongs there (record-moved); the records do not add up to a signed root
// (root-mismatch; the report names the range since the last root that was right); a checkpoint or a receipt covers more
// than there is (log-truncated); a personal value is not the one its record commits to (side-mismatch); no checkpoint covers the records (log-unsigned); the expected head is longer or of a later
// epoch (log-rolled-back), or lies inside of records that were shed as one (log-rolled-back too: a device that knows that it handed
// the head out keeps it comparable), or differs (log-forked); a receipt is wrong (bad-receipt) or too few keys gave one (no-quorum).
//
// An error that does not match ErrRefused comes from reading the evidence or from ctx.
func Verify(ctx context.Context, h Header, items iter.Seq2[Item, error], want Expect) (Report, error) {
	v, err := newVerification(h, want)
	if err != nil {
		return v.report, err
	}
	for item, err := range items {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return v.report, fmt.Errorf("verify %s: %w", h.Origin, err)
		}
		if err := v.item(item); err != nil {
			return v.report, err
		}
	}
	return v.report, v.finish()
}
