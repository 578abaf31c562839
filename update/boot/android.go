// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/backstay/backstay/update"
)

// AndroidOptions says where an Android boot loader's control block is.
type AndroidOptions struct {
	Path     string // the misc partition
	Offset   int64  // of the block in it; 2048 is usual
	Slots    []update.SlotID
	Names    []string // suffixes: a, _a, or the number
	Attempts int      // of a slot that is kept; at most 7 are stored
}

// Android is a boot loader that keeps Android's bootloader_control block (bootloader_message.h of Android and U-Boot), as many
// of Qualcomm, NXP and MediaTek do. It implements update.Bootloader:
//
//	 0  slot suffix, as the boot loader last chose
//	 4  magic "BCAB"
//	 8  version 1; then a byte with the number of slots in its low three bits
//	12  four slots of two bytes: priority:4, tries:3, successful:1; corrupted:1
//	28  CRC-32 of all before, little-endian like the rest
//
// It starts the slot with the highest priority that is successful or has tries left, and takes one from the tries of a slot
// that is not successful. The block is 32 bytes in one sector, so a write that is cut has not taken place or has. A block with
// a wrong checksum is never replaced here; U-Boot makes a new one then, in which every slot may be started.
type Android struct {
	medium   medium
	path     string
	offset   int64
	slots    []update.SlotID
	index    []int
	attempts int
}

const (
	androidSize  = 32
	androidMagic = 0x42414342
	androidTop   = 15
)

// OpenAndroid checks the options. It reads and writes nothing.
func OpenAndroid(o AndroidOptions) (*Android, error) { return openAndroid(o, onDisk) }

func openAndroid(o AndroidOptions, m medium) (*Android, error) {
	n, err := newNames(o.Slots, o.Names)
	if err != nil {
		return nil, err
	}
	a := &Android{medium: m, path: o.Path, offset: o.Offset, slots: o.Slots, attempts: min(max(o.Attempts, 1), 7)}
	seen := 0
	for i, name := range n.names {
		at := strings.Index("abcd", strings.ToLower(strings.TrimPrefix(name, "_")))
		if d := strings.Index("0123", name); d >= 0 {
			at = d
		}
		if at < 0 || len(strings.TrimPrefix(name, "_")) != 1 || seen&(1<<at) != 0 {
			return nil, fmt.Errorf("open boot loader: %w: slot %s: %q is no suffix a to d of its own", update.ErrSetup, o.Slots[i], name)
		}
		seen |= 1 << at
		a.index = append(a.index, at)
	}
	return a, nil
}

// androidSlot is two bytes.
type androidSlot struct {
	priority, tries   int
	successful, wrong bool
}

func (s androidSlot) startable() bool { return !s.wrong && (s.tries > 0 || s.successful) }

// better reports whether the boot loader prefers s to o.
func (s androidSlot) better(o androidSlot) bool {
	switch {
	case s.priority != o.priority:
		return s.priority > o.priority
	case s.successful != o.successful:
		return s.successful
	}
	return s.tries > o.tries
}

type androidBlock struct {
	raw   []byte
	slots [4]androidSlot
	n     int
}

func parseAndroid(raw []byte) (b androidBlock, err error) {
	b = androidBlock{raw: raw}
	switch {
	case len(raw) != androidSize || binary.LittleEndian.Uint32(raw[4:]) != androidMagic:
		return b, errors.New("no boot control block is there")
	case binary.LittleEndian.Uint32(raw[28:]) != crc32.ChecksumIEEE(raw[:28]):
		return b, errors.New("the checksum of the boot control block is wrong")
	case raw[8] != 1:
		return b, fmt.Errorf("the boot control block has version %d, known is 1", raw[8])
	}
	b.n = int(raw[9] & 7)
	if b.n < 2 || b.n > len(b.slots) {
		return b, fmt.Errorf("the boot control block has %d slots", b.n)
	}
	for i := range b.slots {
		v := raw[12+2*i:]
		b.slots[i] = androidSlot{int(v[0] & 15), int(v[0] >> 4 & 7), v[0]&0x80 != 0, v[1]&1 != 0}
	}
	return b, nil
}

