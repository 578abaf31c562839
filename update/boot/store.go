// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
)

// Env is a U-Boot environment in memory. Set changes it, Save writes it. It is for one goroutine.
type Env struct {
	config Config
	size   int
	copies []block
	now    int // the copy that was loaded
	vars   vars
	dirty  bool
}

// ErrChanged says that somebody else wrote the environment between Load and Save. Nothing was written.
var ErrChanged = fmt.Errorf("boot environment changed meanwhile: %w", update.ErrRetry)

// Load reads the environment. If no copy is intact it is an error that is ErrSetup: an environment is never made up.
func Load(c Config) (*Env, error) {
	unlock, err := acquire(c)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return load(c)
}

// Update reads the environment, lets change set variables, and writes it, all under the locks: one write for any number of
// variables, and none if nothing changed.
func Update(c Config, change func(*Env) error) error {
	unlock, err := acquire(c)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := load(c)
	if err != nil {
		return err
	}
	if err := change(e); err != nil {
		return err
	}
	return e.save()
}

// Get returns the value of a variable, and whether it is set.
func (e *Env) Get(name string) (string, bool) { return e.vars.get(name) }

// All returns the variables in their order, as "name=value".
func (e *Env) All() []string { return append([]string(nil), e.vars...) }

// Redundant reports whether there are two copies, so that a write cut by a power loss leaves the old environment.
func (e *Env) Redundant() bool { return len(e.copies) == 2 }

// Set changes a variable in memory; an empty value removes it. It refuses what the environment's own .flags forbid.
func (e *Env) Set(name, value string) error {
	if err := checkVar(name, value); err != nil {
		return err
	}
	if old, _ := e.vars.get(name); old == value {
		return nil
	}
	if err := e.vars.permitted(name, value); err != nil {
		return err
	}
	next := e.vars.set(name, value)
	if _, err := next.data(e.size - header(e.Redundant())); err != nil {
		return fmt.Errorf("set boot variable %s: the environment is full: %w", name, err)
	}
	e.vars, e.dirty = next, true
	return nil
}

// Save writes the environment if a variable changed, and reads it back. In the redundant format it writes the copy that is
// not current, so the current one survives whatever happens; the new one counts from the moment its last byte is there. An
// error may mean that the write happened. It returns ErrChanged if the environment is not the one that was loaded.
func (e *Env) Save() error {
	unlock, err := acquire(e.config)
	if err != nil {
		return err
	}
	defer unlock()
	disk, err := load(e.config)
	if err != nil {
		return err
	}
	if disk.now != e.now || !bytes.Equal(disk.copies[disk.now].raw, e.copies[e.now].raw) {
		return ErrChanged
	}
	return e.save()
}

func (e *Env) save() error {
	if !e.dirty {
		return nil
	}
	cur, to := e.copies[e.now], 0
	if e.Redundant() {
		to = 1 - e.now
	}
	raw, err := encodeBlock(e.vars, e.size, e.Redundant(), cur.flags+1, cur.order)
	if err != nil {
		return fmt.Errorf("write boot environment: %w", err)
	}
	if err := writeArea(e.config.Areas[to], raw, !e.Redundant()); err != nil {
		return fmt.Errorf("write boot environment: %w", err)
	}
	back, err := readArea(e.config.Areas[to])
	if err != nil {
		return fmt.Errorf("read boot environment back: %w", err)
	}
	if !bytes.Equal(back, raw) {
		return fmt.Errorf("read boot environment back: %s does not hold what was written", e.config.Areas[to].Path)
	}
	e.copies[to] = parseBlock(raw, e.Redundant(), cur.order)
	e.now, e.dirty = to, false
	return nil
}

// load reads all copies and picks the current one.
func load(c Config) (*Env, error) {
	if len(c.Areas) < 1 || len(c.Areas) > 2 {
		return nil, fmt.Errorf("read boot environment: %w: %d copies configured, 1 or 2 are possible", update.ErrSetup, len(c.Areas))
	}
	e := &Env{config: c, size: int(c.Areas[0].Size)}
	for _, a := range c.Areas {
		if a.Size < minSize || a.Size > maxSize || a.Size != c.Areas[0].Size {
			return nil, fmt.Errorf("read boot environment: %w: size %#x of %s", update.ErrSetup, a.Size, a.Path)
		}
		raw, err := readArea(a)
		if err != nil {
			return nil, fmt.Errorf("read boot environment: %w: %w", update.ErrSetup, err)
		}
		e.copies = append(e.copies, parseBlock(raw, len(c.Areas) == 2, c.Order))
	}
	now, err := current(e.copies)
	if err != nil {
		return nil, fmt.Errorf("read boot environment in %s: %w: %w", c.Areas[0].Path, update.ErrSetup, err)
	}
	e.now, e.vars = now, e.copies[now].vars
	return e, nil
}

