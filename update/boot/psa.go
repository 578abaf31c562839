// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/backstay/backstay/update"
)

// PSAOptions says where the metadata of a PSA firmware update is.
type PSAOptions struct {
	Paths    [2]string // partitions, or files, of the two copies
	Slots    []update.SlotID
	Names    []string // numbers of the banks
	Attempts int      // reported for a bank that is accepted
}

// PSA is firmware that chooses between banks by the metadata of Arm's "Platform Security Firmware Update" (DEN0118, and
// include/fwu_mdata.h of U-Boot), version 1 or 2. It implements update.Bootloader. Both copies begin
//
//	 0  CRC-32 of all after
//	 4  version
//	 8  bank that is started
//	12  bank before
//
// In version 2 there follow the size of all, the offset of the description of the images, and a byte for each bank: 0xfc
// accepted, 0xfe on trial, 0xff not to be started. In version 1 the trial is a bit of each image. Who counts the starts of a
// trial and goes back to the bank before is the firmware.
//
// The second copy is written first, as U-Boot does: the first intact copy counts, so the change does when the first is whole.
type PSA struct {
	names
	medium   medium
	paths    [2]string
	bank     []int
	attempts int
}

const (
	psaAccepted = 0xfc
	psaValid    = 0xfe
	psaInvalid  = 0xff
	maxPSA      = 16 << 10
	psaHeader   = 32 // of version 2
	maxPSABanks = 4
)

// OpenPSA checks the options. It reads and writes nothing.
func OpenPSA(o PSAOptions) (*PSA, error) { return openPSA(o, onDisk) }

func openPSA(o PSAOptions, m medium) (*PSA, error) {
	n, err := newNames(o.Slots, o.Names)
	if err != nil {
		return nil, err
	}
	p := &PSA{names: n, medium: m, paths: o.Paths, attempts: o.Attempts}
	for i, name := range n.names {
		if len(name) != 1 || name[0] < '0' || name[0] >= '0'+maxPSABanks {
			return nil, fmt.Errorf("open boot loader: %w: slot %s: %q is not the number of a bank", update.ErrSetup, o.Slots[i], name)
		}
		p.bank = append(p.bank, int(name[0]-'0'))
	}
	return p, nil
}

// psaData is one copy, as long as it says it is.
type psaData struct {
	raw    []byte
	banks  int
	images int
	first  int // offset of the first image's entry
	bank   int // offset of the banks in an entry
	entry  int // length of an entry
	info   int // length of a bank in an entry
}

func (d psaData) version() uint32 { return binary.LittleEndian.Uint32(d.raw[4:]) }
func (d psaData) active() int     { return int(binary.LittleEndian.Uint32(d.raw[8:])) }
func (d psaData) previous() int   { return int(binary.LittleEndian.Uint32(d.raw[12:])) }
func psaSum(raw []byte) bool      { return binary.LittleEndian.Uint32(raw) == crc32.ChecksumIEEE(raw[4:]) }
func (d psaData) accepted(image, bank int) []byte {
	at := d.first + image*d.entry + d.bank + bank*d.info + 16
	return d.raw[at : at+4]
}

// parsePSA finds the length of a copy, by its header or, in version 1 which has none, by its checksum.
func parsePSA(raw []byte) (psaData, error) {
	if len(raw) < psaHeader {
		return psaData{}, errors.New("it is too short")
	}
	switch v := binary.LittleEndian.Uint32(raw[4:]); v {
	case 1:
		for images := 1; images <= 64; images++ {
			for banks := 2; banks <= maxPSABanks; banks++ {
				d := psaData{banks: banks, images: images, first: 16, bank: 32, entry: 32 + 24*banks, info: 24}
				if n := 16 + images*d.entry; n <= len(raw) && psaSum(raw[:n]) {
					d.raw = raw[:n]
					return d, d.check()
				}
			}
		}
		return psaData{}, errors.New("its checksum fits no number of images")
	case 2:
		n := binary.LittleEndian.Uint32(raw[16:])
		if n < psaHeader || int64(n) > int64(len(raw)) || !psaSum(raw[:n]) {
			return psaData{}, errors.New("its checksum is wrong")
		}
		d := psaData{raw: raw[:n], banks: maxPSABanks}
		return d, d.describe()
	default:
		return psaData{}, fmt.Errorf("its version is %d, known are 1 and 2", v)
	}
}

// describe reads where the images of version 2 are.
func (d *psaData) describe() error {
	off := int(binary.LittleEndian.Uint16(d.raw[20:]))
	if off == 0 {
		return d.check()
	}
	if off < psaHeader || off+8 > len(d.raw) {
		return errors.New("its description is not inside it")
	}
	desc := d.raw[off:]
	d.banks, d.images = int(desc[0]), int(binary.LittleEndian.Uint16(desc[2:]))
	d.entry, d.info = int(binary.LittleEndian.Uint16(desc[4:])), int(binary.LittleEndian.Uint16(desc[6:]))
	d.first, d.bank = off+8, 32
	if d.banks < 1 || d.banks > maxPSABanks || d.info < 24 || d.entry < 32+d.banks*d.info || d.first+d.images*d.entry > len(d.raw) {
		return errors.New("its description does not fit it")
	}
	return d.check()
}

func (d psaData) check() error {
	for _, at := range []int{8, 12} { // as they are: an int has 32 bits on most devices
		if bank := binary.LittleEndian.Uint32(d.raw[at:]); bank >= uint32(d.banks) {
			return fmt.Errorf("it names bank %d, and has %d", bank, d.banks)
		}
	}
	return nil
}

