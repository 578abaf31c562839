// SPDX-License-Identifier: Apache-2.0

package updatetest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
	"github.com/backstay/backstay/update/floor"
	"github.com/backstay/backstay/update/slot"
	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
	"github.com/backstay/backstay/update/updatetest"
)

const (
	rigImage = 1 << 20
	hardware = "acme-cam-v2"
)

// rig is a whole device in front of a server that an attacker may hold: the real trust client, machine, slots, boot environment
// and floor. It runs release 2.0.0 with counter 5 from slot A, has seen the metadata that say so, and its floor is 5.
type rig struct {
	t      *testing.T
	repo   *trusttest.Repo
	wrap   func(http.ResponseWriter, *http.Request) bool // answers a request in place of the repository
	serial uint64
	now    time.Time
	self   update.Device
	config trust.Config
	slots  slot.Config
	env    boot.Config
	floor  *floor.File
	jobs   *updatetest.Journal
	events []string
	before [2][]byte // what the slots held
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	r := &rig{t: t, repo: trusttest.New(t), now: trusttest.Start.Add(time.Hour), jobs: &updatetest.Journal{},
		self: update.Device{ID: "unit1", Product: trusttest.Product, Compatible: hardware, Version: "2.0.0", Agent: "0.1.0", Floor: 5}}
	url := r.repo.Serve(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if r.wrap == nil || !r.wrap(w, req) {
				next.ServeHTTP(w, req)
			}
		})
	})
	r.config = trust.Config{FactoryRoot: r.repo.Factory, MetadataURL: url + "/metadata", TargetsURL: url + "/targets/", Store: &trusttest.Store{},
		Now: func() time.Time { return r.now }}
	r.before = [2][]byte{updatetest.Image("2.0.0", rigImage), updatetest.Image("factory", rigImage)}
	r.ok(errors.Join(os.WriteFile(path("a"), r.before[0], 0o600), os.WriteFile(path("b"), r.before[1], 0o600),
		os.WriteFile(path("cmdline"), []byte("quiet rauc.slot=A\n"), 0o600), os.WriteFile(path("env"), make([]byte, 0x2000), 0o600)))
	r.slots = slot.Config{Cmdline: path("cmdline"), Slots: map[update.SlotID]slot.Device{
		"A": {Kind: slot.File, Path: path("a")}, "B": {Kind: slot.File, Path: path("b")}}}
	r.env = boot.Config{Locks: []string{path("lock")}, Areas: []boot.Area{{Path: path("env"), Size: 0x1000}, {Path: path("env"), Offset: 0x1000, Size: 0x1000}}}
	r.ok(boot.Create(r.env, binary.LittleEndian, []string{"BOOT_ORDER=A", "BOOT_A_LEFT=3", "BOOT_B_LEFT=0"}))
	f, err := floor.Open(floor.Config{Dir: dir})
	r.ok(errors.Join(err, f.Raise(5)))
	r.floor = f
	r.release("2.0.0", 5, r.before[0])
	r.assign("2.0.0", 5, r.before[0])
	r.repo.Publish()
	if err := r.attempt(); err != nil && !errors.Is(err, update.ErrNothing) {
		t.Fatalf("the device is not up to date at the start: %v", err)
	}
	return r
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// release makes the product role vouch for an image, which is served.
func (r *rig) release(version string, counter uint64, image []byte) {
	r.t.Helper()
	r.repo.AddTarget(trusttest.ProductRole, update.ImagePath(trusttest.Product, version), image, custom(version, counter))
}

func custom(version string, counter uint64) map[string]any {
	return map[string]any{"backstay": 1, "product": trusttest.Product, "compatible": []string{hardware}, "version": version,
		"counter": counter, "floor": min(5, counter), "kind": "full", "class": "security"}
}

// assign makes the online role send an image to everybody.
func (r *rig) assign(version string, counter uint64, image []byte) {
	r.t.Helper()
	r.assignPath(update.Assigned{Path: update.ImagePath(trusttest.Product, version), SHA256: sha256.Sum256(image), Length: int64(len(image)),
		Counter: counter, To: 100, Downgrade: true})
}

