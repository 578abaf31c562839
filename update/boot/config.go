// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/backstay/backstay/update"
)

// Bounds of an environment, in bytes. U-Boot boards use 4 KiB to 256 KiB.
const (
	minSize   = 16
	maxSize   = 1 << 20
	maxConfig = 64 << 10 // of an fw_env.config
)

// Area is where one copy of the environment is.
type Area struct {
	Path   string // file or block device
	Offset int64  // bytes; negative counts from the end, on block devices only
	Size   int64  // bytes of the whole copy, with its header
}

// Config says where the environment is, and how it is written.
type Config struct {
	Areas []Area // one: the single format; two: the redundant one
	// Order is the byte order of the checksum, which is that of the CPU the boot loader runs on. Nil: the one that fits what
	// is there.
	Order binary.ByteOrder
	// Locks are the lock files taken, in this order, around every access. Nil: DefaultLocks.
	Locks []string
}

// DefaultLocks returns the lock files of the two programs called fw_setenv: U-Boot's own and libubootenv's. They do not
// exclude each other, so we exclude both.
func DefaultLocks() []string { return []string{"/run/fw_printenv.lock", "/var/lock/fw_printenv.lock"} }

// ReadConfig reads an fw_env.config file. Who can write that file decides what the agent takes for the environment: root only.
func ReadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("read boot environment config: %w: %w", update.ErrSetup, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("read boot environment config: %w", err)
	}
	c, err := ParseConfig(b)
	if err != nil {
		return Config{}, fmt.Errorf("read boot environment config %s: %w: %w", path, update.ErrSetup, err)
	}
	return c, nil
}

// ParseConfig reads the text of an fw_env.config as U-Boot's tool does: lines of
//
//	path offset size [sector size [sectors [...]]]
//
// of which the first two count. The offset is a C literal (decimal, 0x hexadecimal, 0 octal, negative); the size is
// hexadecimal with or without 0x. A line with fewer than three such fields is skipped, as is what follows a "#" that begins a
// line. What the tool does not check is refused here: sizes that differ, sizes no environment has.
func ParseConfig(b []byte) (Config, error) {
	if len(b) > maxConfig {
		return Config{}, fmt.Errorf("it is longer than %d bytes", maxConfig)
	}
	var c Config
	for line := range strings.Lines(string(b)) {
		a, ok := parseArea(line)
		if !ok {
			continue
		}
		if a.Size < minSize || a.Size > maxSize {
			return Config{}, fmt.Errorf("size of %s is %#x, possible is %#x to %#x", a.Path, a.Size, minSize, maxSize)
		}
		if c.Areas = append(c.Areas, a); len(c.Areas) == 2 {
			break
		}
	}
	switch {
	case len(c.Areas) == 0:
		return Config{}, errors.New("no line says where the environment is")
	case len(c.Areas) == 2 && c.Areas[0].Size != c.Areas[1].Size:
		return Config{}, fmt.Errorf("the two copies differ in size: %#x and %#x", c.Areas[0].Size, c.Areas[1].Size)
	case len(c.Areas) == 2 && overlap(c.Areas[0], c.Areas[1]):
		return Config{}, errors.New("the two copies overlap")
	}
	return c, nil
}

func parseArea(line string) (Area, bool) {
	if strings.HasPrefix(line, "#") {
		return Area{}, false
	}
	f := strings.Fields(line)
	if len(f) < 3 {
		return Area{}, false
	}
	off, ok := cLiteral(f[1])
	if !ok {
		return Area{}, false
	}
	hex := strings.TrimPrefix(strings.TrimPrefix(f[2], "0x"), "0X")
	size, err := strconv.ParseUint(hex, 16, 62)
	if err != nil {
		return Area{}, false
	}
	return Area{Path: f[0], Offset: off, Size: int64(size)}, true
}

// cLiteral reads what scanf's %lli accepts as a whole word.
func cLiteral(s string) (int64, bool) {
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" {
		return 0, false
	}
	base := 10
	switch {
	case strings.HasPrefix(digits, "0x"), strings.HasPrefix(digits, "0X"):
		base, digits = 16, digits[2:]
	case digits[0] == '0' && len(digits) > 1:
		base, digits = 8, digits[1:]
	}
	v, err := strconv.ParseInt(digits, base, 64)
	if err != nil || strings.HasPrefix(digits, "-") || strings.HasPrefix(digits, "+") {
		return 0, false
	}
	if s[0] == '-' {
		v = -v
	}
	return v, true
}

func overlap(a, b Area) bool {
	if a.Path != b.Path || (a.Offset < 0) != (b.Offset < 0) {
		return false
	}
	d := a.Offset - b.Offset
	return d < a.Size && -d < a.Size
}
