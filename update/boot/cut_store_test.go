// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"github.com/backstay/backstay/update/boot"
	"github.com/backstay/backstay/update/internal/flash"
	"github.com/backstay/backstay/update/internal/flash/flashtest"
)

// store is where the environment of this test lies.
type store interface {
	config() boot.Config
	picture() store                  // a copy of it, with power
	arm(step, tear int)              // the power goes in a step
	steps() int                      // taken since the picture
	crash(tear int)                  // the power is back; what was not synced is there or not
	tears() int                      // how many ways there are
	raw(i int) []byte                // what U-Boot reads of a copy, nil if it cannot
	save(i int, raw []byte, now int) // what U-Boot writes; now is the copy that was current
	nor() bool
}

const (
	envSize = 0x800
	page    = 512
)

// diskStore is files and block devices. What was written and not synced is lost or not, sector by sector, in any order.
type diskStore struct {
	c             boot.Config
	live, durable map[string]*[]byte // by name; a rename moves the bytes
	pending       []func(d *diskStore)
	ops, limit    int
	dead          bool
	block         bool
	copies        int
	every, synced int // mistakes: only every so manieth sync does something; -1: none
}

func newDisk(copies int, block, exact bool) *diskStore {
	d := &diskStore{live: map[string]*[]byte{}, durable: map[string]*[]byte{}, limit: -1, block: block, copies: copies}
	offset := int64(0x300)
	if exact {
		offset = 0
	}
	for i := range copies {
		path := fmt.Sprint("/env", i)
		raw := make([]byte, offset+envSize)
		d.live[path], d.durable[path] = &raw, new([]byte)
		*d.durable[path] = bytes.Clone(raw)
		d.c.Areas = append(d.c.Areas, boot.Area{Path: path, Offset: offset, Size: envSize})
	}
	d.c.Locks = []string{}
	return d
}

func (d *diskStore) config() boot.Config {
	return d.c.On(boot.TestHardware{Files: d, Blocks: map[string]bool{"/env0": d.block, "/env1": d.block}})
}

func (d *diskStore) picture() store {
	c := *d
	c.live, c.durable, c.pending, c.ops, c.limit, c.dead = map[string]*[]byte{}, map[string]*[]byte{}, nil, 0, -1, false
	for n, b := range d.durable {
		one, two := bytes.Clone(*b), bytes.Clone(*b)
		c.live[n], c.durable[n] = &one, &two
	}
	return &c
}

func (d *diskStore) arm(step, _ int) { d.ops, d.limit = 0, step }
func (d *diskStore) steps() int      { return d.ops }
func (d *diskStore) nor() bool       { return false }

// tears: nothing of what is pending, all of it, its first half, its last half, every other, and at random.
func (d *diskStore) tears() int { return 12 }

func (d *diskStore) crash(tear int) {
	rng := rand.New(rand.NewPCG(uint64(tear), uint64(len(d.pending))))
	n := len(d.pending)
	for i, apply := range d.pending {
		if [...]bool{false, true, i < n/2, i >= n/2, i%2 == 0, i%2 == 1, i != 0, i != n-1, i == 0, i == n-1, rng.IntN(2) == 0, rng.IntN(4) > 0}[tear] {
			apply(d)
		}
	}
	p, ok := d.picture().(*diskStore)
	if ok {
		d.live, d.durable = p.live, p.durable
	}
	d.pending, d.dead, d.limit = nil, false, -1
}

func (d *diskStore) raw(i int) []byte {
	a := d.c.Areas[i]
	b := *d.durable[a.Path]
	if int64(len(b)) < a.Offset+a.Size {
		return nil
	}
	return b[a.Offset : a.Offset+a.Size]
}

func (d *diskStore) save(i int, raw []byte, _ int) {
	a := d.c.Areas[i]
	for _, m := range []map[string]*[]byte{d.live, d.durable} {
		copy((*m[a.Path])[a.Offset:], raw)
	}
}

func (d *diskStore) op() error {
	if d.dead || d.ops == d.limit {
		d.dead = true
		return flashtest.ErrCut
	}
	d.ops++
	return nil
}

func (d *diskStore) flush() {
	if d.synced++; d.every < 0 || d.every > 0 && d.synced%d.every != 0 {
		return
	}
	for _, apply := range d.pending {
		apply(d)
	}
	d.pending = nil
}

