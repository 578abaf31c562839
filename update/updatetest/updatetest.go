// SPDX-License-Identifier: Apache-2.0

// Package updatetest holds the parts of a device that an update works on, in memory.
//
// The fakes hold bytes and fail on command; what a test expects of them is in the test. Every effect asks a function first,
// which says whether it happens and what is returned. The two are separate because on real hardware they are: a write that
// returned an error may have happened, and one that a power cut followed has.
package updatetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/backstay/backstay/update"
)

// Effect is asked before every effect, by its name ("boot.try B"). It says whether the effect takes place, and what error
// the caller gets. A nil Effect lets everything happen.
type Effect func(op string) (apply bool, err error)

func (e Effect) ask(format string, args ...any) (bool, error) {
	if e == nil {
		return true, nil
	}
	return e(fmt.Sprintf(format, args...))
}

// Slots are two or more slots of one size. What is written becomes durable at Sync; Crash loses what is not.
type Slots struct {
	Effect  Effect
	Running update.SlotID
	Disk    map[update.SlotID][]byte // durable
	Live    map[update.SlotID][]byte // what reads see
	Spoil   int64                    // a write that covers this offset stores a wrong byte there without an error; 0: none
	Block   int64                    // writing continues at multiples of this only, as on flash; 0: anywhere
}

// NewSlots returns slots of size bytes each.
func NewSlots(running update.SlotID, size int, ids ...update.SlotID) *Slots {
	s := &Slots{Running: running, Disk: map[update.SlotID][]byte{}, Live: map[update.SlotID][]byte{}}
	for _, id := range ids {
		s.Disk[id], s.Live[id] = make([]byte, size), make([]byte, size)
	}
	return s
}

// Put fills a slot, durably.
func (s *Slots) Put(id update.SlotID, b []byte) {
	copy(s.Disk[id], b)
	copy(s.Live[id], b)
}

// Crash drops what was not synced: all of it, or with torn every second sector of 512 bytes.
func (s *Slots) Crash(torn bool) {
	for id, live := range s.Live {
		for at := 0; torn && at < len(live); at += 1024 {
			end := min(at+512, len(live))
			copy(s.Disk[id][at:end], live[at:end])
		}
		copy(live, s.Disk[id])
	}
}

// Booted returns Running.
func (s *Slots) Booted() (update.SlotID, error) { return s.Running, nil }

// Writer opens a slot.
func (s *Slots) Writer(id update.SlotID, size int64) (update.Writer, error) {
	if id == s.Running || size > int64(len(s.Live[id])) {
		return nil, fmt.Errorf("slot %s cannot take %d bytes while %s runs", id, size, s.Running)
	}
	return &writer{s: s, id: id, size: size}, nil
}

// Reader opens a slot for what reads see now.
func (s *Slots) Reader(id update.SlotID) (update.SlotReader, error) {
	b, ok := s.Live[id]
	if !ok {
		return nil, fmt.Errorf("no slot %s", id)
	}
	return slotReader{bytes.NewReader(b)}, nil
}

type slotReader struct{ *bytes.Reader }

func (slotReader) Close() error { return nil }

// Digest hashes what reads see.
func (s *Slots) Digest(_ context.Context, id update.SlotID, size int64) ([32]byte, error) {
	if size > int64(len(s.Live[id])) {
		return [32]byte{}, errors.New("slot too small")
	}
	return sha256.Sum256(s.Live[id][:size]), nil
}

type writer struct {
	s        *Slots
	id       update.SlotID
	at, size int64
}

func (w *writer) Write(p []byte) (int, error) {
	if w.at+int64(len(p)) > w.size {
		return 0, errors.New("write past the announced size")
	}
	apply, err := w.s.Effect.ask("slot.write %s %d", w.id, w.at)
	if apply {
		copy(w.s.Live[w.id][w.at:], p)
		if spoil := w.s.Spoil; spoil > 0 && w.at <= spoil && spoil < w.at+int64(len(p)) {
			w.s.Live[w.id][spoil] ^= 0x40
		}
	}
	if err != nil {
		return 0, err
	}
	w.at += int64(len(p))
	return len(p), nil
}