// encode returns the block with its slots as they are now, and everything else as it was.
func (b androidBlock) encode() []byte {
	raw := append([]byte(nil), b.raw...)
	for i, s := range b.slots {
		v := raw[12+2*i:]
		v[0] = byte(s.priority | s.tries<<4)
		if s.successful {
			v[0] |= 0x80
		}
		v[1] &^= 1
		if s.wrong {
			v[1] |= 1
		}
	}
	binary.LittleEndian.PutUint32(raw[28:], crc32.ChecksumIEEE(raw[:28]))
	return raw
}

func (a *Android) load() (androidBlock, error) {
	raw, err := a.medium.read(a.path, a.offset, androidSize)
	if err != nil {
		return androidBlock{}, err
	}
	b, err := parseAndroid(raw)
	for i, at := range a.index {
		if err == nil && at >= b.n {
			err = fmt.Errorf("slot %s is number %d, there are %d", a.slots[i], at, b.n)
		}
	}
	if err != nil {
		return b, fmt.Errorf("%s at %d: %w: %w", a.path, a.offset, update.ErrSetup, err)
	}
	return b, nil
}

func (a *Android) change(what string, id update.SlotID, f func(b *androidBlock, at int) error) error {
	b, err := a.load()
	at := -1
	for i, s := range a.slots {
		if s == id {
			at = a.index[i]
		}
	}
	if err == nil && at < 0 {
		err = unknownSlot(id)
	}
	if err == nil {
		err = f(&b, at)
	}
	if err == nil {
		if next := b.encode(); string(next) != string(b.raw) {
			err = a.medium.overwrite(a.path, a.offset, next)
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

// first gives a slot the highest priority, and takes it from all others.
func (b *androidBlock) first(at int, s androidSlot) {
	for i := range b.slots[:b.n] {
		b.slots[i].priority = min(b.slots[i].priority, androidTop-1)
	}
	s.priority = androidTop
	b.slots[at] = s
}

// Disarm takes a slot's priority, tries and success away.
func (a *Android) Disarm(id update.SlotID) error {
	return a.change("disarm slot", id, func(b *androidBlock, at int) error {
		for _, o := range a.index {
			if o != at && b.slots[o].startable() {
				b.slots[at] = androidSlot{wrong: b.slots[at].wrong}
				return nil
			}
		}
		return onlySlot(id)
	})
}

// Try makes a slot the first choice for some starts.
func (a *Android) Try(id update.SlotID, attempts int) error {
	return a.change("try slot", id, func(b *androidBlock, at int) error {
		b.first(at, androidSlot{tries: min(attempts, 7)})
		return nil
	})
}

// Keep makes a slot the first choice, and marks it successful.
func (a *Android) Keep(id update.SlotID) error {
	return a.change("keep slot", id, func(b *androidBlock, at int) error {
		b.first(at, androidSlot{tries: a.attempts, successful: true})
		return nil
	})
}

// State returns what the boot loader would do.
func (a *Android) State() (update.BootState, error) {
	s := update.BootState{Left: map[update.SlotID]int{}}
	b, err := a.load()
	if err != nil {
		return s, err
	}
	for i, id := range a.slots {
		slot := b.slots[a.index[i]]
		s.Left[id] = 0
		if !slot.startable() {
			continue
		}
		s.Left[id] = max(slot.tries, 1)
		at := 0
		for at < len(s.Order) && !a.prefers(b, id, s.Order[at]) {
			at++
		}
		s.Order = append(s.Order[:at], append([]update.SlotID{id}, s.Order[at:]...)...)
	}
	if len(s.Order) > 0 {
		s.Primary = s.Order[0]
		s.Trial = !a.of(b, s.Primary).successful
	}
	return s, nil
}

func (a *Android) of(b androidBlock, id update.SlotID) androidSlot {
	for i, s := range a.slots {
		if s == id {
			return b.slots[a.index[i]]
		}
	}
	return androidSlot{}
}

func (a *Android) prefers(b androidBlock, id, other update.SlotID) bool {
	return a.of(b, id).better(a.of(b, other))
}