func (d *diskStore) Open(path string, _ bool) (boot.MediumFile, error) {
	if d.live[path] == nil {
		return nil, os.ErrNotExist
	}
	return &diskHandle{d: d, path: path}, nil
}

func (d *diskStore) Create(path string, _ os.FileMode) (boot.MediumFile, error) {
	if err := d.op(); err != nil {
		return nil, err
	}
	d.live[path], d.durable[path] = new([]byte), new([]byte)
	return &diskHandle{d: d, path: path}, nil
}

// Rename is pending until the directory is synced, and independent of the bytes of the file.
func (d *diskStore) Rename(from, to string) error {
	if err := d.op(); err != nil {
		return err
	}
	moved := d.durable[from]
	d.live[to] = d.live[from]
	delete(d.live, from)
	d.pending = append(d.pending, func(d *diskStore) { d.durable[to] = moved })
	return nil
}

func (d *diskStore) SyncDir(string) error {
	if err := d.op(); err != nil {
		return err
	}
	d.flush()
	return nil
}

type diskHandle struct {
	d    *diskStore
	path string
	at   int64
}

func (h *diskHandle) Close() error { return nil }
func (h *diskHandle) Sync() error  { return h.d.SyncDir("") }

func (h *diskHandle) Seek(off int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		off += int64(len(*h.d.live[h.path]))
	}
	h.at = off
	return off, nil
}

func (h *diskHandle) ReadAt(p []byte, off int64) (int, error) {
	if h.d.dead {
		return 0, flashtest.ErrCut
	}
	return bytes.NewReader(*h.d.live[h.path]).ReadAt(p, off)
}

// WriteAt takes a step for every sector: the power can go between two of them, whatever the order they reach the medium in.
func (h *diskHandle) WriteAt(p []byte, off int64) (int, error) {
	live, durable := h.d.live[h.path], h.d.durable[h.path]
	for at := 0; at < len(p); {
		n := min(page-(int(off)+at)%page, len(p)-at)
		if err := h.d.op(); err != nil {
			return at, err
		}
		piece, where := bytes.Clone(p[at:at+n]), int(off)+at
		put := func(to *[]byte) {
			if grow := where + len(piece) - len(*to); grow > 0 {
				*to = append(*to, make([]byte, grow)...)
			}
			copy((*to)[where:], piece)
		}
		put(live)
		h.d.pending = append(h.d.pending, func(*diskStore) { put(durable) })
		at += n
	}
	return len(p), nil
}

// chipStore is raw flash.
type chipStore struct {
	kind  flash.Kind
	chip  *flashtest.MTD
	areas []boot.Area
	bad   int64 // bytes by which the second block of each copy is out of order
}

func newChip(kind flash.Kind, copies int) *chipStore {
	s := &chipStore{kind: kind}
	switch kind {
	case flash.NAND:
		s.chip = flashtest.NewMTD(kind, 8, 0x400, page)
		s.chip.Marked[0x1000] = true // the first block of the second copy
	case flash.Dataflash:
		s.chip = flashtest.NewMTD(kind, 8, 0x400, page)
	default:
		s.chip = flashtest.NewMTD(kind, 8, 0x1000, 1)
	}
	step := s.chip.Info().EraseSize
	for i := range int64(copies) {
		a := boot.Area{Path: "/mtd", Offset: i * max(step, 0x1000), Size: envSize}
		if kind == flash.NAND {
			a.Sector, a.Sectors = step, 4
		}
		s.areas = append(s.areas, a)
	}
	return s
}

func (s *chipStore) config() boot.Config {
	c := boot.Config{Areas: s.areas, Locks: []string{}}
	return c.On(boot.TestHardware{MTD: map[string]flash.MTD{"/mtd": s.chip}})
}

func (s *chipStore) picture() store {
	c := *s
	c.chip = s.chip.Picture()
	return &c
}

func (s *chipStore) arm(step, tear int) { s.chip.Power.Cut(step, flashtest.Tear(tear)) }
func (s *chipStore) steps() int         { return s.chip.Power.Steps }
func (s *chipStore) crash(int)          { s.chip.Power.On() }
func (s *chipStore) tears() int         { return int(flashtest.Tears) }
func (s *chipStore) nor() bool          { return s.kind != flash.NAND }

