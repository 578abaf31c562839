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
// that index, in place, past the agent, whether or not the agent is running. path is audit.db, a segment, or the directory
// of the log with either kind of store in it.
//
// It finds the record by its text, not through bbolt, whose lock the agent holds. It is an error when the record is not
// there: shed, pruned or never written.
func Tamper(path string, index uint64) error {
	files := []string{path}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		segments, err := filepath.Glob(filepath.Join(path, "audit.log", "*.seg"))
		if err != nil {
			return fmt.Errorf("tamper with record %d: %w", index, err)
		}
		if files = segments; len(files) == 0 {
			files = []string{filepath.Join(path, "audit.db")}
		}
	}
	found := false
	for _, file := range files {
		ok, err := tamperFile(file, index)
		if err != nil {
			return fmt.Errorf("tamper with record %d: %w", index, err)
		}
		found = found || ok
	}
	if !found {
		return fmt.Errorf("tamper with record %d: %w", index, fs.ErrNotExist)
	}
	return nil
}

func tamperFile(path string, index uint64) (found bool, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	mark := fmt.Appendf(nil, `"sequence":%d,`, index)
	name := []byte(`"event_code":"`)
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
			return false, errors.Join(err, f.Close())
		}
		found = true
	}
	return found, f.Close()
}
