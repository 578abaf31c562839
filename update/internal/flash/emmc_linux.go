// SPDX-License-Identifier: Apache-2.0

package flash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Unprotect lifts the kernel's write protection of an eMMC boot partition (/dev/mmcblk0boot0), which is on by default, and
// returns what puts it back as it was. Anything else has none, and nothing happens. sys is where sysfs is. What the eMMC
// itself protects stays protected.
func Unprotect(sys, path string) (restore func() error, err error) {
	none := func() error { return nil }
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return none, nil
	}
	rdev := uint64(st.Rdev)
	// The node may have any name; sysfs leads from the number to the kernel's.
	device, err := filepath.EvalSymlinks(filepath.Join(sys, fmt.Sprintf("dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev))))
	if err != nil || !bootPartition(filepath.Base(device)) {
		return none, nil
	}
	return unprotect(filepath.Join(device, "force_ro"))
}

func unprotect(attribute string) (func() error, error) {
	was, err := os.ReadFile(attribute)
	if errors.Is(err, os.ErrNotExist) || (err == nil && strings.TrimSpace(string(was)) == "0") {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lift write protection: %w", err)
	}
	if err := os.WriteFile(attribute, []byte("0"), 0); err != nil {
		return nil, fmt.Errorf("lift write protection: %w", err)
	}
	return func() error {
		if err := os.WriteFile(attribute, []byte("1"), 0); err != nil {
			return fmt.Errorf("restore write protection: %w", err)
		}
		return nil
	}, nil
}

// bootPartition tells mmcblk0boot0 and mmcblk12boot1 from mmcblk0, mmcblk0p1 and mmcblk0rpmb.
func bootPartition(name string) bool {
	card, part, ok := strings.Cut(name, "boot")
	number, mmc := strings.CutPrefix(card, "mmcblk")
	return ok && mmc && digits(number) && digits(part)
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
