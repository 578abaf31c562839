// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/internal/flash"
)

// openUBI opens a UBI volume. The kernel keeps two writers apart.
func (s *Set) openUBI(d Device, write bool) (medium, error) {
	path, err := s.ubiNode(d.Path)
	if err != nil {
		return nil, err
	}
	v, err := flash.OpenVolume(path, write)
	if errors.Is(err, unix.EBUSY) {
		return nil, inUse(path, "the volume is mounted or open elsewhere", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", update.ErrSetup, err)
	}
	st, err := newStore(v)
	if err != nil {
		v.Close()
		return nil, err
	}
	return st, nil
}

// isUBIName reports whether a path is "ubi0:NAME" or "/dev/ubi0:NAME", the spellings of mount, U-Boot and libubootenv.
func isUBIName(path string) bool {
	dev, name, ok := strings.Cut(strings.TrimPrefix(path, "/dev/"), ":")
	number, isUBI := strings.CutPrefix(dev, "ubi")
	_, err := strconv.ParseUint(number, 10, 16)
	return ok && isUBI && err == nil && name != ""
}

// ubiNode returns the character device of a volume.
func (s *Set) ubiNode(path string) (string, error) {
	if !isUBIName(path) {
		return path, nil
	}
	node, err := flash.VolumePath(s.sys, "/dev/"+strings.TrimPrefix(path, "/dev/"))
	if err != nil {
		return "", fmt.Errorf("%w: %w", update.ErrSetup, err)
	}
	return node, nil
}
