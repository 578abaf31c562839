// SPDX-License-Identifier: Apache-2.0

package slot_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/internal/flash"
	"github.com/backstay/backstay/update/slot"
	"github.com/backstay/backstay/update/updatetest"
)

const (
	blockLen = 2048
	pageLen  = 256
)

func chip(t *testing.T, m *memory, nand bool) slot.Medium {
	t.Helper()
	page := m.page
	c, err := slot.NewChip(m, int64(len(m.cells)), m.block, page, nand)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// store writes an image in pieces of n bytes to a medium, from the part it keeps of from bytes on.
func store(t *testing.T, c slot.Medium, image []byte, from int64, n int) error {
	t.Helper()
	w, err := slot.WriterOf(c, "B", int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	var prefix bytes.Buffer
	kept, err := w.Prefix(t.Context(), &prefix, from)
	if err != nil {
		return err
	}
	if int64(prefix.Len()) != kept || kept > from {
		t.Fatalf("of %d bytes %d are kept and %d given out", from, kept, prefix.Len())
	}
	for at := int(kept); at < len(image); at += n {
		if _, err := w.Write(image[at:min(at+n, len(image))]); err != nil {
			return err
		}
	}
	if _, err := w.Write([]byte{1}); err == nil {
		t.Error("a byte past the announced size was taken")
	}
	return errors.Join(w.Sync(), w.Close())
}

func check(t *testing.T, m *memory, image []byte) {
	t.Helper()
	if !bytes.Equal(m.image(len(image)), image) {
		t.Error("a boot loader does not find the image")
	}
	if len(m.sins) > 0 {
		t.Errorf("%s", strings.Join(m.sins, "; "))
	}
}

// holes is an image with pages and a whole block of ones, whose end fills no page.
func holes(n int) []byte {
	image := updatetest.Image("flash", n)
	for i := 3 * pageLen; i < 5*pageLen; i++ {
		image[i] = 0xff
	}
	for i := 2 * blockLen; i < 3*blockLen; i++ {
		image[i] = 0xff
	}
	return image
}

func TestFlash(t *testing.T) {
	image := holes(9*blockLen + 777)
	for _, n := range []int{100, 4096, 1 << 20} {
		m := newMemory(16, blockLen, pageLen, 0, 4, 5)
		bad := bytes.Clone(m.cells[4*blockLen : 6*blockLen])
		c := chip(t, m, true)
		if err := store(t, c, image, 0, n); err != nil {
			t.Fatal(err)
		}
		check(t, m, image)
		if !bytes.Equal(m.cells[4*blockLen:6*blockLen], bad) {
			t.Error("a bad block was touched")
		}
		if c.Size() != 13*blockLen {
			t.Errorf("room for %d bytes", c.Size())
		}
		if want := int64(10*pageLen*8 - 2*pageLen - blockLen - 4*pageLen); m.programmed != want {
			t.Errorf("%d bytes programmed, want %d: pages of ones stay erased", m.programmed, want)
		}
		if tail := m.cells[13*blockLen:]; !blank(tail) || !blank(m.image(13 * blockLen)[len(image):]) {
			t.Error("what is behind the image was not erased")
		}
		// Read as the delta decoder reads: anywhere, over a bad block.
		p := make([]byte, 3*blockLen)
		if k, err := c.ReadAt(p, 2*blockLen+100); k != len(p) || err != nil || !bytes.Equal(p, image[2*blockLen+100:5*blockLen+100]) {
			t.Errorf("read %d bytes, %v", k, err)
		}
		if k, err := c.ReadAt(p, c.Size()-10); k != 10 || err == nil {
			t.Errorf("read %d bytes past the end, %v", k, err)
		}
	}
}

// TestFlashResume continues in the middle of a block: the block is erased and written again as a whole.
func TestFlashResume(t *testing.T) {
	image := holes(5*blockLen + 10)
	m := newMemory(10, blockLen, pageLen, 1)
	w, err := slot.WriterOf(chip(t, m, true), "B", int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(image[:3*blockLen+700]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Sync(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if n := len(m.erased); n != 3 {
		t.Errorf("%d blocks erased before the rest of the image is there", n)
	}
	c := chip(t, m, true)
	w, err = slot.WriterOf(c, "B", int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	kept, err := w.Prefix(t.Context(), h, 3*blockLen+700)
	if want := sha256.Sum256(image[:3*blockLen]); kept != 3*blockLen || err != nil || [32]byte(h.Sum(nil)) != want {
		t.Fatalf("kept %d, %v", kept, err)
	}
	if _, err := w.Write(image[kept:]); err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(); err != nil {
		t.Fatal(err)
	}
	check(t, m, image)
	if _, err := w.Prefix(t.Context(), h, int64(len(image))+1); err == nil {
		t.Error("a prefix longer than the image")
	}
}

// TestFlashWear lets blocks fail: the image goes on in the next one, and the block is marked.
func TestFlashWear(t *testing.T) {
	image := holes(6 * blockLen)
	for name, wear := range map[string]func(*memory){
		"erase":   func(m *memory) { m.eraseFails[4] = unix.EIO },
		"program": func(m *memory) { m.writeFails[4] = unix.EIO },
		"silent":  func(m *memory) { m.forgets[4] = true },
	} {
		m := newMemory(120, blockLen, pageLen, 1)
		wear(m)
		c := chip(t, m, true)
		if err := store(t, c, image, 0, 1000); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		check(t, m, image)
		if !m.marked[4] || len(m.marked) != 2 || c.Size() != 118*blockLen {
			t.Errorf("%s: marked %v", name, m.marked)
		}
	}
	t.Run("behind the image", func(t *testing.T) {
		m := newMemory(120, blockLen, pageLen)
		m.eraseFails[119], m.eraseFails[50] = unix.EIO, unix.EIO
		if err := store(t, chip(t, m, true), image, 0, 1000); err != nil || !m.marked[119] || !m.marked[50] || len(m.marked) != 2 {
			t.Errorf("marked %v, %v", m.marked, err)
		}
	})
	t.Run("everything fails", func(t *testing.T) {
		m := newMemory(120, blockLen, pageLen)
		for b := range int64(120) {
			m.writeFails[b] = unix.EIO
		}
		err := store(t, chip(t, m, true), image, 0, 1000)
		if !errors.Is(err, unix.EIO) || len(m.marked) != 0 {
			t.Errorf("a broken controller cost %d blocks: %v", len(m.marked), err)
		}
	})
	t.Run("too many", func(t *testing.T) {
		m := newMemory(100, blockLen, pageLen) // two may go
		m.eraseFails[1], m.eraseFails[3], m.eraseFails[5] = unix.EIO, unix.EIO, unix.EIO
		if err := store(t, chip(t, m, true), image, 0, 1000); !errors.Is(err, unix.EIO) || len(m.marked) != 2 {
			t.Errorf("marked %v, %v", m.marked, err)
		}
	})
	t.Run("not wear", func(t *testing.T) {
		for _, no := range []error{unix.EROFS, unix.ENODEV} {
			m := newMemory(100, blockLen, pageLen)
			m.eraseFails[1] = no
			if err := store(t, chip(t, m, true), image, 0, 1000); !errors.Is(err, no) || len(m.marked) != 0 {
				t.Errorf("marked %v, %v", m.marked, err)
			}
		}
	})
	t.Run("no room left", func(t *testing.T) {
		m := newMemory(7, blockLen, pageLen)
		m.eraseFails[1], m.eraseFails[3] = unix.EIO, unix.EIO
		if err := store(t, chip(t, m, true), image, 0, 1000); err == nil || !strings.Contains(err.Error(), "no good block") {
			t.Errorf("%v", err)
		}
	})
	t.Run("after a failure nothing more is taken", func(t *testing.T) {
		m := newMemory(10, blockLen, pageLen)
		m.eraseFails[0] = unix.EROFS
		w, _ := slot.WriterOf(chip(t, m, true), "B", blockLen)
		_, err := w.Write(image[:blockLen])
		if err2 := w.Sync(); err == nil || err2 == nil {
			t.Errorf("%v, %v", err, err2)
		}
		if len(m.erased) > 0 {
			t.Error("the rest was erased all the same")
		}
	})
}

// TestFlashNOR has no bad blocks and no marks; what reads as erased behind the image is left alone, because erasing is slow.
func TestFlashNOR(t *testing.T) {
	image := holes(3*blockLen + 5)
	m := newMemory(8, blockLen, 1)
	for i := 5 * blockLen; i < 7*blockLen; i++ {
		m.cells[i] = 0xff
	}
	if err := store(t, chip(t, m, false), image, 0, 1000); err != nil {
		t.Fatal(err)
	}
	check(t, m, image)
	var erased []int64
	for b := range m.erased {
		erased = append(erased, b)
	}
	if slices.Sort(erased); !slices.Equal(erased, []int64{0, 1, 2, 3, 4, 7}) {
		t.Errorf("erased %v", erased)
	}
	// Nothing is left to write, and the rest is still looked at.
	m.cells[6*blockLen] = 0
	if err := store(t, chip(t, m, false), image[:3*blockLen], 3*blockLen, 1000); err != nil || !blank(m.cells[3*blockLen:]) {
		t.Errorf("a complete prefix: %v", err)
	}
	m.eraseFails[2] = unix.EIO
	if err := store(t, chip(t, m, false), image, 0, 1000); !errors.Is(err, unix.EIO) || len(m.marked) != 0 {
		t.Errorf("marked %v, %v", m.marked, err)
	}
}

func TestFlashGeometry(t *testing.T) {
	for _, g := range [][3]int64{{0, 2048, 512}, {1 << 20, 0, 512}, {1 << 20, 2048, 0}, {1 << 20, 2048, 600}, {1024, 2048, 512}, {1 << 40, 16 << 20, 512}, {1 << 40, 512, 512}} {
		if _, err := slot.NewChip(newMemory(1, 1, 1), g[0], g[1], g[2], false); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%v: %v", g, err)
		}
	}
}

func TestVolume(t *testing.T) {
	image := holes(9*blockLen + 777)
	v := newVolume(16, blockLen)
	open := func() slot.Medium {
		s, err := slot.NewStore(v)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	held := func() []byte {
		p := make([]byte, len(image))
		if _, err := v.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if err := store(t, open(), image, 0, 1000); err != nil || !bytes.Equal(held(), image) {
		t.Fatalf("%v", err)
	}
	for leb := 10; leb < 16; leb++ {
		if v.lebs[leb] != nil {
			t.Errorf("block %d behind the image is still there", leb)
		}
	}
	// Only what differs is changed.
	v.changes, image[5*blockLen] = 0, image[5*blockLen]^1
	if err := store(t, open(), image, 0, 1000); err != nil || v.changes != 1 || !bytes.Equal(held(), image) {
		t.Errorf("%d changes, %v", v.changes, err)
	}
	// Writing continues at the start of a block.
	v.changes, image[4*blockLen], image[6*blockLen] = 0, image[4*blockLen]^1, image[6*blockLen]^1
	if err := store(t, open(), image, 5*blockLen+100, 1000); err != nil || v.changes != 1 || bytes.Equal(held(), image) {
		t.Errorf("%d changes, %v", v.changes, err)
	}
	// An update as a whole was cut.
	v.damaged = true
	if err := store(t, open(), image, 5*blockLen, 1000); err != nil || !bytes.Equal(held(), image) {
		t.Errorf("%v", err)
	}
	v.busy, v.lebs[0] = true, nil
	if err := store(t, open(), image, 0, 1000); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a mounted volume: %v", err)
	}
}

func TestVolumeStatic(t *testing.T) {
	image := holes(9*blockLen + 777)
	v := newVolume(16, blockLen)
	v.static, v.held = true, []byte("what was there")
	c, err := slot.NewStore(v)
	if err != nil {
		t.Fatal(err)
	}
	w, err := slot.WriterOf(c, "B", int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := w.Prefix(t.Context(), &bytes.Buffer{}, 14); kept != 0 || err != nil || string(v.held) != "what was there" {
		t.Errorf("kept %d, %v, %q", kept, err, v.held)
	}
	if err := errors.Join(w.Close(), store(t, c, image, 14, 1000)); err != nil || !bytes.Equal(v.held, image) || v.damaged {
		t.Errorf("%v", err)
	}
	if c.Size() != 14 {
		t.Error("what can be read is what was there when it was opened")
	}
	v.damaged = true
	if c, err = slot.NewStore(v); err != nil || c.Size() != 0 {
		t.Errorf("a damaged volume can be read: %v", err)
	}
	for _, g := range []flash.VolumeInfo{{}, {LEB: 100, Size: 150}, {LEB: 16 << 20, Size: 16 << 20}, {LEB: 100, Size: 1000, Data: 1001}, {LEB: 100, Size: 1 << 40}} {
		if _, err := slot.NewStore(shape{v, g}); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%+v: %v", g, err)
		}
	}
}

// shape is a volume that says other things about itself.
type shape struct {
	flash.Volume
	info flash.VolumeInfo
}

func (s shape) Info() flash.VolumeInfo {
	return s.info
}
