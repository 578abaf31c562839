// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// start are the variables of the golden vectors.
var start = []string{"BOOT_ORDER=A B", "BOOT_A_LEFT=3", "BOOT_B_LEFT=3"}

const startHex = "424f4f545f4f524445523d41204200424f4f545f415f4c4546543d3300424f4f545f425f4c4546543d3300"

// bed is an environment in files of a test.
type bed struct {
	t      testing.TB
	config boot.Config
}

// newBed returns areas of size bytes in one file per copy, each at an offset.
func newBed(t testing.TB, copies int, size, offset int64) *bed {
	t.Helper()
	dir := t.TempDir()
	b := &bed{t: t, config: boot.Config{Locks: []string{filepath.Join(dir, "lock1"), filepath.Join(dir, "lock2")}}}
	for i := range copies {
		path := filepath.Join(dir, fmt.Sprint("env", i))
		if err := os.WriteFile(path, bytes.Repeat([]byte{0xff}, int(offset+size)), 0o600); err != nil {
			t.Fatal(err)
		}
		b.config.Areas = append(b.config.Areas, boot.Area{Path: path, Offset: offset, Size: size})
	}
	return b
}

func (b *bed) create(order binary.ByteOrder, entries ...string) *bed {
	b.t.Helper()
	if err := boot.Create(b.config, order, entries); err != nil {
		b.t.Fatal(err)
	}
	return b
}

func (b *bed) raw(i int) []byte {
	b.t.Helper()
	a := b.config.Areas[i]
	all, err := os.ReadFile(a.Path)
	if err != nil {
		b.t.Fatal(err)
	}
	return all[a.Offset : a.Offset+a.Size]
}

