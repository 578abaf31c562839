// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/backstay/backstay/update"
)

// counter is the file in which U-Boot counts its starts where it does not do so in the environment (CONFIG_BOOTCOUNT_EXT, now
// CONFIG_BOOTCOUNT_FS; drivers/bootcount/bootcount_ext.c): four bytes, 0xbd, 1, the count, and whether it counts at all. It is
// written in place: four bytes of one sector are there as a whole or not at all.
type counter struct{ path string }

const (
	counterMagic   = 0xbd
	counterVersion = 1
)

// get returns the count, which is 0 while U-Boot does not count.
func (c counter) get() (int, error) {
	f, err := os.Open(c.path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // U-Boot begins at 0, and makes the file
	}
	if err != nil {
		return 0, fmt.Errorf("read boot counter: %w", err)
	}
	defer f.Close()
	var b [5]byte
	if n, err := io.ReadFull(f, b[:]); n != 4 || !errors.Is(err, io.ErrUnexpectedEOF) || b[0] != counterMagic || b[1] != counterVersion {
		return 0, fmt.Errorf("read boot counter: %w: %s is not a counter of U-Boot: % x", update.ErrSetup, c.path, b[:n])
	}
	if b[3] == 0 {
		return 0, nil
	}
	return int(b[2]), nil
}

// set makes U-Boot begin to count at 0, or stop. It writes nothing if that is how it is.
func (c counter) set(on bool) error {
	if c.path == "" {
		return nil
	}
	want := []byte{counterMagic, counterVersion, 0, 0}
	if on {
		want[3] = 1
	}
	old, err := os.ReadFile(c.path)
	if err == nil && string(old) == string(want) {
		return nil
	}
	if err != nil || len(old) != len(want) {
		if err := replace(osFiles{}, c.path, want); err != nil {
			return fmt.Errorf("write boot counter: %w", err)
		}
		return nil
	}
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("write boot counter: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteAt(want, 0); err != nil {
		return fmt.Errorf("write boot counter: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write boot counter: %w", err)
	}
	return nil
}
