// SPDX-License-Identifier: Apache-2.0

package updatetest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
	"github.com/backstay/backstay/update/floor"
	"github.com/backstay/backstay/update/slot"
	"github.com/backstay/backstay/update/updatetest"
)

// The power-cut test once more, over what a device really has: slots in files, a redundant U-Boot environment that a boot
// stub and the agent share, a floor in its two files, and a journal. Cuts fall between the effects; what was written to a
// slot and not synced is lost. Cuts inside the write of one environment copy are in package boot.

const (
	imageSize = 300 << 10
	slotSize  = 320 << 10
)

var errCut = errors.New("power cut")

type device struct {
	t     *testing.T
	dir   string
	env   boot.Config
	slots slot.Config
	boot  loader
	bad   string // "", "unhealthy" or "unbootable"
	ops   []string
	at    int
	again int // the power fails once more, so many effects after the first cut; 0: it does not
	after bool
	dead  bool
	cut   bool // the power has failed before
	src   *updatetest.Source
	names map[string]string // image -> version
}

func newDevice(t *testing.T, l loader, bad string, at int, after bool) *device {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "backstay") // syncing to memory is free
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &device{t: t, dir: dir, boot: l, bad: bad, at: at, after: after, names: map[string]string{}}
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, version := range map[string]string{"a": "2.0", "b": "1.0"} {
		image := updatetest.Image(version, imageSize)
		d.names[string(image)] = version
		d.ok(os.WriteFile(path(name), append(image, make([]byte, slotSize-imageSize)...), 0o600))
	}
	fresh := updatetest.Image("3.0", imageSize)
	d.names[string(fresh)] = "3.0"
	d.src = updatetest.NewSource("3.0", 3, 3, fresh)
	d.slots = slot.Config{Cmdline: path("cmdline"), Slots: map[update.SlotID]slot.Device{
		"A": {Kind: slot.File, Path: path("a")}, "B": {Kind: slot.File, Path: path("b")}}}
	d.env = boot.Config{Locks: []string{path("lock")}, Areas: []boot.Area{{Path: path("env"), Size: 0x1000}, {Path: path("env"), Offset: 0x1000, Size: 0x1000}}}
	d.ok(l.make(d))
	f, err := floor.Open(floor.Config{Dir: dir})
	d.ok(err)
	d.ok(f.Raise(1))
	return d
}

func (d *device) ok(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) effect(op string) (bool, error) {
	if d.dead {
		return false, errCut
	}
	d.ops = append(d.ops, op)
	if len(d.ops) == d.at {
		d.dead, d.cut = true, true
		if d.again > 0 {
			d.at, d.again = d.at+d.again, 0
		}
		return d.after, errCut
	}
	return true, nil
}

// do asks the fuse, and then lets f have its effect.
func (d *device) do(op string, f func() error) error {
	apply, err := d.effect(op)
	if apply {
		d.ok(f())
	}
	return err
}

// version returns what a slot holds.
func (d *device) version(id string) string {
	b, err := os.ReadFile(filepath.Join(d.dir, strings.ToLower(id)))
	d.ok(err)
	return d.names[string(b[:imageSize])]
}

// start is the boot stub: the boot script's rule, again and again until a slot comes up.
func (d *device) start() string {
	for range 20 {
		id, err := d.boot.start(d)
		d.ok(err)
		if id == "" {
			continue
		}
		switch v := d.version(id); {
		case v == "":
			d.t.Fatalf("%s, %s cut at %d after=%v: started half an image in slot %s", d.boot.name, d.bad, d.at, d.after, id)
		case v != "3.0" || d.bad != "unbootable":
			d.ok(os.WriteFile(d.slots.Cmdline, []byte("quiet rauc.slot="+id+"\n"), 0o600))
			return id
		}
	}
	d.t.Fatalf("%s, %s cut at %d after=%v: dead\n\t%s", d.boot.name, d.bad, d.at, d.after, updatetest.Ops(d.ops))
	return ""
}

func (d *device) machine(running string) *update.Machine {
	s, err := slot.Open(d.slots)
	d.ok(err)
	u, err := d.boot.open(d)
	d.ok(err)
	f, err := floor.Open(floor.Config{Dir: d.dir})
	d.ok(err)
	return &update.Machine{
		Source: d.src, Slots: cutSlots{s, d}, Boot: cutBoot{u, d}, Floor: cutFloor{f, d}, Journal: journal{d},
		Health: func(context.Context) error {
			if d.bad == "unhealthy" && d.version(running) == "3.0" {
				return errors.New("no link")
			}
			return nil
		},
		Reboot: func(context.Context, string) error { return d.do("reboot", func() error { return nil }) },
		Emit:   func(string, ...slog.Attr) {},
	}
}

// cutSlots holds back what is written to a slot until it is synced, as a cache in front of a flash does.
type cutSlots struct {
	*slot.Set
	d *device
}

func (s cutSlots) Writer(id update.SlotID, size int64) (update.Writer, error) {
	w, err := s.Set.Writer(id, size)
	if err != nil {
		return nil, err
	}
	return &cutWriter{w: w, d: s.d, size: size}, nil
}

