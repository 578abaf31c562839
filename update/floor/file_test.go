// SPDX-License-Identifier: Apache-2.0

package floor_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/floor"
)

var _ update.Floor = (*floor.File)(nil)

func open(t *testing.T, dir string) *floor.File {
	t.Helper()
	f, err := floor.Open(floor.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func want(t *testing.T, f *floor.File, v uint64) {
	t.Helper()
	if got, err := f.Get(); err != nil || got != v {
		t.Fatalf("floor is %d, %v; want %d", got, err, v)
	}
}

func raise(t *testing.T, f *floor.File, v uint64) {
	t.Helper()
	if err := f.Raise(v); err != nil {
		t.Fatal(err)
	}
}

func TestRises(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	want(t, f, 0)
	raise(t, f, 7)
	raise(t, f, 3)
	want(t, f, 7)
	want(t, open(t, dir), 7)
	raise(t, f, math.MaxUint64)
	raise(t, f, 1)
	want(t, open(t, dir), math.MaxUint64)
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// unreadable wants a refusal, and never a number.
func unreadable(t *testing.T, dir string) {
	t.Helper()
	f, err := floor.Open(floor.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := f.Get(); !errors.Is(err, update.ErrRefused) || v != 0 {
		t.Fatalf("floor is %d, %v", v, err)
	}
	if err := f.Raise(9); !errors.Is(err, update.ErrRefused) {
		t.Fatalf("a floor that cannot be read was raised: %v", err)
	}
}

// TestDamage spoils every byte of one copy and of both, and removes them.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	raise(t, open(t, dir), 41)
	paths := []string{filepath.Join(dir, "floor.a"), filepath.Join(dir, "floor.b")}
	intact, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	put := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range intact {
		bad := append([]byte(nil), intact...)
		bad[i] ^= 1
		put(paths[0], bad)
		put(paths[1], intact)
		want(t, open(t, dir), 41)
		put(paths[1], bad)
		unreadable(t, dir)
		put(paths[0], intact[:i])
		unreadable(t, dir)
	}
	put(paths[0], append(intact, intact...))
	unreadable(t, dir)

	put(paths[1], intact)
	raise(t, open(t, dir), 0) // repairs
	if b, _ := os.ReadFile(paths[0]); string(b) != string(intact) {
		t.Errorf("the damaged copy was not repaired: %q", b)
	}
}

// TestMissing holds that files which were there once are missed.
func TestMissing(t *testing.T) {
	dir := t.TempDir()
	raise(t, open(t, dir), 5)
	remove := func(names ...string) {
		t.Helper()
		for _, n := range names {
			if err := os.Remove(filepath.Join(dir, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove("floor.a")
	want(t, open(t, dir), 5)
	raise(t, open(t, dir), 6)
	remove("floor.b", "floor.exists")
	want(t, open(t, dir), 6)
	raise(t, open(t, dir), 6)
	remove("floor.a", "floor.b")
	unreadable(t, dir)

	remove("floor.exists")
	f, err := floor.Open(floor.Config{Dir: dir, Provisioned: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Get(); !errors.Is(err, update.ErrRefused) {
		t.Errorf("a floor that the device remembers is missing, and reads as %v", err)
	}
}

// TestBehind holds a Raise that was cut between its two copies, whichever came first.
func TestBehind(t *testing.T) {
	for _, name := range []string{"floor.a", "floor.b"} {
		dir := t.TempDir()
		f := open(t, dir)
		raise(t, f, 1)
		old, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		raise(t, f, 2)
		if err := os.WriteFile(filepath.Join(dir, name), old, 0o600); err != nil {
			t.Fatal(err)
		}
		want(t, open(t, dir), 2)
		raise(t, open(t, dir), 2)
		if now, _ := os.ReadFile(filepath.Join(dir, name)); string(now) == string(old) {
			t.Error("the copy stays behind")
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", "relative", file, file + ".none"} {
		if _, err := floor.Open(floor.Config{Dir: dir}); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%q: %v", dir, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("backstay floor 1\n7\n0\n"))
	f.Add([]byte("backstay floor 1\n00\n\n"))
	f.Add([]byte("backstay floor 2\n7\n0\n0\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := floor.Decode(string(b))
		if err == nil && floor.Encode(v) != string(b) {
			t.Fatalf("%q is a second form of %+v", b, v)
		}
	})
}