// state is that of a bank, as version 2 has it.
func (d psaData) state(bank int) byte {
	if d.version() == 2 {
		return d.raw[24+bank]
	}
	for i := range d.images {
		if binary.LittleEndian.Uint32(d.accepted(i, bank))&1 == 0 {
			return psaValid
		}
	}
	return psaAccepted
}

// with returns the copy with a bank's state changed, and with other indexes.
func (d psaData) with(bank int, state byte, active, previous int) psaData {
	d.raw = bytes.Clone(d.raw)
	if d.version() == 2 {
		d.raw[24+bank] = state
	}
	for i := range d.images {
		binary.LittleEndian.PutUint32(d.accepted(i, bank), 0)
		if state == psaAccepted {
			binary.LittleEndian.PutUint32(d.accepted(i, bank), 1)
		}
	}
	binary.LittleEndian.PutUint32(d.raw[8:], uint32(active))
	binary.LittleEndian.PutUint32(d.raw[12:], uint32(previous))
	binary.LittleEndian.PutUint32(d.raw, crc32.ChecksumIEEE(d.raw[4:]))
	return d
}

// copies reads both, and returns the one that counts: the first intact one.
func (p *PSA) copies() (now psaData, intact [2]bool, both [2][]byte, err error) {
	var errs [2]error
	for i, path := range p.paths {
		var d psaData
		both[i], errs[i] = p.readCopy(path)
		if errs[i] == nil {
			d, errs[i] = parsePSA(both[i])
		}
		if errs[i] == nil {
			intact[i], both[i] = true, d.raw
			if now.raw == nil {
				now = d
			}
		}
	}
	if now.raw == nil {
		return now, intact, both, fmt.Errorf("%w: both copies of the firmware update metadata are damaged: %w; %w", update.ErrSetup, errs[0], errs[1])
	}
	for i, b := range p.bank {
		if b >= now.banks {
			return now, intact, both, fmt.Errorf("%w: slot %s is bank %d, there are %d", update.ErrSetup, p.slots[i], b, now.banks)
		}
	}
	return now, intact, both, nil
}

// readCopy reads as much as a copy can have.
func (p *PSA) readCopy(path string) ([]byte, error) {
	f, err := p.medium(path, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", update.ErrSetup, err)
	}
	defer f.Close()
	n, err := f.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	return readAt(f, path, 0, int(min(n, maxPSA)))
}

func (p *PSA) change(what string, id update.SlotID, f func(d psaData, bank int) (psaData, error)) error {
	i := p.index(id)
	if i < 0 {
		return fmt.Errorf("%s %s: %w", what, id, unknownSlot(id))
	}
	now, intact, both, err := p.copies()
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	next, err := f(now, p.bank[i])
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	// The first copy is never written while the second is damaged: a cut would leave none.
	for _, c := range []int{1, 0} {
		if intact[c] && bytes.Equal(both[c], next.raw) {
			continue
		}
		if c == 1 && !intact[0] { // the second is the only one: the first is made its equal before
			if err := p.medium.overwrite(p.paths[0], 0, now.raw); err != nil {
				return fmt.Errorf("%s %s: %w", what, id, err)
			}
		}
		if err := p.medium.overwrite(p.paths[c], 0, next.raw); err != nil {
			return fmt.Errorf("%s %s: %w", what, id, err)
		}
	}
	return nil
}

// other returns a bank of ours that is accepted, besides one; -1 if there is none.
func (p *PSA) other(d psaData, bank int) int {
	for _, o := range p.bank {
		if o != bank && d.state(o) == psaAccepted {
			return o
		}
	}
	return -1
}

// Disarm makes sure that a bank is neither started nor gone back to.
func (p *PSA) Disarm(id update.SlotID) error {
	return p.change("disarm slot", id, func(d psaData, bank int) (psaData, error) {
		if d.active() == bank || p.other(d, bank) < 0 {
			return d, onlySlot(id)
		}
		previous := d.previous()
		if previous == bank {
			previous = d.active()
		}
		return d.with(bank, psaInvalid, d.active(), previous), nil
	})
}

// Try makes the firmware start a bank, and go back when it does not prove itself as often as the firmware allows.
func (p *PSA) Try(id update.SlotID, _ int) error {
	return p.change("try slot", id, func(d psaData, bank int) (psaData, error) {
		previous := p.other(d, bank)
		if previous < 0 {
			return d, fmt.Errorf("%w: no other bank is accepted, so there is none to go back to", update.ErrSetup)
		}
		return d.with(bank, psaValid, bank, previous), nil
	})
}

// Keep accepts a bank and makes it the one that is started.
func (p *PSA) Keep(id update.SlotID) error {
	return p.change("keep slot", id, func(d psaData, bank int) (psaData, error) {
		previous := p.other(d, bank)
		if previous < 0 {
			previous = bank
		}
		return d.with(bank, psaAccepted, bank, previous), nil
	})
}

// State returns what the firmware would do, as far as the metadata says; it does not say how many starts a trial has left.
func (p *PSA) State() (update.BootState, error) {
	s := update.BootState{Left: map[update.SlotID]int{}}
	d, _, _, err := p.copies()
	if err != nil {
		return s, err
	}
	for i, id := range p.slots {
		s.Left[id] = 0
		switch {
		case p.bank[i] == d.active():
			s.Primary, s.Order, s.Left[id] = id, append([]update.SlotID{id}, s.Order...), p.attempts
			if s.Trial = d.state(p.bank[i]) != psaAccepted; s.Trial {
				s.Left[id] = 1
			}
		case p.bank[i] == d.previous() && d.state(d.active()) != psaAccepted && d.state(p.bank[i]) == psaAccepted:
			s.Order, s.Left[id] = append(s.Order, id), p.attempts
		}
	}
	return s, nil
}
