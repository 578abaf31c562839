// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/internal/flash"
)

// maxText bounds what is read of a file of the kernel's, in bytes.
const maxText = 1 << 20

// openMTD opens raw flash.
func (s *Set) openMTD(d Device, write bool) (medium, error) {
	path, err := s.mtdNode(d.Path)
	if err != nil {
		return nil, err
	}
	m, err := flash.OpenMTD(path, write)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", update.ErrSetup, err)
	}
	info := m.Info()
	c, err := openChip(m, geometry{info.Size, info.EraseSize, info.WriteSize, info.Kind == flash.NAND})
	if err == nil && write {
		c.held, err = s.mtdLock(path, info.Writable)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return c, nil
}

// mtdLock returns the lock on a flash that nobody else works on.
func (s *Set) mtdLock(path string, writable bool) (*os.File, error) {
	if !writable {
		return nil, fmt.Errorf("%w: %s is read-only", update.ErrSetup, path)
	}
	f, err := os.Open(path)
	if err == nil {
		err = lock(f)
	}
	if err == nil {
		err = s.mtdBusy(f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// mtdNode returns the character device of "mtd:NAME", or the path as it is.
func (s *Set) mtdNode(path string) (string, error) {
	name, ok := strings.CutPrefix(path, "mtd:")
	if !ok {
		return path, nil
	}
	dirs, err := filepath.Glob(filepath.Join(s.sys, "class/mtd/mtd*"))
	if err != nil {
		return "", err
	}
	found := ""
	for _, dir := range dirs {
		if strings.HasSuffix(dir, "ro") || text(filepath.Join(dir, "name")) != name {
			continue // every /dev/mtdN has a read-only twin
		}
		if found != "" {
			return "", fmt.Errorf("%w: %s and %s are both named %q", update.ErrSetup, found, filepath.Base(dir), name)
		}
		found = filepath.Base(dir)
	}
	if found == "" {
		return "", fmt.Errorf("%w: no flash is named %q", update.ErrSetup, name)
	}
	return "/dev/" + found, nil
}

// text reads a file of the kernel's. One that cannot be read is empty.
func text(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxText))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}

// mtdBusy refuses flash that a file system or UBI works on. The kernel does not: it lets anybody erase anything.
func (s *Set) mtdBusy(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	n := strconv.Itoa(int(unix.Minor(uint64(st.Rdev)) / 2)) // odd minors are the read-only twins
	ubis, err := filepath.Glob(filepath.Join(s.sys, "class/ubi/ubi*"))
	if err != nil {
		return err
	}
	for _, dir := range ubis {
		if text(filepath.Join(dir, "mtd_num")) == n {
			return inUse(f.Name(), filepath.Base(dir)+" is attached to it", nil)
		}
	}
	for line := range strings.Lines(text("/proc/self/mountinfo")) {
		if word := strings.Fields(line); len(word) > 4 && word[2] == mtdBlockMajor+":"+n {
			return inUse(f.Name(), "it is mounted on "+word[4], nil)
		}
	}
	return nil
}

// mtdBlockMajor is the device number that file systems on flash carry, in decimal.
const mtdBlockMajor = "31"
