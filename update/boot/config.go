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

	maxSector  = 16 << 20
	maxSectors = 1 << 16
)

// Area is where one copy of the environment is.
type Area struct {
	Path   string // file or block device
	Offset int64  // bytes; negative counts from the end, on block devices only
	Size   int64  // bytes of the whole copy, with its header
	// On raw flash: bytes of a sector, which is one erase block or several, and how many are reserved. 0: as the flash says, and
	// as many as it takes.
	Sector, Sectors int64
	Line            int // of the configuration; 0: none
}

// Config says where the environment is, and how it is written.
type Config struct {
	Areas []Area // one: the single format; two: the redundant one
	// Order is the byte order of the checksum, which is that of the CPU the boot loader runs on. Nil: the one that fits what
	// is there.
	Order binary.ByteOrder
	// Locks are the lock files taken, in this order, around every access. Nil: DefaultLocks.
	Locks []string
	// Writable are the variables that may be set, each as "name:type-access" like those of .flags (the writelist of libubootenv
	// and of CONFIG_ENV_WRITEABLE_LIST). Nil: all.
	Writable []string

	File string // where this was read from, for errors

	hw *hardware // nil: that of this machine
}

// DefaultLocks returns the lock files of the two programs called fw_setenv: U-Boot's own and libubootenv's. They do not
// exclude each other, so we exclude both.
func DefaultLocks() []string { return []string{"/run/fw_printenv.lock", "/var/lock/fw_printenv.lock"} }

// at is the beginning of an error about an area: the line of the configuration that says where it is.
func (c Config) at(a Area) string {
	if c.File == "" || a.Line == 0 {
		return ""
	}
	return fmt.Sprintf("%s line %d: ", c.File, a.Line)
}

// ReadConfig reads an fw_env.config file, in its own syntax or in the YAML of libubootenv, of which namespace is one
// environment (see [ParseYAML]). Who can write that file decides what the agent takes for the environment: root only.
func ReadConfig(path, namespace string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("read boot environment config: %w: %w", update.ErrSetup, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("read boot environment config: %w", err)
	}
	var c Config
	switch {
	case isYAML(b):
		if namespace == "" {
			namespace = chosen("/proc/device-tree/chosen/u-boot,env-config")
		}
		c, err = ParseYAML(b, namespace)
	case namespace != "":
		err = fmt.Errorf("it has no namespaces, and %q was asked for", namespace)
	default:
		c, err = ParseConfig(b)
	}
	if err != nil {
		return Config{}, fmt.Errorf("read boot environment config %s: %w: %w", path, update.ErrSetup, err)
	}
	c.File = path
	return c, nil
}

// chosen returns the namespace that U-Boot says it uses, through the device tree, and "" if it says nothing.
func chosen(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 64)
	n, _ := io.ReadFull(f, b)
	name, _, _ := strings.Cut(string(b[:n]), "\x00")
	return name
}

// ParseConfig reads the text of an fw_env.config as both tools do: lines of
//
//	path offset size [sector size [sectors [no lock]]]
//
// The offset is a C literal (decimal, 0x hexadecimal, 0 octal, negative); the sizes are hexadecimal with or without 0x. What
// follows a "#" is ignored, and so is everything after the second copy. A line that the tools would pass over in silence, and
// sizes and places that they would not check, are refused: with one line of two misspelt, a redundant environment would be
// written as a single one.
func ParseConfig(b []byte) (Config, error) {
	if len(b) > maxConfig {
		return Config{}, fmt.Errorf("it is longer than %d bytes", maxConfig)
	}
	var c Config
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		a, ok, err := parseArea(line)
		if err != nil {
			return Config{}, fmt.Errorf("line %d: %w", n, err)
		}
		if !ok {
			continue
		}
		a.Line = n
		if c.Areas = append(c.Areas, a); len(c.Areas) == 2 {
			break
		}
	}
	if err := c.check(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// check refuses areas that cannot hold an environment.
func (c Config) check() error {
	for _, a := range c.Areas {
		if a.Size < minSize || a.Size > maxSize {
			return fmt.Errorf("line %d: size of %s is %#x, possible is %#x to %#x", a.Line, a.Path, a.Size, minSize, maxSize)
		}
		if a.Sector < 0 || a.Sector > maxSector || a.Sectors < 0 || a.Sectors > maxSectors {
			return fmt.Errorf("line %d: %d sectors of %#x bytes of %s are not possible", a.Line, a.Sectors, a.Sector, a.Path)
		}
	}
	switch {
	case len(c.Areas) == 0:
		return errors.New("no line says where the environment is")
	case len(c.Areas) == 2 && c.Areas[0].Size != c.Areas[1].Size:
		return fmt.Errorf("line %d: the two copies differ in size: %#x and %#x", c.Areas[1].Line, c.Areas[0].Size, c.Areas[1].Size)
	case len(c.Areas) == 2 && overlap(c.Areas[0], c.Areas[1]):
		return fmt.Errorf("line %d: the two copies overlap", c.Areas[1].Line)
	}
	return nil
}

// parseArea reads one line; ok is false if there is nothing on it.
func parseArea(line string) (a Area, ok bool, err error) {
	line, _, _ = strings.Cut(line, "#")
	f := strings.Fields(line)
	if len(f) == 0 {
		return Area{}, false, nil
	}
	if len(f) < 3 || len(f) > 6 {
		return Area{}, false, fmt.Errorf("%d words, not \"path offset size [sector size [sectors [no lock]]]\"", len(f))
	}
	off, ok := cLiteral(f[1])
	if !ok {
		return Area{}, false, fmt.Errorf("offset %q is not a number", f[1])
	}
	a = Area{Path: f[0], Offset: off}
	for i, to := range []*int64{&a.Size, &a.Sector, &a.Sectors} {
		if len(f) <= 2+i {
			break
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimPrefix(f[2+i], "0x"), "0X"), 16, 62)
		if err != nil {
			return Area{}, false, fmt.Errorf("%s %q is not a hexadecimal number", [...]string{"size", "sector size", "number of sectors"}[i], f[2+i])
		}
		*to = int64(n)
	}
	// The sixth word switches off libubootenv's unlocking of NOR flash. We unlock what is locked, and only that.
	if len(f) == 6 && f[5] != "0" && f[5] != "1" {
		return Area{}, false, fmt.Errorf("%q is neither 0 nor 1", f[5])
	}
	return a, true, nil
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
