// SPDX-License-Identifier: Apache-2.0

package ship

import "fmt"

// Window is how many batches may be on the way without a PUBACK.
const Window = 8

// MaxUnacked is how many records may be sent beyond what is acknowledged, before the next batch is. A broker may take messages for ever
// that no collector sees; each would be sent again and again, and the log must keep every checkpoint that left, so that the collector can go
// on from it.
const MaxUnacked = 1024

// Cursor is where the shipping of one log stands: a pure state machine, no clock, no I/O. Its invariant, which every step
// keeps whatever comes in:
//
//	Pruned <= Acked <= Sent <= Size, and 0 <= Flying <= Window
//
// Pruned, Acked and Size are durable in the log; Sent and Flying belong to the connection.
type Cursor struct {
	Pruned uint64 // records before this are no longer on the device
	Acked  uint64 // records before this have receipts of a quorum
	Sent   uint64 // records before this were handed to the connection
	Size   uint64 // records in the log
	Flying int    // batches handed over and not yet PUBACKed

	rewound bool // went back since the last progress; a second hint in the same round is an echo of the first
}

// Input is something that happened. The six kinds are below; nothing else moves a cursor.
type Input interface{ step(Cursor) (Cursor, error) }

type (
	// Appended: the log now has Size records. It never shrinks within an epoch.
	Appended struct{ Size uint64 }
	// Published: a batch that starts at Sent and ends at End was handed to the connection.
	Published struct{ End uint64 }
	// Puback: the broker acknowledged the oldest batch. Flow control, proof of nothing.
	Puback struct{}
	// Acknowledged: a verified receipt covers Size records, and Acked is what a quorum has now.
	Acknowledged struct{ Size, Acked uint64 }
	// Rewind: nothing came for too long, or the connection is a new one: everything not acknowledged is sent again (go-back-N).
	Rewind struct{}
	// Discarded: the log dropped the records before Pruned.
	Discarded struct{ Pruned uint64 }
)

// Step returns the cursor after one input. An input that contradicts the cursor is an error and leaves it unchanged: a bug of
// the caller or a log that was rolled back below what it knows to be acknowledged.
func (c Cursor) Step(in Input) (Cursor, error) { return in.step(c) }

func (in Appended) step(c Cursor) (Cursor, error) {
	if in.Size < c.Size {
		return c, fmt.Errorf("move cursor: log shrank from %d to %d records", c.Size, in.Size)
	}
	c.Size = in.Size
	return c, nil
}

func (in Published) step(c Cursor) (Cursor, error) {
	if c.Flying == Window {
		return c, fmt.Errorf("move cursor: %d batches are already on the way", Window)
	}
	if in.End <= c.Sent || in.End > c.Size {
		return c, fmt.Errorf("move cursor: a batch from %d to %d in a log of %d records", c.Sent, in.End, c.Size)
	}
	c.Sent = in.End
	c.Flying++
	return c, nil
}

func (Puback) step(c Cursor) (Cursor, error) {
	// A broker may acknowledge what was never sent; that must not open the window.
	c.Flying = max(c.Flying-1, 0)
	return c, nil
}

func (in Acknowledged) step(c Cursor) (Cursor, error) {
	if in.Acked > c.Size || in.Size > c.Size {
		return c, fmt.Errorf("move cursor: receipt for %d records, log has %d", max(in.Acked, in.Size), c.Size)
	}
	if in.Acked > c.Acked {
		c.Acked = in.Acked
		// Without this line a late receipt, arriving after a rewind, lets the log prune records the sender is about to read.
		c.Sent = max(c.Sent, c.Acked)
		c.rewound = false
		return c, nil
	}
	// A receipt that brings nothing new is the collector's answer to a batch it could not use because one before it is missing.
	// Go back at once instead of waiting for the timer, but once per round: every batch on the way brings the same answer.
	if in.Size <= c.Acked && c.Sent > c.Acked && !c.rewound {
		c.Sent = c.Acked
		c.rewound = true
	}
	return c, nil
}

func (Rewind) step(c Cursor) (Cursor, error) {
	c.Sent = c.Acked
	c.Flying = 0
	c.rewound = true
	return c, nil
}

func (in Discarded) step(c Cursor) (Cursor, error) {
	if in.Pruned < c.Pruned || in.Pruned > c.Acked {
		return c, fmt.Errorf("move cursor: pruned to %d, pruned before %d, acknowledged %d", in.Pruned, c.Pruned, c.Acked)
	}
	c.Pruned = in.Pruned
	return c, nil
}

// Wants reports whether a batch should be read and handed over now.
func (c Cursor) Wants() bool {
	return c.Sent < c.Size && c.Flying < Window && c.Sent-c.Acked < MaxUnacked
}

// Waiting reports whether records are on the way whose receipt is outstanding.
func (c Cursor) Waiting() bool { return c.Sent > c.Acked }
