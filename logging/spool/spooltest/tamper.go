// SPDX-License-Identifier: Apache-2.0

// Package spooltest does to the audit log of a device what an intruder would, for tests and for the lab.
package spooltest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Tamper edits one record on disk the way somebody with root would: it changes the name of the event in the record with
// that index, in place, past the agent, whether or not the agent is running. path is audit.db or the directory it is in.
//
// It finds the record by its text, not through bbolt, whose lock the agent holds. It is an error when the record is not
// there: shed, pruned or never written.
func Tamper(path string, index uint64) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "audit.db")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("tamper with record %d: %w", index, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("tamper with record %d: %w", index, err)
	}
	mark := fmt.Appendf(nil, `"sequence":%d,`, index)
	name := []byte(`"event_code":"`)
	found := false
	// Every copy is changed: bbolt leaves old versions of a page in the file.
	for at := 0; ; {
		i := bytes.Index(data[at:], mark)
		if i < 0 {
			break
		}
		at += i + len(mark)
		j := bytes.Index(data[at:], name)
		if j < 0 || j > 512 {
			continue
		}
		pos := at + j + len(name)
		if _, err := f.WriteAt([]byte{data[pos] ^ 0x01}, int64(pos)); err != nil {
			return errors.Join(fmt.Errorf("tamper with record %d: %w", index, err), f.Close())
		}
		found = true
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("tamper with record %d: %w", index, err)
	}
	if !found {
		return fmt.Errorf("tamper with record %d: %w", index, fs.ErrNotExist)
	}
	return nil
}
