// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/backstay/backstay/configs/probe"
)

// What is in StateDir:
//
//	lock                  held with flock while something is written
//	memory.json           when rules were fixed, which fixes are suspended, which wait for a reboot
//	undo/000012/          one run: record.json, and one file per change with the bytes before and after
//
// The files hold what the changed files held, /etc/shadow included: modes are 0700 and 0600.

const (
	keepRecords  = 8       // runs that can be undone; older ones are removed
	maxStateFile = 8 << 20 // a change holds two files of at most probe.MaxFile in base64
	undoDir      = "undo"
	memoryFile   = "memory.json"
)

// errRecord ends a run: without a copy there is no change.
var errRecord = errors.New("keep a copy for undo")

// state opens StateDir, which it makes if need be.
func (e *Engine) state() (*os.Root, error) {
	if e.StateDir == "" {
		return nil, &Refusal{Code: CodeNoState, What: "apply configuration", Why: "no directory for copies of changed files is set", class: ErrSetup}
	}
	if err := os.MkdirAll(e.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	root, err := os.OpenRoot(e.StateDir)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	return root, nil
}

// lock keeps other runs out until the returned function is called. It does not wait.
func (e *Engine) lock() (func(), error) {
	dir, err := e.state()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := dir.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, &Refusal{Code: CodeBusy, What: "apply configuration", Why: "another run is writing", Err: err, class: ErrRetry}
	}
	return func() { f.Close() }, nil
}

// writeState replaces a file durably.
func writeState(dir *os.Root, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := name + ".tmp"
	f, err := dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := dir.Rename(tmp, name); err != nil {
		return err
	}
	d, err := dir.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func readState(dir *os.Root, name string, v any) error {
	f, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStateFile))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return &Refusal{Code: CodeBadState, What: "state file " + name, Why: err.Error(), Err: err, class: ErrSetup}
	}
	return nil
}

// record is one run of Apply that changed something.
type record struct {
	Started   time.Time  `json:"started"`
	Policy    string     `json:"policy"`
	Serial    uint64     `json:"serial"`
	Trial     int        `json:"trial,omitempty"` // one more than the index of the first change on trial
	Committed bool       `json:"committed,omitempty"`
	Changes   []recorded `json:"changes"`

	name, dir string
	engine    *Engine
	undone    []recorded // what undo has taken back
}

type recorded struct {
	Rule string `json:"rule"`
	File string `json:"file"`
}

// kept is a change on disk. The path is quoted: it need not be UTF-8.
type kept struct {
	Path   string       `json:"path"`
	Change probe.Change `json:"change"`
}

func (rec *record) len() int {
	if rec == nil {
		return 0
	}
	return len(rec.Changes)
}

// records lists the names of the records, oldest first.
func records(dir *os.Root) ([]string, error) {
	d, err := dir.Open(undoDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return slices.DeleteFunc(names, func(n string) bool { _, err := strconv.Atoi(n); return err != nil }), err
}

func (e *Engine) newRecord() (*record, error) {
	dir, err := e.state()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := records(dir)
	if err != nil {
		return nil, err
	}
	next := 1
	if len(names) > 0 {
		last, _ := strconv.Atoi(names[len(names)-1])
		next = last + 1
	}
	for len(names) >= keepRecords {
		if err := dir.RemoveAll(path.Join(undoDir, names[0])); err != nil {
			return nil, err
		}
		names = names[1:]
	}
	rec := &record{Started: e.Now().UTC(), Policy: e.Policy.ID, Serial: e.Policy.Serial, name: fmt.Sprintf("%06d", next), engine: e}
	rec.dir = path.Join(undoDir, rec.name)
	return rec, dir.MkdirAll(rec.dir, 0o700)
}

// lastRecord returns the newest record with changes, nil when there is none.
func (e *Engine) lastRecord() (*record, error) {
	dir, err := e.state()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := records(dir)
	if err != nil {
		return nil, fmt.Errorf("list undo records: %w", err)
	}
	for _, name := range slices.Backward(names) {
		rec := &record{name: name, dir: path.Join(undoDir, name), engine: e}
		err := readState(dir, path.Join(rec.dir, "record.json"), rec)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the power went before its first change
		}
		if err != nil {
			return nil, fmt.Errorf("read undo record %s: %w", name, err)
		}
		if len(rec.Changes) > 0 {
			return rec, nil
		}
	}
	return nil, nil
}

// add makes the copy of one change durable, before the change is made.
func (rec *record) add(rule string, c probe.Change) error {
	dir, err := rec.engine.state()
	if err != nil {
		return fmt.Errorf("%w: %w", errRecord, err)
	}
	defer dir.Close()
	name := fmt.Sprintf("%04d.json", len(rec.Changes)+1)
	k := kept{Path: strconv.QuoteToASCII(c.Path), Change: c}
	k.Change.Path = ""
	if err := writeState(dir, path.Join(rec.dir, name), k); err != nil {
		return fmt.Errorf("%w: %w", errRecord, err)
	}
	rec.Changes = append(rec.Changes, recorded{Rule: rule, File: name})
	if err := writeState(dir, path.Join(rec.dir, "record.json"), rec); err != nil {
		return fmt.Errorf("%w: %w", errRecord, err)
	}
	return nil
}

// load reads change i.
func (rec *record) load(i int) (probe.Change, error) {
	dir, err := rec.engine.state()
	if err != nil {
		return probe.Change{}, err
	}
	defer dir.Close()
	var k kept
	if err := readState(dir, path.Join(rec.dir, path.Base(rec.Changes[i].File)), &k); err != nil {
		return probe.Change{}, fmt.Errorf("read undo record %s: %w", rec.name, err)
	}
	p, err := strconv.Unquote(k.Path)
	if err != nil {
		return probe.Change{}, fmt.Errorf("read undo record %s: path: %w", rec.name, err)
	}
	k.Change.Path = p
	return k.Change, nil
}

func (rec *record) save() error {
	dir, err := rec.engine.state()
	if err != nil {
		return err
	}
	defer dir.Close()
	return writeState(dir, path.Join(rec.dir, "record.json"), rec)
}

// commit ends a trial; nil-safe and without effect on a run that had none.
func (rec *record) commit() error {
	if rec == nil || rec.Trial == 0 || rec.Committed {
		return nil
	}
	rec.Committed = true
	return rec.save()
}

// drop forgets a record that was taken back.
func (rec *record) drop() error {
	dir, err := rec.engine.state()
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.RemoveAll(rec.dir)
}
