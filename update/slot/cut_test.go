// SPDX-License-Identifier: Apache-2.0

package slot_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/slot"
	"github.com/backstay/backstay/update/updatetest"
)

// The power-cut test over raw flash and UBI volumes: the machine of package update writes an image, and the power fails before,
// in the middle of and after every erase, program, mark and change. A boot loader that follows the order of slots must always
// find whole images, and the update must end with the new one.

// medium makes the slot that is written, and says what a boot loader finds in it.
type bench struct {
	name   string
	reopen func() slot.Medium
	read   func(n int) []byte
	fuse   *fuse
	sins   func() []string
}

func benches() []func() *bench {
	nand := func() *bench {
		m := newMemory(160, blockLen, pageLen, 2)
		m.writeFails[5], m.eraseFails[7], m.forgets[4] = unix.EIO, unix.EIO, true
		return &bench{"nand", func() slot.Medium { c, _ := slot.NewChip(m, 160*blockLen, blockLen, pageLen, true); return c },
			m.image, m.fuse, func() []string { return m.sins }}
	}
	nor := func() *bench {
		m := newMemory(14, blockLen, 1)
		return &bench{"nor", func() slot.Medium { c, _ := slot.NewChip(m, 14*blockLen, blockLen, 1, false); return c },
			m.image, m.fuse, func() []string { return m.sins }}
	}
	ubi := func(name string, static bool) func() *bench {
		return func() *bench {
			v := newVolume(16, blockLen)
			v.static = static
			return &bench{name, func() slot.Medium { s, _ := slot.NewStore(v); return s }, func(n int) []byte {
				p := make([]byte, n)
				dead := v.fuse.dead
				v.fuse.dead = false
				_, _ = v.ReadAt(p, 0)
				v.fuse.dead = dead
				return p
			}, v.fuse, func() []string { return nil }}
		}
	}
	return []func() *bench{nand, nor, ubi("ubi", false), ubi("static ubi", true)}
}

// slots has the system that runs in memory, and the other slot on the bench.
type slots struct {
	*updatetest.Slots
	b *bench
}

func (s slots) Writer(id update.SlotID, size int64) (update.Writer, error) {
	if id == s.Running {
		return nil, errors.New("the running slot")
	}
	return slot.WriterOf(s.b.reopen(), id, size)
}

func (s slots) Digest(ctx context.Context, _ update.SlotID, size int64) ([32]byte, error) {
	h := sha256.New()
	err := slot.Drain(ctx, h, s.b.reopen(), size)
	return [32]byte(h.Sum(nil)), err
}

// drops hands an image out in small pieces.
type drops struct{ *updatetest.Source }

func (d *drops) Open(ctx context.Context, r update.Release, off int64) (io.ReadCloser, error) {
	body, err := d.Source.Open(ctx, r, off)
	return drop{body}, err
}

type drop struct{ io.ReadCloser }

func (d drop) Read(p []byte) (int, error) { return d.ReadCloser.Read(p[:min(len(p), 700)]) }

// TestCut cuts at every effect of the flash. The journal is behind the same fuse: it dies with the rest.
func TestCut(t *testing.T) {
	image := holes(11*blockLen + 300)
	step, cuts := 3, 0
	if os.Getenv("BACKSTAY_LONG") == "1" {
		step = 1
	}
	for _, open := range benches() {
		for at := 0; ; at += step {
			reached := true
			for _, how := range []string{"before", "half", "after"} {
				b := open()
				b.fuse.at, b.fuse.how = at, how
				live(t, b, image)
				reached = reached && b.fuse.count >= at
				cuts++
			}
			if !reached {
				break
			}
		}
	}
	t.Logf("%d cuts", cuts)
}

func live(t *testing.T, b *bench, image []byte) {
	t.Helper()
	where := fmt.Sprintf("%s, cut %s effect %d", b.name, b.fuse.how, b.fuse.at)
	effect := func(string) (bool, error) {
		if b.fuse.dead {
			return false, errCut
		}
		return true, nil
	}
	boot := &updatetest.Boot{Effect: effect, Order: []update.SlotID{"A", "B"}, Left: map[update.SlotID]int{"A": 3, "B": 3}}
	journal := &updatetest.Journal{Effect: effect}
	source := &drops{updatetest.NewSource("3.0", 3, 1, image)}
	source.Breaks = 5*blockLen + 123 // which leaves a checkpoint
	rounds := 0
	for ; rounds < 6; rounds++ {
		running := boot.Order[0]
		if running == "B" && !bytes.Equal(b.read(len(image)), image) {
			t.Fatalf("%s: the boot loader starts half an image", where)
		}
		b.fuse.dead = false
		s := slots{updatetest.NewSlots(running, 64<<10, "A", "B"), b}
		m := &update.Machine{Source: source, Slots: s, Boot: boot, Floor: &updatetest.Floor{Value: 1}, Journal: journal,
			Health: func(context.Context) error { return nil }, Reboot: func(context.Context, string) error { return nil },
			Emit: func(string, ...slog.Attr) {}}
		err := m.Resume(t.Context())
		for !b.fuse.dead && running == "A" && (err == nil || errors.Is(err, update.ErrRetry)) {
			err = m.Run(t.Context())
		}
		if !b.fuse.dead && !errors.Is(err, update.ErrReboot) {
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			break
		}
	}
	if boot.Order[0] != "B" || slices.Contains(boot.Order, "A") && rounds > 5 {
		t.Fatalf("%s: after %d starts the order is %v", where, rounds, boot.Order)
	}
	if !bytes.Equal(b.read(len(image)), image) || len(b.sins()) > 0 {
		t.Fatalf("%s: slot damaged, %v", where, b.sins())
	}
}
