// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/backstay/backstay/update/internal/flash"
)

// mtdCopy is a copy in erase blocks of raw flash, laid out as U-Boot's env/nand.c, env/sf.c and env/flash.c and fw_env.c do:
// on NAND, bad blocks inside the reserved range are skipped; on all of them, an environment that ends inside a block shares
// it with what follows, which is read, erased and written again. That a cut in between costs the rest of that block is why
// boards give an environment blocks of its own.
type mtdCopy struct {
	hw   *hardware
	area Area
	info flash.Info
	end  int64 // where the reserved range ends
}

// placeMTD checks the geometry: what does not fit is refused before anything is erased.
func (h *hardware) placeMTD(a Area) (storage, error) {
	m, err := h.mtd(a.Path, false)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	info := m.Info()
	sector := a.Sector
	if sector == 0 {
		sector = info.EraseSize
	}
	count := a.Sectors
	if count == 0 {
		count = (a.Size + sector - 1) / sector
	}
	end := a.Offset + count*sector
	switch {
	case info.Kind == flash.Other:
		return nil, fmt.Errorf("%s is no flash that U-Boot keeps an environment on", a.Path)
	case sector%info.EraseSize != 0:
		return nil, fmt.Errorf("sector size %#x of %s: its erase blocks have %#x bytes", sector, a.Path, info.EraseSize)
	case a.Offset < 0 || a.Offset%sector != 0:
		return nil, fmt.Errorf("offset %#x of %s: it is not the start of a sector of %#x bytes", a.Offset, a.Path, sector)
	case a.Size > count*sector:
		return nil, fmt.Errorf("size %#x in %s: %d sectors of %#x bytes are too few", a.Size, a.Path, count, sector)
	case end > info.Size:
		return nil, fmt.Errorf("the environment in %s would end at %#x, the partition at %#x", a.Path, end, info.Size)
	case info.Kind == flash.NAND && a.Size%info.WriteSize != 0:
		return nil, fmt.Errorf("size %#x in %s: it is not a multiple of the page of %d bytes", a.Size, a.Path, info.WriteSize)
	}
	return &mtdCopy{hw: h, area: a, info: info, end: end}, nil
}

func (c *mtdCopy) scheme() scheme {
	if c.info.Kind == flash.NAND {
		return incremental
	}
	return boolean
}

// blocks calls f for every good block that the copy lies in, with the part of the copy in it.
func (c *mtdCopy) blocks(m flash.MTD, f func(block int64, from, to int) error) error {
	at := c.area.Offset
	for from := 0; from < int(c.area.Size); {
		block, err := flash.NextGood(m, at, c.end)
		if err != nil {
			return fmt.Errorf("%s: %w", c.area.Path, err)
		}
		to := min(int(c.area.Size), from+int(c.info.EraseSize))
		if err := f(block, from, to); err != nil {
			return err
		}
		from, at = to, block+c.info.EraseSize
	}
	return nil
}

func (c *mtdCopy) read() ([]byte, error) {
	m, err := c.hw.mtd(c.area.Path, false)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	raw := make([]byte, c.area.Size)
	err = c.blocks(m, func(block int64, from, to int) error {
		if _, err := m.ReadAt(raw[from:to], block); err != nil {
			return damaged(fmt.Errorf("read %s at %#x: %w", c.area.Path, block, err))
		}
		return nil
	})
	return raw, err
}

func (c *mtdCopy) write(raw []byte) error {
	m, err := c.hw.mtd(c.area.Path, true)
	if err != nil {
		return err
	}
	defer m.Close()
	// All blocks are found before the first is erased.
	if err := c.blocks(m, func(int64, int, int) error { return nil }); err != nil {
		return err
	}
	return c.blocks(m, func(block int64, from, to int) error { return c.program(m, block, raw[from:to]) })
}

// program replaces the start of a block and keeps the rest of it.
func (c *mtdCopy) program(m flash.MTD, block int64, p []byte) error {
	rest := make([]byte, c.info.EraseSize-int64(len(p)))
	if _, err := m.ReadAt(rest, block+int64(len(p))); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("keep the rest of the block at %#x of %s: %w", block, c.area.Path, err)
	}
	// What is erased is not written: a page of NAND that nobody wrote is free for whoever comes later.
	rest = bytes.TrimRight(rest, "\xff")
	whole := append(append(make([]byte, 0, c.info.EraseSize), p...), rest...)
	for int64(len(whole))%c.info.WriteSize != 0 {
		whole = append(whole, 0xff)
	}
	relock, err := m.Unlock(block, c.info.EraseSize)
	if err != nil {
		return err
	}
	defer relock()
	if err := m.Erase(block, c.info.EraseSize); err != nil {
		return err
	}
	if _, err := m.WriteAt(whole, block); err != nil {
		return fmt.Errorf("write %s at %#x: %w", c.area.Path, block, err)
	}
	return nil
}

// obsolete clears the flags in place. It is the last step of a change, and the only one that touches the copy that was
// current: before it both copies are intact and active, and the first of them counts.
func (c *mtdCopy) obsolete() error {
	m, err := c.hw.mtd(c.area.Path, true)
	if err != nil {
		return err
	}
	defer m.Close()
	relock, err := m.Unlock(c.area.Offset, c.info.EraseSize)
	if err != nil {
		return err
	}
	defer relock()
	const flags = 4
	p, at := []byte{0}, c.area.Offset+flags
	if c.info.Kind == flash.Dataflash { // it writes whole pages, and erases them on the way
		p, at = make([]byte, c.info.WriteSize), c.area.Offset
		if _, err := m.ReadAt(p, at); err != nil {
			return err
		}
		p[flags] = 0
	}
	if _, err := m.WriteAt(p, at); err != nil {
		return fmt.Errorf("clear the flags of the old copy in %s: %w", c.area.Path, err)
	}
	back := []byte{1}
	if _, err := m.ReadAt(back, c.area.Offset+flags); err != nil {
		return err
	}
	if back[0] != 0 {
		return fmt.Errorf("clear the flags of the old copy in %s: they are still %#x", c.area.Path, back[0])
	}
	return nil
}

// volumeCopy is a copy in a UBI volume.
type volumeCopy struct {
	hw     *hardware
	area   Area
	single bool
}

func (c *volumeCopy) scheme() scheme { return incremental }

func (c *volumeCopy) read() ([]byte, error) {
	v, err := c.hw.volume(c.area.Path, false)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if size := v.Info().Size; size < c.area.Size {
		return nil, fmt.Errorf("size %#x in %s: the volume has %#x bytes", c.area.Size, c.area.Path, size)
	}
	raw := make([]byte, c.area.Size)
	if n, err := v.ReadAt(raw, 0); errors.Is(err, io.EOF) && n < len(raw) {
		return nil, fmt.Errorf("%w: %s holds only %d bytes", errDamaged, c.area.Path, n)
	} else if err != nil && n < len(raw) {
		return nil, damaged(fmt.Errorf("read %s: %w", c.area.Path, err))
	}
	return raw, nil
}

// write updates the volume. During an update it is damaged, which costs nothing where there is another copy; without one,
// the block is changed as a whole, if it is one block of a dynamic volume.
func (c *volumeCopy) write(raw []byte) error {
	v, err := c.hw.volume(c.area.Path, true)
	if err != nil {
		return err
	}
	defer v.Close()
	if info := v.Info(); c.single && !info.Static && !info.Damaged && c.area.Size <= info.LEB {
		return v.Change(0, raw)
	}
	w, err := v.Update(int64(len(raw)))
	if err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return fmt.Errorf("write %s: %w", c.area.Path, err)
	}
	return w.Close()
}
