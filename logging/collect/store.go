// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/backstay/backstay/logging"
)

// ErrConflict means that the log moved since it was read: another collector was faster. Read again and repeat.
var ErrConflict = errors.New("log moved meanwhile")

// ErrUnknown means that nothing of that name is stored.
var ErrUnknown = errors.New("not known here")

// Store keeps records. All methods may be called from several goroutines and processes as far as the implementation says so;
// when one returns nil, what it wrote is durable. An error other than ErrConflict and ErrUnknown may mean that the write
// happened; repeating is safe because of the compare-and-set.
type Store interface {
	// Log returns what is stored of one log; ErrUnknown when there is nothing.
	Log(ctx context.Context, origin logging.Origin) (Log, error)
	// Newest returns the origin with the highest epoch of a device; ErrUnknown when there is none.
	Newest(ctx context.Context, device string) (logging.Origin, error)
	// Append stores a commit if size and root of the log still are those of c.Base, all of it or nothing.
	Append(ctx context.Context, c Commit) error
	// Raise stores an alarm and its evidence. Alarms of one log and code are counted, not repeated: see Alarm.
	Raise(ctx context.Context, a Alarm, evidence []byte) error
}

// Reader is the query side, for commands and a console. What it returns comes from devices: text in records is hostile.
type Reader interface {
	// Devices returns all devices, sorted by id.
	Devices(ctx context.Context) ([]Device, error)
	// Device returns one; ErrUnknown when nothing of it is stored.
	Device(ctx context.Context, id string) (Device, error)
	// Evidence returns one log from the record at index from on, as logging.Verify and logging.WriteExport take it. It is read in
	// slices: a long export does not block writers, and sees what was appended meanwhile.
	Evidence(ctx context.Context, origin logging.Origin, from uint64) (logging.Header, iter.Seq2[logging.Item, error], error)
	// Alarms returns the alarms of one device, or of all when id is empty, newest last.
	Alarms(ctx context.Context, id string) ([]Alarm, error)
}

// Log is what is stored of one log.
type Log struct {
	Head       logging.Head
	SPKI       []byte
	Checkpoint []byte // newest, signed by the device
	Receipt    []byte // newest, signed by this collector
	First      time.Time
	Seen       time.Time // of the newest commit
	Shed       uint64    // records of which only the hash was sent
}

// Commit is one verified step of a log.
type Commit struct {
	Base       logging.Head   // what the log must be at; an empty tree for a new log
	Next       logging.Head   // what it is after
	Leaves     []logging.Leaf // the records between the two
	SPKI       []byte
	Checkpoint []byte
	Receipt    []byte
	Time       time.Time
}

// Device is one device as the store knows it.
type Device struct {
	ID   string    `json:"device"`
	Seen time.Time `json:"last_seen"` // of the newest commit
	Logs []LogInfo `json:"logs"`      // one per epoch, oldest first
	Size uint64    `json:"records"`   // of all epochs
	Open int       `json:"alarms"`    // number of alarms

	Presence Presence `json:"presence"` // what the device said last about being there
}

// LogInfo is one log without its records.
type LogInfo struct {
	Origin  string    `json:"origin"`
	Epoch   uint64    `json:"epoch"`
	Size    uint64    `json:"records"`
	Shed    uint64    `json:"shed"`
	Root    string    `json:"root"` // base64
	First   time.Time `json:"first_seen"`
	Seen    time.Time `json:"last_seen"`
	Receipt string    `json:"receipt"` // newest, signed note
}

// Level says how bad an alarm is.
type Level string

// Levels of alarms.
const (
	Notice   Level = "notice"   // worth a look: a new epoch
	Warning  Level = "warning"  // something is broken or missing
	Critical Level = "critical" // evidence of tampering
)

// Alarm codes. The codes of logging's refusals are used unchanged; these are the collector's own.
const (
	// CodeNewEpoch: a device began a new log; what the old one had unacknowledged is gone unless the first record says so.
	CodeNewEpoch = "new-epoch"
	// CodeMissing: a device keeps sending from a record beyond what is here, so it no longer has what is missing.
	CodeMissing = "records-missing"
	// CodeUnknownDevice: a message in the name of a device that is not of this fleet. It is never stored.
	CodeUnknownDevice = "unknown-device"
)

// Alarm is one kind of trouble with one log. It is raised once and then counted: a device that repeats the same forged batch
// for a year is one alarm.
type Alarm struct {
	Device   string    `json:"device"` // the authenticated sender
	Origin   string    `json:"origin"` // the log, as far as known; may be empty
	Code     string    `json:"code"`
	Level    Level     `json:"level"`
	What     string    `json:"what"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Count    uint64    `json:"count"`
	Evidence []string  `json:"evidence"` // SHA-256 in hex of the messages kept, at most MaxEvidence
}

// MaxEvidence bounds the messages kept for one alarm: the first ones, which show what began it.
const MaxEvidence = 4
