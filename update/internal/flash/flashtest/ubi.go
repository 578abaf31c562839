// SPDX-License-Identifier: Apache-2.0

package flashtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/backstay/backstay/update/internal/flash"
)

// Volume is a UBI volume. A step writes one page of 512 bytes; setting and clearing the mark of an update are a step each.
type Volume struct {
	Power *Power
	Data  []byte // as long as the volume can hold
	info  flash.VolumeInfo
}

var _ flash.Volume = (*Volume)(nil)

// NewVolume returns an empty volume of so many logical blocks.
func NewVolume(blocks, leb int64, static bool) *Volume {
	return &Volume{Power: &Power{}, Data: bytes.Repeat([]byte{0xff}, int(blocks*leb)),
		info: flash.VolumeInfo{Size: blocks * leb, LEB: leb, Static: static}}
}

// Picture returns a copy of the volume as it is, with power.
func (v *Volume) Picture() *Volume {
	return &Volume{Power: &Power{}, Data: slices.Clone(v.Data), info: v.info}
}

func (v *Volume) Info() flash.VolumeInfo { return v.info }
func (v *Volume) Close() error           { return nil }

func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	if err := v.Power.check(); err != nil {
		return 0, err
	}
	if v.info.Damaged {
		return 0, fmt.Errorf("%w: an update of the volume was cut: %w", flash.ErrUBI, syscall.EBADF)
	}
	end := v.info.Size
	if v.info.Static {
		end = v.info.Data
	}
	if off < 0 || off >= end {
		return 0, io.EOF
	}
	n := copy(p, v.Data[off:end])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (v *Volume) Update(n int64) (io.WriteCloser, error) {
	if n <= 0 || n > v.info.Size {
		return nil, syscall.EINVAL
	}
	if err := v.Power.step(1, func(int) { v.info.Damaged = true }); err != nil {
		return nil, err
	}
	if err := v.Power.step(len(v.Data), func(i int) { v.Data[i] = 0xff }); err != nil {
		return nil, err
	}
	return &update{v: v, size: n}, nil
}

type update struct {
	v        *Volume
	at, size int64
}

func (u *update) Write(p []byte) (int, error) {
	if u.at+int64(len(p)) > u.size {
		return 0, syscall.EINVAL
	}
	done := 0
	for piece := range slices.Chunk(p, 512) {
		at := u.at
		if err := u.v.Power.step(len(piece), func(i int) { u.v.Data[at+int64(i)] = piece[i] }); err != nil {
			return done, err
		}
		u.at += int64(len(piece))
		done += len(piece)
	}
	if u.at < u.size {
		return done, nil
	}
	return done, u.v.Power.step(1, func(int) { u.v.info.Damaged, u.v.info.Data = false, u.size })
}

func (u *update) Close() error {
	if u.at < u.size {
		return errors.New("the update is not complete")
	}
	return u.v.Power.check()
}

// Change is one step that happens or does not: UBI writes another physical block and then changes the mapping.
func (v *Volume) Change(leb int, p []byte) error {
	if leb < 0 || int64(len(p)) > v.info.LEB || int64(leb+1)*v.info.LEB > v.info.Size || v.info.Static {
		return syscall.EINVAL
	}
	for range slices.Chunk(p, 512) {
		if err := v.Power.step(0, nil); err != nil {
			return err
		}
	}
	return v.Power.step(1, func(int) {
		at := int64(leb) * v.info.LEB
		n := copy(v.Data[at:], p)
		for i := at + int64(n); i < at+v.info.LEB; i++ {
			v.Data[i] = 0xff
		}
	})
}

// Erase is one step that happens or does not.
func (v *Volume) Erase(leb int) error {
	if leb < 0 || int64(leb+1)*v.info.LEB > v.info.Size || v.info.Static {
		return syscall.EINVAL
	}
	return v.Power.step(1, func(int) {
		b := v.Data[int64(leb)*v.info.LEB:][:v.info.LEB]
		for i := range b {
			b[i] = 0xff
		}
	})
}