// place returns where an area begins.
func place(f *os.File, a Area) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	block := st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
	if !block && !st.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is neither a file nor a block device", a.Path)
	}
	if a.Offset >= 0 {
		return a.Offset, nil
	}
	if !block {
		return 0, fmt.Errorf("offset %d of %s: only a block device has an end to count from", a.Offset, a.Path)
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if end+a.Offset < 0 {
		return 0, fmt.Errorf("offset %d of %s: it has only %d bytes", a.Offset, a.Path, end)
	}
	return end + a.Offset, nil
}

func readArea(a Area) ([]byte, error) {
	f, err := os.Open(a.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at, err := place(f, a)
	if err != nil {
		return nil, err
	}
	// What the boot loader reads is the medium, so this should be too. It is a request, see package slot.
	_ = unix.Fadvise(int(f.Fd()), at, a.Size, unix.FADV_DONTNEED)
	raw := make([]byte, a.Size)
	if _, err := f.ReadAt(raw, at); err != nil {
		return nil, fmt.Errorf("read %s at %d: %w", a.Path, at, err)
	}
	return raw, nil
}

// writeArea writes one copy in place and makes it durable. A single environment that is a whole file of its own is replaced
// instead, because an in-place write that is cut would leave none.
func writeArea(a Area, raw []byte, single bool) error {
	f, err := os.OpenFile(a.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if single && st.Mode().IsRegular() && a.Offset == 0 && st.Size() == a.Size {
		return replace(a.Path, raw, st.Mode().Perm())
	}
	at, err := place(f, a)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(raw, at); err != nil {
		return fmt.Errorf("write %s at %d: %w", a.Path, at, err)
	}
	return f.Sync()
}

func replace(path string, raw []byte, perm os.FileMode) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	tmp := path + ".new"
	w, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = w.Write(raw)
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
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Waiting for a lock: fw_setenv holds it for as long as a flash erase takes.
const (
	lockWait = 10 * time.Second
	lockPoll = 20 * time.Millisecond
)

// acquire takes all lock files, in order. A lock file whose directory does not exist is one nobody can hold.
func acquire(c Config) (unlock func(), err error) {
	paths := c.Locks
	if paths == nil {
		paths = DefaultLocks()
	}
	var held []*os.File
	unlock = func() {
		for _, f := range held {
			f.Close()
		}
	}
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil && !heldAlready(held, f) {
			err = flock(f)
		}
		if err != nil {
			unlock()
			return nil, fmt.Errorf("lock boot environment: %w", err)
		}
		held = append(held, f)
	}
	return unlock, nil
}

// heldAlready reports whether a lock file is one we hold under another name; waiting for it would be for ever.
func heldAlready(held []*os.File, f *os.File) bool {
	st, err := f.Stat()
	for _, h := range held {
		if hs, herr := h.Stat(); err == nil && herr == nil && os.SameFile(st, hs) {
			return true
		}
	}
	return false
}

func flock(f *os.File) error {
	for end := time.Now().Add(lockWait); ; time.Sleep(lockPoll) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return fmt.Errorf("%s: %w", f.Name(), err)
		case time.Now().After(end):
			f.Close()
			return fmt.Errorf("%s is held by somebody else: %w", f.Name(), update.ErrRetry)
		}
	}
}

// Create writes a new environment over whatever is there: both copies, the first one current. It is for factories and
// boot loaders; the agent never calls it.
func Create(c Config, order binary.ByteOrder, entries []string) error {
	unlock, err := acquire(c)
	if err != nil {
		return err
	}
	defer unlock()
	for i, a := range c.Areas {
		raw, err := encodeBlock(entries, int(a.Size), len(c.Areas) == 2, byte(1-i), order)
		if err != nil {
			return fmt.Errorf("create boot environment: %w", err)
		}
		if err := writeArea(a, raw, false); err != nil {
			return fmt.Errorf("create boot environment: %w", err)
		}
	}
	return nil
}
