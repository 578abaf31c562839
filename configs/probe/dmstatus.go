// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The device mapper answers questions about a device through /dev/mapper/control (include/uapi/linux/dm-ioctl.h). This one
// is DM_TABLE_STATUS: it reads.
const (
	dmTableStatus = 0xc138fd0c // _IOWR(0xfd, 12, struct dm_ioctl), the same number on MIPS
	dmHeader      = 312        // sizeof(struct dm_ioctl)
	dmSpec        = 40         // sizeof(struct dm_target_spec)
	dmBuffer      = 4096
	dmControl     = "/dev/mapper/control"
)

// verityStatus asks for the state of a verity device: "V", or "C" after a changed block was met.
func (h *Host) verityStatus(major, minor uint64) (string, error) {
	if !h.live || h.root == nil {
		return "", errors.New("it can only be asked on a running system")
	}
	in, err := h.Stat(dmControl)
	if err != nil {
		return "", err
	}
	if in.Mode&fs.ModeCharDevice == 0 {
		return "", ErrNotRegular
	}
	f, err := h.root.OpenFile(rel(in.Path), os.O_RDWR|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return "", cause(err)
	}
	defer f.Close()
	buf := dmRequest(major, minor)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), dmTableStatus, uintptr(unsafe.Pointer(&buf[0])))
	runtime.KeepAlive(buf)
	if errno != 0 {
		return "", errno
	}
	return dmAnswer(buf)
}

// dmRequest fills struct dm_ioctl, in the byte order of the machine: version, size of all, where data starts, and the device
// as the kernel packs a number (huge_encode_dev).
func dmRequest(major, minor uint64) []byte {
	buf := make([]byte, dmBuffer)
	for i, v := range []uint32{4, 0, 0, dmBuffer, dmHeader} {
		*(*uint32)(unsafe.Pointer(&buf[4*i])) = v
	}
	*(*uint64)(unsafe.Pointer(&buf[40])) = minor&0xff | major<<8 | (minor&^0xff)<<12
	return buf
}

// dmAnswer takes the first target's state out of the answer: struct dm_target_spec with the type at 24, then text.
func dmAnswer(buf []byte) (string, error) {
	if len(buf) < dmHeader+dmSpec {
		return "", errors.New("the device mapper gives a short answer")
	}
	spec := buf[dmHeader:]
	kind, _, _ := bytes.Cut(spec[24:40], []byte{0})
	if string(kind) != "verity" {
		return "", errors.New("the first target is not verity")
	}
	text, _, ok := bytes.Cut(spec[dmSpec:], []byte{0})
	if !ok {
		return "", errors.New("the device mapper gives an answer without end")
	}
	return string(text), nil
}