func (r *rig) assignPath(a update.Assigned) {
	r.t.Helper()
	r.serial++
	raw, err := json.Marshal(update.Assignment{Product: trusttest.Product, Serial: r.serial, Issued: r.repo.Now, Entries: []update.Assigned{a}})
	r.ok(err)
	r.repo.AddTarget("assign", update.AssignmentPath(trusttest.Product), raw, nil)
}

// offer releases, assigns and publishes.
func (r *rig) offer(version string, counter uint64) []byte {
	r.t.Helper()
	image := updatetest.Image(version, rigImage)
	r.release(version, counter, image)
	r.assign(version, counter, image)
	r.repo.Publish()
	return image
}

// served is where the repository serves an image.
func served(version string, image []byte) string {
	sum := sha256.Sum256(image)
	return "targets/firmware/" + trusttest.Product + "/" + hexOf(sum[:]) + "." + version + ".img"
}

// bend changes the served metadata of a role after it was signed, and pins what it is now as somebody with the online keys can.
func (r *rig) bend(role string, f func([]byte) []byte) {
	r.t.Helper()
	name := metadataName(r.repo.Roles[role].Signed.Version, role)
	raw := f(bytes.Clone(r.repo.File(name)))
	r.repo.SetFile(name, raw)
	r.repo.Snapshot.Signed.Meta[role+".json"] = trusttest.Pin(raw, r.repo.Roles[role].Signed.Version)
	r.repo.Snapshot.Signed.Version++
	r.repo.SignSnapshot()
	r.repo.Timestamp.Signed.Version++
	r.repo.SignTimestamp()
}

// attempt is one look of the device, after a restart of its agent. An installation ends in update.ErrReboot.
func (r *rig) attempt() error {
	r.t.Helper()
	client, err := trust.New(r.config)
	if err != nil {
		return err
	}
	slots, err := slot.Open(r.slots)
	r.ok(err)
	loader, err := boot.Open(boot.Options{Env: r.env, Convention: boot.RAUC})
	r.ok(err)
	m := &update.Machine{
		Source: trust.NewSource(client, func(context.Context) (update.Device, error) { return r.self, nil }),
		Slots:  slots, Boot: loader, Floor: r.floor, Journal: r.jobs,
		Health: func(context.Context) error { return nil }, Reboot: func(context.Context, string) error { return nil },
		Emit: func(code string, _ ...slog.Attr) { r.events = append(r.events, code) }, Now: func() time.Time { return r.now },
	}
	if err := m.Resume(r.t.Context()); err != nil {
		return err
	}
	return m.Run(r.t.Context())
}

// safe holds what must be true after every attack: the running slot is as it was, the boot loader starts it and nothing else,
// and the floor has not moved. It reports whether the other slot was written to.
func (r *rig) safe() (touched bool) {
	r.t.Helper()
	a, errA := os.ReadFile(r.slots.Slots["A"].Path)
	b, errB := os.ReadFile(r.slots.Slots["B"].Path)
	loader, errL := boot.Open(boot.Options{Env: r.env, Convention: boot.RAUC})
	r.ok(errors.Join(errA, errB, errL))
	s, err := loader.State()
	r.ok(err)
	if !bytes.Equal(a, r.before[0]) {
		r.t.Error("the running slot was changed")
	}
	if s.Primary != "A" || slices.Contains(s.Order, "B") || s.Left["A"] != 3 {
		r.t.Errorf("the boot loader would start %+v", s)
	}
	if v, err := r.floor.Get(); err != nil || v != 5 {
		r.t.Errorf("the floor is %d, %v", v, err)
	}
	return !bytes.Equal(b, r.before[1])
}

// code names the reason of a refusal, "" when there was none.
func code(err error) string {
	if no, is := errors.AsType[*update.Refusal](err); is {
		return no.Code
	}
	return ""
}
