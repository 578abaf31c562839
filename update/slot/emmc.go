// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
)

// A boot partition of an eMMC (/dev/mmcblk0boot1) is a block device that the kernel keeps read-only by its attribute
// force_ro: a stray write there costs the boot loader. The attribute is 0 while a slot is open for writing, and 1 again
// whatever happens: at Close, and at the next start of the agent if it was killed in between. After a reset the kernel starts
// with 1 by itself.
//
// Which of the two boot partitions the processor starts from is the boot loader's matter (PARTITION_CONFIG in EXT_CSD), and
// so is a write protection in the eMMC itself, which no attribute lifts.

func (s *Set) openEMMC(d Device, write bool) (medium, error) {
	if !write {
		if _, err := s.forceRO(d.Path); err != nil {
			return nil, err
		}
		return openDisk(d, false)
	}
	changed, err := s.force(d.Path, "0")
	if err != nil {
		return nil, err
	}
	m, err := openDisk(d, true)
	if err != nil {
		if changed { // else somebody else is writing, and puts it back
			err = errors.Join(err, s.protect(d.Path))
		}
		return nil, err
	}
	if m, ok := m.(*disk); ok {
		m.closed = func() error { return s.protect(d.Path) }
	}
	return m, nil
}

// protect makes the kernel refuse writes to a boot partition, if it does not already.
func (s *Set) protect(path string) error {
	_, err := s.force(path, "1")
	return err
}

func (s *Set) force(path, value string) (changed bool, err error) {
	attr, err := s.forceRO(path)
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(attr)
	if err != nil {
		return false, fmt.Errorf("%w: %s is not a boot partition of an eMMC: %w", update.ErrSetup, path, err)
	}
	if len(b) > 0 && string(b[:1]) == value {
		return false, nil
	}
	if err := os.WriteFile(attr, []byte(value), 0); err != nil {
		return false, fmt.Errorf("set force_ro of %s to %s: %w", path, value, err)
	}
	return true, nil
}

// forceRO finds the attribute by the device number: the path may be a link with a name of its own.
func (s *Set) forceRO(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || sys.Mode&syscall.S_IFMT != syscall.S_IFBLK {
		return "", fmt.Errorf("%w: %s is not a block device", update.ErrSetup, path)
	}
	dev := uint64(sys.Rdev)
	number := strconv.Itoa(int(unix.Major(dev))) + ":" + strconv.Itoa(int(unix.Minor(dev)))
	return filepath.Join(s.sys, "dev/block", number, "force_ro"), nil
}