func (w *writer) Prefix(_ context.Context, dst io.Writer, n int64) (int64, error) {
	w.at = w.s.whole(n)
	_, err := dst.Write(w.s.Live[w.id][:w.at])
	return w.at, err
}

func (w *writer) Sync() error {
	apply, err := w.s.Effect.ask("slot.sync %s", w.id)
	if apply {
		n := w.at
		if n < w.size {
			n = w.s.whole(n)
		}
		copy(w.s.Disk[w.id][:n], w.s.Live[w.id])
	}
	return err
}

// whole returns the part of n bytes that fills blocks.
func (s *Slots) whole(n int64) int64 {
	if s.Block > 0 {
		n -= n % s.Block
	}
	return n
}

func (w *writer) Close() error { return nil }

// Components are parts of a device that keep two versions each: what they run, and what was installed or ran before.
type Components struct {
	Effect Effect
	Now    map[string][]byte // what runs, by name
	Other  map[string][]byte // what was installed, or ran before
	Fails  string            // the component that cannot be activated
	Stuck  string            // the component that cannot be rolled back
}

// NewComponents returns components that run what is given.
func NewComponents(runs map[string][]byte) *Components {
	return &Components{Now: runs, Other: map[string][]byte{}}
}

// Runs compares digests.
func (c *Components) Runs(_ context.Context, u update.Component) (bool, error) {
	b, ok := c.Now[u.Name]
	if !ok {
		return false, &update.Refusal{Code: update.CodeNoComponent, What: u.Name, Why: "not here"}
	}
	return sha256.Sum256(b) == u.SHA256, nil
}

// Install keeps the bytes, if they are what is signed.
func (c *Components) Install(_ context.Context, u update.Component, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if sha256.Sum256(b) != u.SHA256 {
		return &update.Refusal{Code: update.CodeBadHash, What: u.Name, Why: "not what is signed"}
	}
	apply, err := c.Effect.ask("component.install %s", u.Name)
	if apply {
		c.Other[u.Name] = b
	}
	return err
}

// Activate swaps what runs and what was installed.
func (c *Components) Activate(_ context.Context, u update.Component) error {
	if sha256.Sum256(c.Now[u.Name]) == u.SHA256 {
		return nil
	}
	apply, err := c.Effect.ask("component.activate %s", u.Name)
	if c.Fails == u.Name {
		return errors.New("it does not start")
	}
	if apply {
		c.Now[u.Name], c.Other[u.Name] = c.Other[u.Name], c.Now[u.Name]
	}
	return err
}

// Rollback swaps back.
func (c *Components) Rollback(_ context.Context, u update.Component) error {
	if sha256.Sum256(c.Now[u.Name]) != u.SHA256 {
		return nil
	}
	apply, err := c.Effect.ask("component.rollback %s", u.Name)
	if c.Stuck == u.Name {
		return errors.New("it does not go back")
	}
	if apply {
		c.Now[u.Name], c.Other[u.Name] = c.Other[u.Name], c.Now[u.Name]
	}
	return err
}

// Boot is what a boot loader remembers in the style of RAUC: an order, and the attempts left for each slot.
type Boot struct {
	Effect Effect
	Order  []update.SlotID
	Left   map[update.SlotID]int
}

// Disarm takes a slot out of the order.
func (b *Boot) Disarm(id update.SlotID) error {
	apply, err := b.Effect.ask("boot.disarm %s", id)
	if apply {
		b.Order = slices.DeleteFunc(slices.Clone(b.Order), func(o update.SlotID) bool { return o == id })
		b.Left[id] = 0
	}
	return err
}

// Try puts a slot first, for some attempts.
func (b *Boot) Try(id update.SlotID, attempts int) error {
	apply, err := b.Effect.ask("boot.try %s", id)
	if apply {
		b.first(id, attempts)
	}
	return err
}

// Keep puts a slot first, for three attempts.
func (b *Boot) Keep(id update.SlotID) error {
	if len(b.Order) > 0 && b.Order[0] == id && b.Left[id] == 3 {
		return nil
	}
	apply, err := b.Effect.ask("boot.keep %s", id)
	if apply {
		b.first(id, 3)
	}
	return err
}

