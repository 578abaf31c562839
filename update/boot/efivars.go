// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// The variables of an EFI firmware, as the kernel shows them (Documentation/filesystems/efivarfs.rst): a file for each, named
// Name-GUID, that holds four bytes of attributes, little-endian, and the value. One write is one call of the firmware's
// SetVariable: the variable has the old value or the new one, durably. Most variables are immutable files until they are told
// otherwise, so that nobody bricks a board with rm.

// Vendors of variables.
const (
	efiGlobal  = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	efiSystemd = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

const (
	efiAttributes = 7 // kept over a reboot, seen by the boot loader, seen at run time
	maxEFIVar     = 64 << 10
	maxEFIEntries = 512
	efiImmutable  = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
)

// efiVars is the variables. set and remove are whole and durable when they return nil.
type efiVars interface {
	get(name string) (attributes uint32, value []byte, err error) // fs.ErrNotExist if there is none
	set(name string, attributes uint32, value []byte) error
	remove(name string) error
	list() ([]string, error)
}

// efiDir is efivarfs, or a directory that stands for it.
type efiDir string

func (d efiDir) get(name string) (uint32, []byte, error) {
	f, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	// The kernel returns a variable as it was when its file was read from the start, so it is read in one piece.
	b := make([]byte, 4096)
	for n := 0; ; {
		k, err := f.ReadAt(b[n:], int64(n))
		if n += k; err == io.EOF {
			b = b[:n]
			break
		}
		if err != nil {
			return 0, nil, err
		}
		if n == len(b) && n >= maxEFIVar {
			return 0, nil, fmt.Errorf("variable %s is longer than %d bytes", name, maxEFIVar)
		}
		if n == len(b) {
			b = append(b, make([]byte, len(b))...)
		}
	}
	if len(b) < 4 {
		return 0, nil, fmt.Errorf("variable %s has %d bytes, fewer than its attributes", name, len(b))
	}
	return binary.LittleEndian.Uint32(b), b[4:], nil
}

func (d efiDir) set(name string, attributes uint32, value []byte) error {
	path := filepath.Join(string(d), name)
	defer mutable(path)()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	raw := append(binary.LittleEndian.AppendUint32(nil, attributes), value...)
	if n, err := f.Write(raw); err != nil || n != len(raw) {
		return fmt.Errorf("write variable %s: %w", name, errors.Join(err, shortWrite(n, len(raw))))
	}
	_ = f.Truncate(int64(len(raw))) // a directory that stands for efivarfs would keep the end of a longer value
	back, data, err := d.get(name)
	if err != nil || back != attributes || !bytes.Equal(data, value) {
		return fmt.Errorf("read variable %s back: it does not hold what was written: %w", name, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return nil
}

func shortWrite(n, want int) error {
	if n != want {
		return io.ErrShortWrite
	}
	return nil
}

func (d efiDir) remove(name string) error {
	path := filepath.Join(string(d), name)
	defer mutable(path)()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove variable %s: %w", name, err)
	}
	return nil
}

func (d efiDir) list() ([]string, error) {
	f, err := os.Open(string(d))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// mutable lifts the immutable flag of a file, and returns what puts it back.
func mutable(path string) func() {
	f, err := os.Open(path)
	if err != nil {
		return func() {}
	}
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&efiImmutable == 0 {
		f.Close()
		return func() {}
	}
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags&^efiImmutable))
	return func() {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags))
		f.Close()
	}
}

// loadOption returns the description of a Boot#### variable: u32 attributes, u16 length of the device path, and the
// description in UTF-16 up to a NUL (UEFI specification, EFI_LOAD_OPTION).
func loadOption(b []byte) (string, error) {
	if len(b) < 8 {
		return "", errors.New("a load option has at least 8 bytes")
	}
	return utf16String(b[6:])
}

func utf16String(b []byte) (string, error) {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			return string(utf16.Decode(u)), nil
		}
		u = append(u, c)
	}
	return "", errors.New("a text does not end")
}

func utf16Bytes(s string) []byte {
	var b []byte
	for _, c := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// bootNumber returns the number of a variable Boot####.
func bootNumber(name string) (uint16, bool) {
	digits, ok := strings.CutSuffix(strings.TrimPrefix(name, "Boot"), "-"+efiGlobal)
	if !ok || !strings.HasPrefix(name, "Boot") {
		return 0, false
	}
	return hex4(digits)
}

func hex4(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 16, 16)
	return uint16(n), err == nil && len(s) == 4
}
