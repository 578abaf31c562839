// SPDX-License-Identifier: Apache-2.0

package floor_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/floor"
)

var _ update.Floor = (*floor.Counted)(nil)

// counter is the hardware: a count that survives everything, and commands that fail before or after they took effect.
type counter struct {
	count         uint64
	failAt, calls int // the call that fails; 0: none
	after         bool
}

var errPower = errors.New("power cut")

func (c *counter) Read(context.Context) (uint64, error) { return c.count, nil }

func (c *counter) Next(context.Context) (uint64, error) {
	c.calls++
	fails := c.calls == c.failAt
	if !fails || c.after {
		if c.count++; c.count == 1 {
			c.count = 40 // as high as any counter of this TPM ever was
		}
	}
	if fails {
		return 0, errPower
	}
	return c.count, nil
}

func counted(t *testing.T, dir string, c floor.Counter) *floor.Counted {
	t.Helper()
	f, err := floor.OpenCounted(floor.Config{Dir: dir}, c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func wantCounted(t *testing.T, f update.Floor, v uint64) {
	t.Helper()
	if got, err := f.Get(); err != nil || got != v {
		t.Fatalf("floor is %d, %v; want %d", got, err, v)
	}
}

func wantRefused(t *testing.T, f update.Floor, code string) {
	t.Helper()
	got, err := f.Get()
	if r, is := errors.AsType[*update.Refusal](err); !is || r.Code != code || got != 0 {
		t.Fatalf("floor is %d, %v; want a refusal with code %s", got, err, code)
	}
	if err := f.Raise(99); !errors.Is(err, update.ErrRefused) {
		t.Fatalf("a floor that cannot be read was raised: %v", err)
	}
}

func snapshot(t *testing.T, dir string) (restore func()) {
	t.Helper()
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		for _, name := range []string{"floor.a", "floor.b", "floor.exists"} {
			b, err := os.ReadFile(filepath.Join(old, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
}

// TestCountedPutBack: whoever puts old files back stops installs, and does not lower the floor.
func TestCountedPutBack(t *testing.T) {
	dir, hw := t.TempDir(), &counter{}
	raise(t, open(t, dir), 3) // a device that had a floor in files only
	unbound := snapshot(t, dir)
	f := counted(t, dir, hw)
	wantCounted(t, f, 3)
	bound := snapshot(t, dir)
	for _, v := range []uint64{7, 5, 7} {
		if err := f.Raise(v); err != nil {
			t.Fatal(err)
		}
	}
	wantCounted(t, counted(t, dir, hw), 7)
	if hw.calls != 2 {
		t.Errorf("the counter rose %d times, want once to bind it and once for the floor that rose", hw.calls)
	}
	now := snapshot(t, dir)
	for name, old := range map[string]func(){"bound": bound, "unbound": unbound} {
		old()
		t.Log(name)
		wantRefused(t, counted(t, dir, hw), "floor-put-back")
	}
	now()
	wantCounted(t, counted(t, dir, hw), 7)

	// A TPM that was cleared, or another one: it counts from nothing, and the files are not adopted a second time.
	wantRefused(t, counted(t, dir, &counter{}), "floor-put-back")
	wantRefused(t, counted(t, dir, &counter{count: 1000}), "floor-put-back")

	// One copy is enough, whichever it is.
	for _, name := range []string{"floor.a", "floor.b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("damage"), 0o600); err != nil {
			t.Fatal(err)
		}
		wantCounted(t, counted(t, dir, hw), 7)
		if err := counted(t, dir, hw).Raise(0); err != nil { // repairs
			t.Fatal(err)
		}
		now()
	}
	for _, name := range []string{"floor.a", "floor.b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("damage"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wantRefused(t, counted(t, dir, hw), "floor-unreadable")
}

// TestCountedCut fails the counter before and after it rose, once and then again, and wants the floor to be the old or the new
// one, and a Raise that is repeated to succeed.
func TestCountedCut(t *testing.T) {
	for _, after := range []bool{false, true} {
		dir, hw := t.TempDir(), &counter{}
		f := counted(t, dir, hw)
		for v := uint64(1); v < 20; v += 3 {
			hw.failAt, hw.after = hw.calls+1, after
			if err := f.Raise(v); !errors.Is(err, errPower) || !errors.Is(err, update.ErrRetry) {
				t.Fatalf("%v", err)
			}
			f = counted(t, dir, hw) // the next boot
			want := v
			if !after {
				want = v - 1
			}
			wantCounted(t, f, want)
			if err := f.Raise(v + 1); err != nil {
				t.Fatal(err)
			}
			if err := f.Raise(v + 2); err != nil {
				t.Fatal(err)
			}
			wantCounted(t, counted(t, dir, hw), v+2)
		}
	}
}

// TestCountedFilesCut tears each file a Raise writes, as a cut between its writes leaves it: one copy is for the count that is.
func TestCountedFilesCut(t *testing.T) {
	dir, hw := t.TempDir(), &counter{}
	f := counted(t, dir, hw)
	for v := uint64(1); v < 6; v++ {
		before := map[string][]byte{}
		for _, name := range []string{"floor.a", "floor.b"} {
			before[name], _ = os.ReadFile(filepath.Join(dir, name))
		}
		if err := f.Raise(v); err != nil {
			t.Fatal(err)
		}
		after := snapshot(t, dir)
		for name, old := range before { // the other copy had not followed yet
			if err := os.WriteFile(filepath.Join(dir, name), old, 0o600); err != nil {
				t.Fatal(err)
			}
			wantCounted(t, counted(t, dir, hw), v)
			after()
		}
	}
}

// TestCountedBinding: files without a count beside a counter that rose are not believed, whoever removed the count.
func TestCountedBinding(t *testing.T) {
	dir, hw := t.TempDir(), &counter{failAt: 1, after: true}
	if _, err := floor.OpenCounted(floor.Config{Dir: dir}, hw); !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	wantRefused(t, counted(t, dir, hw), "floor-put-back")
}

// TestCountedOneCopy: with one copy damaged, a Raise that is cut writes over the other one only when it no longer holds.
func TestCountedOneCopy(t *testing.T) {
	for _, damaged := range []string{"floor.a", "floor.b"} {
		dir, hw := t.TempDir(), &counter{}
		f := counted(t, dir, hw)
		if err := f.Raise(5); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, damaged), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		hw.failAt = hw.calls + 1
		if err := f.Raise(6); !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		wantCounted(t, counted(t, dir, hw), 5)
	}
}