// parts are where the pieces of a copy are: on NAND, in the good blocks.
func (s *chipStore) parts(i int) (at []int64, size int64) {
	if s.kind != flash.NAND {
		return []int64{s.areas[i].Offset}, envSize
	}
	for b := s.areas[i].Offset; int64(len(at)) < envSize/0x400; b += 0x400 {
		if !s.chip.Marked[b] {
			at = append(at, b)
		}
	}
	return at, 0x400
}

func (s *chipStore) raw(i int) []byte {
	var raw []byte
	at, size := s.parts(i)
	for _, b := range at {
		raw = append(raw, s.chip.Data[b:b+size]...)
	}
	return raw
}

func (s *chipStore) save(i int, raw []byte, now int) {
	at, size := s.parts(i)
	for n, b := range at {
		block := b - b%s.chip.Info().EraseSize
		for e := block; e < b+size; e += s.chip.Info().EraseSize {
			if s.chip.Erase(e, s.chip.Info().EraseSize) != nil {
				panic("the model of U-Boot cannot erase")
			}
		}
		if _, err := s.chip.WriteAt(raw[int64(n)*size:int64(n+1)*size], b); err != nil {
			panic(err)
		}
	}
	if s.nor() && now != i {
		s.chip.Data[s.areas[now].Offset+4] = 0
	}
}

// volumeStore is UBI volumes.
type volumeStore struct {
	v []*flashtest.Volume
}

func newVolumes(copies int, static bool) *volumeStore {
	s := &volumeStore{}
	power := &flashtest.Power{}
	for range copies {
		v := flashtest.NewVolume(2, 0x1000, static)
		v.Power = power
		s.v = append(s.v, v)
	}
	return s
}

func (s *volumeStore) config() boot.Config {
	c, h := boot.Config{Locks: []string{}}, boot.TestHardware{Volume: map[string]flash.Volume{}}
	for i, v := range s.v {
		path := fmt.Sprint("/dev/ubi0:env", i)
		c.Areas = append(c.Areas, boot.Area{Path: path, Size: envSize})
		h.Volume[path] = v
	}
	return c.On(h)
}

func (s *volumeStore) picture() store {
	c, power := &volumeStore{}, &flashtest.Power{}
	for _, v := range s.v {
		p := v.Picture()
		p.Power = power
		c.v = append(c.v, p)
	}
	return c
}

func (s *volumeStore) arm(step, tear int) { s.v[0].Power.Cut(step, flashtest.Tear(tear)) }
func (s *volumeStore) steps() int         { return s.v[0].Power.Steps }
func (s *volumeStore) crash(int)          { s.v[0].Power.On() }
func (s *volumeStore) tears() int         { return int(flashtest.Tears) }
func (s *volumeStore) nor() bool          { return false }

func (s *volumeStore) raw(i int) []byte {
	raw := make([]byte, envSize)
	if _, err := s.v[i].ReadAt(raw, 0); err != nil {
		return nil
	}
	return raw
}

func (s *volumeStore) save(i int, raw []byte, _ int) {
	w, err := s.v[i].Update(int64(len(raw)))
	if err == nil {
		_, err = w.Write(raw)
	}
	if err != nil {
		panic(err)
	}
}

type cutCase struct {
	name string
	make func() store
	safe bool
}

var cutStores = []cutCase{
	{"two files", func() store { return newDisk(2, false, true) }, true},
	{"two parts of block devices", func() store { return newDisk(2, true, false) }, true},
	{"one file", func() store { return newDisk(1, false, true) }, true},
	{"one part of a block device", func() store { return newDisk(1, true, false) }, false},
	{"two on NOR flash", func() store { return newChip(flash.NOR, 2) }, true},
	{"one on NOR flash", func() store { return newChip(flash.NOR, 1) }, false},
	{"two on NAND flash with a bad block", func() store { return newChip(flash.NAND, 2) }, true},
	{"two on dataflash", func() store { return newChip(flash.Dataflash, 2) }, true},
	{"two static UBI volumes", func() store { return newVolumes(2, true) }, true},
	{"two UBI volumes", func() store { return newVolumes(2, false) }, true},
	{"one UBI volume", func() store { return newVolumes(1, false) }, true},
}
