// SPDX-License-Identifier: Apache-2.0

package logging

import "errors"

// The three classes of error of this pillar, tested with errors.Is. Everything else is an I/O error or a bug.
var (
	// ErrRefused means a check said no: a signature, a hash, a size or a format was not what it must be.
	ErrRefused = errors.New("refused")
	// ErrRetry means the same call may succeed later: storage is full, a lock is held, a batch arrived too early.
	ErrRetry = errors.New("try again later")
	// ErrSetup means a person must change something: a file system the store cannot work on, a key of the wrong kind.
	ErrSetup = errors.New("setup")
)

// Refusal is the error of a check that said no.
//
// Code is stable and meant for programs (the table is in codes.go of this package, as constants); What names the thing
// that was refused, Why the fact. Error is What + ": " + Why.
type Refusal struct {
	Code string
	What string
	Why  string
	Err  error // cause, may be nil
}

// Error returns What + ": " + Why.
func (r *Refusal) Error() string { return r.What + ": " + r.Why }

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// Is makes every Refusal match ErrRefused.
func (r *Refusal) Is(target error) bool { return target == ErrRefused }

// Codes of the refusals of this package and of logging/spool. They are part of the interface: a consumer may switch on
// them, and no code is ever given a second meaning.
const (
	// CodeDeviceMismatch: the key that signed does not belong to the device the log or the topic names.
	CodeDeviceMismatch = "device-mismatch"
	// CodeBadCheckpoint: a checkpoint does not parse or is not signed by the device key.
	CodeBadCheckpoint = "bad-checkpoint"
	// CodeRecordAltered: the bytes of a record do not have the hash the log holds for it.
	CodeRecordAltered = "record-altered"
	// CodeRecordMissing: a record is absent although later records are present.
	CodeRecordMissing = "record-missing"
	// CodeRecordMoved: a record carries another index than the place it was found at.
	CodeRecordMoved = "record-moved"
	// CodeRootMismatch: the records do not add up to the signed root, and their own hashes do not say which one is wrong.
	CodeRootMismatch = "root-mismatch"
	// CodeTruncated: a signed checkpoint or a receipt covers records that are not there.
	CodeTruncated = "log-truncated"
	// CodeUnsigned: records are present that no checkpoint covers, or there is no checkpoint at all.
	CodeUnsigned = "log-unsigned"
	// CodeRolledBack: somebody has seen a longer log of this origin, or a later epoch of this device.
	CodeRolledBack = "log-rolled-back"
	// CodeForked: two different signed roots exist for the same size of the same log.
	CodeForked = "log-forked"
	// CodeBadReceipt: a receipt does not parse, is not of this log, or is not signed by a listed key.
	CodeBadReceipt = "bad-receipt"
	// CodeNoQuorum: fewer listed keys than the policy asks for have acknowledged.
	CodeNoQuorum = "no-quorum"
	// CodeUnknownVersion: a batch, an export or a store has a version this program does not know.
	CodeUnknownVersion = "unknown-version"
	// CodeMalformed: bytes do not follow the format, or exceed one of its limits.
	CodeMalformed = "malformed"
	// CodeDamaged: the store of the log is not in a state it can have been written in.
	CodeDamaged = "store-damaged"
	// CodeBatchGap: a batch starts beyond what the consumer has; the device must rewind.
	CodeBatchGap = "batch-gap"
	// CodeSideMismatch: a side record holds a personal value that is not the one its leaf commits to.
	CodeSideMismatch = "side-mismatch"
)

func refuse(code, what, why string) *Refusal { return &Refusal{Code: code, What: what, Why: why} }

func refuseErr(code, what string, err error) *Refusal {
	return &Refusal{Code: code, What: what, Why: err.Error(), Err: err}
}

// ErrorCode returns Code, for whoever shows the error.
func (r *Refusal) ErrorCode() string { return r.Code }