func (b *bed) put(i int, raw []byte) {
	b.t.Helper()
	f, err := os.OpenFile(b.config.Areas[i].Path, os.O_RDWR, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(raw, b.config.Areas[i].Offset); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) load() *boot.Env {
	b.t.Helper()
	e, err := boot.Load(b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

func (b *bed) set(name, value string) {
	b.t.Helper()
	if err := boot.Update(b.config, func(e *boot.Env) error { return e.Set(name, value) }); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) want(entries ...string) {
	b.t.Helper()
	if got := b.load().All(); !slices.Equal(got, entries) {
		b.t.Fatalf("environment is %q, want %q", got, entries)
	}
}

// TestGolden holds the three vectors that U-Boot's own tool, libubootenv and mkenvimage all accept.
func TestGolden(t *testing.T) {
	for _, v := range []struct {
		name   string
		copies int
		order  binary.ByteOrder
		hex    string
	}{
		{"single little-endian", 1, binary.LittleEndian, "8b766edc" + startHex + strings.Repeat("00", 17)},
		{"redundant little-endian", 2, binary.LittleEndian, "083411b701" + startHex + strings.Repeat("00", 16)},
		{"redundant big-endian", 2, binary.BigEndian, "b711340801" + startHex + strings.Repeat("00", 16)},
	} {
		t.Run(v.name, func(t *testing.T) {
			b := newBed(t, v.copies, 0x40, 0).create(v.order, start...)
			if got := hex.EncodeToString(b.raw(0)); got != v.hex {
				t.Errorf("written\n%s, want\n%s", got, v.hex)
			}
			b.want(start...)
		})
	}
}

// TestCopies holds the choice between two copies by their flags, for the pairs measured with three tools.
func TestCopies(t *testing.T) {
	for _, v := range []struct{ a, b, want byte }{
		{0, 0, 0}, {1, 1, 0}, {255, 255, 0}, {0, 1, 1}, {1, 0, 0}, {255, 0, 1}, {0, 255, 0}, {254, 255, 1}, {255, 254, 0},
		{1, 2, 1}, {2, 1, 0}, {127, 128, 1}, {0, 254, 1},
	} {
		b := newBed(t, 2, 0x40, 0).create(binary.LittleEndian, "x=1")
		for i, f := range []byte{v.a, v.b} {
			one := newBed(t, 2, 0x40, 0).create(binary.LittleEndian, fmt.Sprint("copy=", i)).raw(0)
			one[4] = f
			b.put(i, one)
		}
		b.want(fmt.Sprint("copy=", v.want))
	}
}

// TestSave holds what a change does to the bytes.
func TestSave(t *testing.T) {
	b := newBed(t, 2, 0x100, 0x80).create(binary.BigEndian, "a=1", "secret=hunter2", "z=9")
	first := bytes.Clone(b.raw(0))
	if err := boot.Update(b.config, func(e *boot.Env) error {
		return errors.Join(e.Set("secret", ""), e.Set("a", "2"), e.Set("new", "5"))
	}); err != nil {
		t.Fatal(err)
	}
	b.want("a=2", "z=9", "new=5")
	if !bytes.Equal(b.raw(0), first) {
		t.Error("the copy that was current has changed")
	}
	if bytes.Contains(b.raw(1), []byte("hunter2")) {
		t.Error("a deleted value is still in the padding")
	}
	if b.raw(1)[4] != 2 {
		t.Errorf("flags of the new copy are %d", b.raw(1)[4])
	}
	second := bytes.Clone(b.raw(1))
	b.set("z", "9")
	if !bytes.Equal(b.raw(0), first) || !bytes.Equal(b.raw(1), second) {
		t.Error("a change that changes nothing was written")
	}
	whole, err := os.ReadFile(b.config.Areas[0].Path)
	if err != nil || len(whole) != 0x180 || !bytes.Equal(whole[:0x80], bytes.Repeat([]byte{0xff}, 0x80)) {
		t.Error("bytes outside the area have changed")
	}
}

// TestFlagsWrap crosses 255 in both directions of the copies.
func TestFlagsWrap(t *testing.T) {
	b := newBed(t, 2, 0x40, 0).create(binary.LittleEndian, "n=0")
	for i := 1; i <= 600; i++ {
		b.set("n", fmt.Sprint(i))
		b.want(fmt.Sprint("n=", i))
	}
}

// TestTorn cuts the write of a copy after every byte: the environment is the old one or the new one, never none.
func TestTorn(t *testing.T) {
	b := newBed(t, 2, 0x80, 0).create(binary.LittleEndian, start...)
	old := bytes.Clone(b.raw(1))
	b.set("BOOT_A_LEFT", "2")
	fresh := bytes.Clone(b.raw(1))
	after := b.load().All()
	for n := range fresh {
		for _, torn := range [][]byte{slices.Concat(fresh[:n], old[n:]), slices.Concat(old[:n], fresh[n:])} {
			b.put(1, torn)
			if got := b.load().All(); !slices.Equal(got, start) && !slices.Equal(got, after) {
				t.Fatalf("torn at %d: %q", n, got)
			}
		}
	}
}

// TestRefuse holds everything that must not be taken for an environment, or be made one.
func TestRefuse(t *testing.T) {
	t.Run("both copies damaged", func(t *testing.T) {
		b := newBed(t, 2, 0x40, 0)
		before := bytes.Clone(b.raw(0))
		err := boot.Update(b.config, func(e *boot.Env) error { return e.Set("a", "1") })
		if !errors.Is(err, update.ErrSetup) {
			t.Errorf("error is %v", err)
		}
		if !bytes.Equal(b.raw(0), before) {
			t.Error("an environment was made up")
		}
	})
	t.Run("only copy damaged", func(t *testing.T) {
		if _, err := boot.Load(newBed(t, 1, 0x40, 0).config); !errors.Is(err, update.ErrSetup) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("one copy damaged", func(t *testing.T) {
		b := newBed(t, 2, 0x40, 0).create(binary.LittleEndian, "a=1")
		b.put(0, make([]byte, 0x40))
		b.want("a=1")
		b.set("a", "2") // heals the damaged one
		b.want("a=2")
		if bytes.Equal(b.raw(0), make([]byte, 0x40)) {
			t.Error("the damaged copy was not the one written")
		}
	})
	t.Run("two byte orders", func(t *testing.T) {
		b := newBed(t, 2, 0x40, 0).create(binary.LittleEndian, "a=1")
		b.put(1, newBed(t, 2, 0x40, 0).create(binary.BigEndian, "a=2").raw(0))
		if _, err := boot.Load(b.config); !errors.Is(err, update.ErrSetup) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("the other byte order", func(t *testing.T) {
		b := newBed(t, 1, 0x40, 0).create(binary.LittleEndian, "a=1")
		b.config.Order = binary.BigEndian
		if _, err := boot.Load(b.config); !errors.Is(err, update.ErrSetup) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("no end", func(t *testing.T) {
		b := newBed(t, 1, 0x40, 0)
		raw := bytes.Repeat([]byte("x"), 0x40)
		putCRC(raw)
		b.put(0, raw)
		if _, err := boot.Load(b.config); !errors.Is(err, update.ErrSetup) {
			t.Errorf("error is %v", err)
		}
	})
	b := newBed(t, 1, 0x40, 0).create(binary.LittleEndian, "a=1")
	for name, v := range map[string][2]string{
		"empty name": {"", "x"}, "equals sign": {"a=b", "x"}, "space in name": {"a b", "x"}, "newline in name": {"a\n", "x"},
		"NUL in name": {"a\x00", "x"}, "NUL in value": {"b", "x\x00y=z"}, "too long": {"long", strings.Repeat("x", 0x40)},
	} {
		if err := b.load().Set(v[0], v[1]); err == nil {
			t.Errorf("%s: was set", name)
		}
	}
}

// TestFlags holds the access and type of variables that the environment itself lays down.
func TestFlags(t *testing.T) {
	b := newBed(t, 1, 0x200, 0).create(binary.LittleEndian,
		".flags=serial#:sr,eth:mo,count:d,size:x,flag:b,ip:i,fixed:sc,odd:s?,what:q", "serial#=123", "eth=02:00:00:00:00:01", "fixed=1")
	for _, v := range []struct {
		name, value string
		ok          bool
	}{
		{"serial#", "123", true}, {"serial#", "124", false}, {"serial#", "", false},
		{"eth", "02:00:00:00:00:02", false}, {"eth", "02:00:00:00:00:01", true}, {"fixed", "2", false},
		{"count", "12", true}, {"count", "0x12", false}, {"size", "1f", true}, {"size", "0x1F", true}, {"size", "g", false},
		{"flag", "1", true}, {"flag", "n", true}, {"flag", "2", false}, {"ip", "10.0.0.1", true}, {"ip", "10.0.0", false},
		{"odd", "1", false}, {"what", "1", false}, {"free", "x", true},
	} {
		if err := b.load().Set(v.name, v.value); (err == nil) != v.ok {
			t.Errorf("set %s to %q: %v", v.name, v.value, err)
		}
	}
	once := newBed(t, 1, 0x80, 0).create(binary.LittleEndian, ".flags=eth:mo", "x=1")
	once.set("eth", "02:00:00:00:00:02")
}

// TestTwice holds a name that is there twice: U-Boot takes the last.
func TestTwice(t *testing.T) {
	b := newBed(t, 1, 0x80, 0).create(binary.LittleEndian, "a=1", "b=2", "a=3", "noise")
	if v, _ := b.load().Get("a"); v != "3" {
		t.Errorf("a is %q", v)
	}
	b.set("a", "4")
	b.want("b=2", "a=4", "noise")
	b.set("a", "")
	b.want("b=2", "noise")
}

// TestChanged holds that a stale environment is not written over a newer one.
func TestChanged(t *testing.T) {
	b := newBed(t, 2, 0x80, 0).create(binary.LittleEndian, "a=1")
	e := b.load()
	b.set("a", "2")
	if err := e.Set("a", "3"); err != nil {
		t.Fatal(err)
	}
	if err := e.Save(); !errors.Is(err, boot.ErrChanged) || !errors.Is(err, update.ErrRetry) {
		t.Errorf("error is %v", err)
	}
	b.want("a=2")
	e = b.load()
	for i := range 4 {
		if err := errors.Join(e.Set("a", fmt.Sprint(i)), e.Save()); err != nil {
			t.Fatal(err)
		}
		b.want(fmt.Sprint("a=", i))
	}
}

// TestSingleFile holds that a single environment which is a file of its own is replaced, not overwritten.
func TestSingleFile(t *testing.T) {
	b := newBed(t, 1, 0x80, 0).create(binary.LittleEndian, "a=1")
	old, err := os.Open(b.config.Areas[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	b.set("a", "2")
	was := make([]byte, 0x80)
	if _, err := old.ReadAt(was, 0); err != nil || !bytes.Contains(was, []byte("a=1")) {
		t.Error("the old file was overwritten in place")
	}
	b.want("a=2")
	if left, _ := filepath.Glob(b.config.Areas[0].Path + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func native() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return binary.LittleEndian
	}
	return binary.BigEndian
}
