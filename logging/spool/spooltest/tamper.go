// SPDX-License-Identifier: Apache-2.0

// Package spooltest does to the audit log of a device what an intruder would, for tests and for the lab.
package spooltest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Tamper edits one record on disk the way somebody with root would: it changes a byte of the record with that index, in place,
// past the agent, whether or not the agent is running. path is audit.db, a segment, or the directory of the log with either
// kind of store in it.
//
// It finds the record in the bytes of the file, not through bbolt, whose lock the agent holds. It is an error when the record
// is not there: shed, pruned or never written.
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
	find := boltRecords
	if filepath.Ext(path) == ".seg" {
		find = segmentRecords
	}
	// Every copy is changed: bbolt leaves old versions of a page in the file.
	for _, at := range find(data, index) {
		if _, err := f.WriteAt([]byte{data[at] ^ 0x01}, int64(at)); err != nil {
			return false, errors.Join(err, f.Close())
		}
		found = true
	}
	return found, f.Close()
}

// before is what stands before the body in the value of a record: flags and hash.
const before = 1 + 32

// boltRecords returns where a byte of the body of a record is, for each time it stands in the file. In bbolt's format an element
// of 16 bytes, before the keys of its page, says how far from itself its key begins and how long key and value are.
func boltRecords(data []byte, index uint64) (at []int) {
	n := binary.NativeEndian
	key := append(binary.BigEndian.AppendUint64([]byte{'r'}, index), 0)
	for k := 0; ; k += len(key) {
		i := bytes.Index(data[k:], key)
		if i < 0 {
			return at
		}
		k += i
		for e := k - 16; e >= max(k-os.Getpagesize(), 0); e-- {
			size := int(n.Uint32(data[e+12:]))
			if int(n.Uint32(data[e+4:])) == k-e && n.Uint32(data[e+8:]) == uint32(len(key)) && n.Uint32(data[e:]) == 0 &&
				size > before && k+len(key)+size <= len(data) {
				at = append(at, k+len(key)+before+(size-before)/2)
				break
			}
		}
	}
}

// segmentRecords does the same in a segment: frames of 16 bytes and a payload, which begins with the index.
func segmentRecords(data []byte, index uint64) (at []int) {
	const header, magic = 36, "Bk"
	for i := header; i+16 <= len(data) && string(data[i:i+2]) == magic; {
		size := int(binary.BigEndian.Uint32(data[i+4:]))
		if data[i+2] == 1 && size > 8+before && i+16+size <= len(data) && binary.BigEndian.Uint64(data[i+16:]) == index {
			at = append(at, i+16+8+before+(size-8-before)/2)
		}
		i += 16 + size
	}
	return at
}
