// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/backstay/backstay/logging"
)

// damage marks a refusal that means the store itself is wrong, not the access to it.
type damage struct {
	err      *logging.Refusal
	head     []byte // newest checkpoint seen before the damage, not verified
	panicked bool   // inside bbolt: the database must not be touched again
}

func (d *damage) Error() string { return d.err.Error() }
func (d *damage) Unwrap() error { return d.err }

func damaged(err error) error {
	r, ok := errors.AsType[*logging.Refusal](err)
	if !ok {
		r = &logging.Refusal{Code: logging.CodeDamaged, What: "audit log store", Why: err.Error(), Err: err}
	}
	return &damage{err: r}
}

func isDamage(err error) bool {
	_, ok := errors.AsType[*damage](err)
	return ok
}

func panicked(err error) bool {
	d, ok := errors.AsType[*damage](err)
	return ok && d.panicked
}

func altered(index uint64, why string) error {
	return damaged(&logging.Refusal{Code: logging.CodeRecordAltered, What: fmt.Sprintf("record %d", index), Why: why})
}

func missing(index uint64) error {
	return damaged(&logging.Refusal{Code: logging.CodeRecordMissing, What: fmt.Sprintf("record %d", index), Why: "it is not in the store"})
}

func rootMismatch(good, end uint64) error {
	return damaged(&logging.Refusal{Code: logging.CodeRootMismatch, What: fmt.Sprintf("records %d to %d", good, end-1),
		Why: "they do not add up to the signed root"})
}

// guarded runs fn such that a damaged or truncated file cannot take the process down: bbolt maps the file and panics on
// pages that make no sense, and a page that is gone is a SIGBUS. After a panic the bbolt.DB must not be used again, not
// even closed: its locks are in an unknown state. Everything here runs in the goroutine of the caller, where the
// recover is; bbolt's own helpers (Update, Check) start others or roll back through the damage, and are not used.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &damage{panicked: true, err: &logging.Refusal{Code: logging.CodeDamaged, What: "audit log store", Why: fmt.Sprintf("a page makes no sense: %v", r)}}
		}
	}()
	return fn()
}