func (b *Boot) first(id update.SlotID, attempts int) {
	rest := slices.DeleteFunc(slices.Clone(b.Order), func(o update.SlotID) bool { return o == id })
	b.Order = append([]update.SlotID{id}, rest...)
	b.Left[id] = attempts
}

// State returns what is remembered.
func (b *Boot) State() (update.BootState, error) {
	s := update.BootState{Order: b.Order, Left: b.Left}
	for _, id := range b.Order {
		if b.Left[id] > 0 {
			s.Primary = id
			break
		}
	}
	return s, nil
}

// Clone returns a copy that asks nobody.
func (b *Boot) Clone() *Boot {
	c := &Boot{Order: slices.Clone(b.Order), Left: map[update.SlotID]int{}}
	for id, n := range b.Left {
		c.Left[id] = n
	}
	return c
}

// Floor is a floor in memory.
type Floor struct {
	Effect Effect
	Value  uint64
}

// Get returns the floor.
func (f *Floor) Get() (uint64, error) { return f.Value, nil }

// Raise raises it.
func (f *Floor) Raise(v uint64) error {
	if v <= f.Value {
		return nil
	}
	apply, err := f.Effect.ask("floor.raise %d", v)
	if apply {
		f.Value = v
	}
	return err
}

// Journal keeps the job as the bytes a real one would.
type Journal struct {
	Effect Effect
	Bytes  []byte
}

// Load decodes the job.
func (j *Journal) Load() (update.Job, error) {
	var job update.Job
	if j.Bytes == nil {
		return job, nil
	}
	err := json.Unmarshal(j.Bytes, &job)
	return job, err
}

// Save encodes the job.
func (j *Journal) Save(job update.Job) error {
	b, err := json.Marshal(job)
	if err != nil {
		return err
	}
	apply, err := j.Effect.ask("journal.save %s", job.State)
	if apply {
		j.Bytes = b
	}
	return err
}

// Source offers one release. Its bytes may differ from what the release says.
type Source struct {
	Effect  Effect
	Release update.Release
	Err     error // returned by Latest instead
	Image   []byte
	Breaks  int64             // the reader fails here, once; 0: it does not
	Opened  []int64           // the offsets asked for
	Sent    int64             // bytes handed out
	Parts   map[string][]byte // components, by path
}

// NewSource returns a source of an image.
func NewSource(version string, counter, floor uint64, image []byte) *Source {
	return &Source{Image: image, Release: update.Release{Path: "firmware/acme/" + version + ".img", Version: version,
		Counter: counter, Floor: floor, Length: int64(len(image)), SHA256: sha256.Sum256(image)}}
}

// Latest returns the release.
func (s *Source) Latest(context.Context) (update.Release, error) { return s.Release, s.Err }

// Open returns the image from an offset on.
func (s *Source) Open(_ context.Context, r update.Release, off int64) (io.ReadCloser, error) {
	if b, ok := s.Parts[r.Path]; ok {
		return io.NopCloser(bytes.NewReader(b[off:])), nil
	}
	apply, err := s.Effect.ask("source.open %d", off)
	if apply {
		s.Opened = append(s.Opened, off)
	}
	if err != nil {
		return nil, err
	}
	if off > int64(len(s.Image)) {
		return nil, errors.New("offset past the end")
	}
	body := &reader{s: s, b: bytes.NewReader(s.Image[off:])}
	if s.Breaks > off {
		body.b = bytes.NewReader(s.Image[off:s.Breaks])
		body.err = fmt.Errorf("connection reset: %w", update.ErrRetry)
		s.Breaks = 0
	}
	return body, nil
}

type reader struct {
	s   *Source
	b   *bytes.Reader
	err error // instead of io.EOF
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.b.Read(p)
	r.s.Sent += int64(n)
	if err == io.EOF && r.err != nil {
		err = r.err
	}
	return n, err
}

func (r *reader) Close() error { return nil }

// Image returns n bytes that differ between seeds and hold no long run.
func Image(seed string, n int) []byte {
	var b []byte
	for block := sha256.Sum256([]byte(seed)); len(b) < n; block = sha256.Sum256(block[:]) {
		b = append(b, block[:]...)
	}
	return b[:n]
}

// Ops joins the names of effects for a failure message.
func Ops(ops []string) string { return strings.Join(ops, "\n\t") }
