// SPDX-License-Identifier: Apache-2.0

// Package floor keeps the security floor: a number that only rises.
//
// It owns the two files of a floor, and what they mean after a loss of power, a flash fault or a copy put back. It does not
// decide what the floor is raised to.
//
// A [File] is as strong as the file system under it: who can write the files as root can lower it, and who can copy an old
// flash image back turns it back. It detects damage, not restoration. With a counter in hardware ([Counted]) the same files
// are believed only at the count they were written for, so that an old flash image stops installs instead of lowering the
// floor; root can still write files for the present count. Class says which it is, for whoever reports it.
//
// Damage never reads as 0. If neither copy is intact the floor cannot be read, installs stop, and a person has to look.
package floor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/backstay/backstay/update"
)

// Names of the two copies and of the mark that says they once existed. Root owns them; nobody else may write the directory.
const (
	copyA = "floor.a"
	copyB = "floor.b"
	mark  = "floor.exists"
)

// maxFile bounds what is read of a copy, in bytes; a copy is about 110.
const maxFile = 256

// File is a floor in two files of one directory. It implements update.Floor, for one process and one goroutine at a time.
type File struct {
	dir string
}

// Config says where a file floor is.
type Config struct {
	Dir string // absolute; must exist
	// Provisioned is set if something outside Dir remembers that the floor was written before, such as the device's state
	// database. Then missing files are damage, not a new device.
	Provisioned bool
}

// Open returns the floor in a directory. A directory without any trace of a floor is a new device, whose floor is 0; Open
// writes that down, so that missing files are damage from then on.
func Open(c Config) (*File, error) {
	if !filepath.IsAbs(c.Dir) {
		return nil, fmt.Errorf("open floor: %w: directory %q is not absolute", update.ErrSetup, c.Dir)
	}
	if st, err := os.Stat(c.Dir); err != nil || !st.IsDir() {
		return nil, fmt.Errorf("open floor: %w: %s is not a directory", update.ErrSetup, c.Dir)
	}
	f := &File{dir: c.Dir}
	seen, err := f.seen()
	if err != nil {
		return nil, err
	}
	if seen || c.Provisioned {
		return f, nil
	}
	if err := f.write(record{}); err != nil {
		return nil, fmt.Errorf("create floor: %w", err)
	}
	return f, nil
}

// Class names how strong the floor is, for reports.
func (f *File) Class() string { return "file" }

// Get returns the floor: the higher of the copies that are intact. One intact copy is enough, because Raise returns only
// after it has written both: a copy that is behind belongs to a Raise that was cut, and that its caller repeats.
func (f *File) Get() (uint64, error) {
	a, errA := f.read(copyA)
	b, errB := f.read(copyB)
	if errA != nil && errB != nil {
		return 0, f.unreadable(errA, errB)
	}
	return max(a.floor, b.floor), nil
}

func (f *File) unreadable(a, b error) error {
	return &update.Refusal{Code: "floor-unreadable", What: "read floor in " + f.dir, Why: fmt.Sprintf("neither copy is intact (%v; %v)", a, b)}
}

// Raise makes the floor at least v. It also repairs a copy that is missing, damaged or behind.
func (f *File) Raise(v uint64) error {
	now, err := f.Get()
	if err != nil {
		return fmt.Errorf("raise floor: %w", err)
	}
	if err := f.write(record{floor: max(now, v)}); err != nil {
		return fmt.Errorf("raise floor to %d: %w", v, err)
	}
	return nil
}

// seen reports whether a floor was ever written here.
func (f *File) seen() (bool, error) {
	for _, name := range []string{mark, copyA, copyB} {
		_, err := os.Lstat(filepath.Join(f.dir, name))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return false, fmt.Errorf("open floor: %w", err)
		}
	}
	return false, nil
}

// write brings both copies to r, one after the other, so that one of them is intact at every moment. A copy that is right
// already is left alone. The mark comes last: before it, a cut leaves a new device or a copy that speaks for itself.
func (f *File) write(r record) error {
	for _, name := range []string{copyA, copyB} {
		if old, err := f.read(name); err == nil && old == r {
			continue
		}
		if err := f.replace(name, encode(r)); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(filepath.Join(f.dir, mark)); err == nil {
		return nil
	}
	return f.replace(mark, "backstay floor\n")
}

// replace writes a file under another name, makes it durable and renames it.
func (f *File) replace(name, content string) error {
	path := filepath.Join(f.dir, name)
	tmp := path + ".new"
	w, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = w.WriteString(content)
	if err == nil {
		err = w.Sync()
	}
	if e := w.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (f *File) read(name string) (record, error) {
	r, err := os.Open(filepath.Join(f.dir, name))
	if err != nil {
		return record{}, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return record{}, err
	}
	v, err := decode(string(b))
	if err != nil {
		return record{}, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

// record is what a copy says.
type record struct {
	floor uint64
	count uint64 // the count of the hardware at which it holds; 0 without one
}

// encode returns the one form of a copy: "backstay floor 1", the value, and the SHA-256 of all that comes before it; with a
// count "backstay floor 2", the value, the count and the SHA-256.
func encode(r record) string {
	body := "backstay floor 1\n" + strconv.FormatUint(r.floor, 10) + "\n"
	if r.count > 0 {
		body = "backstay floor 2\n" + strconv.FormatUint(r.floor, 10) + "\n" + strconv.FormatUint(r.count, 10) + "\n"
	}
	sum := sha256.Sum256([]byte(body))
	return body + hex.EncodeToString(sum[:]) + "\n"
}

func decode(s string) (record, error) {
	lines := strings.Split(s, "\n")
	if len(lines) != 4 && len(lines) != 5 {
		return record{}, errors.New("damaged: not three or four lines")
	}
	var r record
	var err, err2 error
	r.floor, err = strconv.ParseUint(lines[1], 10, 64)
	if len(lines) == 5 {
		r.count, err2 = strconv.ParseUint(lines[2], 10, 64)
	}
	if err != nil || err2 != nil || encode(r) != s {
		return record{}, errors.New("damaged: its checksum or form is wrong")
	}
	return r, nil
}