type cutWriter struct {
	w       update.Writer
	d       *device
	pending [][]byte
	size    int64
}

func (w *cutWriter) Prefix(ctx context.Context, dst io.Writer, n int64) (int64, error) {
	return w.w.Prefix(ctx, dst, n)
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if err := w.d.do("write", func() error { w.pending = append(w.pending, bytes.Clone(p)); return nil }); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *cutWriter) Sync() error {
	return w.d.do("sync", func() error {
		for _, p := range w.pending {
			if _, err := w.w.Write(p); err != nil {
				return err
			}
		}
		w.pending = nil
		return w.w.Sync()
	})
}

func (w *cutWriter) Close() error { return w.w.Close() }

type cutBoot struct {
	update.Bootloader
	d *device
}

func (b cutBoot) Disarm(id update.SlotID) error {
	return b.d.do("disarm "+string(id), func() error { return b.Bootloader.Disarm(id) })
}

func (b cutBoot) Try(id update.SlotID, n int) error {
	return b.d.do("try "+string(id), func() error { return b.Bootloader.Try(id, n) })
}

func (b cutBoot) Keep(id update.SlotID) error {
	return b.d.do("keep "+string(id), func() error { return b.Bootloader.Keep(id) })
}

type cutFloor struct {
	*floor.File
	d *device
}

func (f cutFloor) Raise(v uint64) error {
	return f.d.do("raise", func() error { return f.File.Raise(v) })
}

// journal is a file that is replaced.
type journal struct{ d *device }

func (j journal) path() string { return filepath.Join(j.d.dir, "job") }

func (j journal) Load() (job update.Job, err error) {
	b, err := os.ReadFile(j.path())
	if errors.Is(err, os.ErrNotExist) {
		return job, nil
	}
	if err != nil {
		return job, err
	}
	return job, json.Unmarshal(b, &job)
}

func (j journal) Save(job update.Job) error {
	return j.d.do("save "+string(job.State), func() error {
		b, err := json.Marshal(job)
		if err != nil {
			return err
		}
		if err := os.WriteFile(j.path()+".new", b, 0o600); err != nil {
			return err
		}
		return os.Rename(j.path()+".new", j.path())
	})
}

// live starts the device until it has nothing to do.
func (d *device) live() {
	d.t.Helper()
	for range 20 {
		m := d.machine(d.start())
		d.dead = false
		err := m.Resume(d.t.Context())
		for i := 0; i < 3 && !d.dead && !errors.Is(err, update.ErrReboot); i++ {
			err = m.Run(d.t.Context())
		}
		if !d.dead && !errors.Is(err, update.ErrReboot) {
			d.verdict(m)
			return
		}
	}
	d.t.Fatalf("%s, %s cut at %d after=%v: no rest\n\t%s", d.boot.name, d.bad, d.at, d.after, updatetest.Ops(d.ops))
}

func (d *device) verdict(m *update.Machine) {
	d.t.Helper()
	s := m.Status()
	want, value, failed := update.SlotID("B"), uint64(3), d.bad != ""
	if d.boot.once && d.cut && s.Booted == "A" {
		failed = true
	}
	if failed {
		want, value = "A", 1
	}
	if s.State != update.Idle || s.Booted != want || s.Boot.Primary != want || s.Floor != value || (d.boot.name == "U-Boot, RAUC" && len(s.Boot.Order) != 1) ||
		len(s.History) != 1 || (len(s.Quarantine) == 1) != failed || d.version("A") != "2.0" || len(s.Problems) > 0 {
		d.t.Fatalf("%s, %q cut at %d after=%v: %+v\n\t%s", d.boot.name, d.bad, d.at, d.after, s, updatetest.Ops(d.ops))
	}
}

// TestCutFiles cuts before and after every effect, with every boot loader; the short run takes every eleventh.
func TestCutFiles(t *testing.T) {
	step := 11
	if os.Getenv("BACKSTAY_LONG") == "1" {
		step = 1
	}
	for _, l := range loaders() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			cuts := 0
			for _, bad := range []string{"", "unhealthy", "unbootable"} {
				newDevice(t, l, bad, 0, false).live()
				for at := 1; ; at += step {
					d := newDevice(t, l, bad, at, false)
					d.live()
					newDevice(t, l, bad, at, true).live()
					cuts += 2
					if len(d.ops) < at {
						break
					}
				}
			}
			cuts += cutTwice(t, l)
			t.Log(cuts, " cuts")
		})
	}
}

// cutTwice cuts a second time while the device recovers from the first; only the long run does it everywhere.
func cutTwice(t *testing.T, l loader) (cuts int) {
	t.Helper()
	step := 17
	if os.Getenv("BACKSTAY_LONG") == "1" {
		step = 1
	}
	for _, bad := range []string{"", "unhealthy", "unbootable"} {
		for at, reached := 1, true; reached; at += step {
			for again := 1; again <= 24; again += step {
				d := newDevice(t, l, bad, at, again%2 == 0)
				d.again = again
				d.live()
				reached = len(d.ops) >= at
				cuts += 2
			}
		}
	}
	return cuts
}
