// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// The environment block, as U-Boot's env/common.c and tools/env/fw_env.c read and write it:
//
//	single:     u32 crc | data
//	redundant:  u32 crc | u8 flags | data      the crc does not cover the flags
//	data:       "name=value\0" ... "\0" padding    the padding is arbitrary, and inside the crc
//
// crc is CRC-32/IEEE of the data in the byte order of the target. Of two intact copies the one with the higher flags is
// current, where 0 follows 255; if the flags are equal, it is the first. On NOR flash flags are 1 in the current copy and 0 in
// the other.

// vars are the variables of an environment in their order, each as it is stored: "name=value". What has no "=" is carried
// along untouched.
type vars []string

// parseData reads the variables from the data of a block.
func parseData(data []byte) (vars, error) {
	var v vars
	for len(data) > 0 && data[0] != 0 {
		end := bytes.IndexByte(data, 0)
		if end < 0 {
			return nil, errors.New("its last variable does not end")
		}
		v = append(v, string(data[:end]))
		data = data[end+1:]
	}
	if len(data) == 0 {
		return nil, errors.New("its list of variables does not end")
	}
	return v, nil
}

// data returns the data of a block of n bytes: the variables, the empty string, and zeros, so that what was deleted is gone.
func (v vars) data(n int) ([]byte, error) {
	out := make([]byte, 0, n)
	for _, e := range v {
		if len(out)+len(e)+2 > n {
			return nil, fmt.Errorf("it does not fit in %d bytes", n)
		}
		out = append(append(out, e...), 0)
	}
	return out[:n], nil
}

// get returns the value of a variable. A name that is there twice has the last value, as it has for U-Boot.
func (v vars) get(name string) (string, bool) {
	for _, e := range slices.Backward(v) {
		if n, value, ok := strings.Cut(e, "="); ok && n == name {
			return value, true
		}
	}
	return "", false
}

// set returns the variables with one changed in its place, appended, or removed if the value is empty.
func (v vars) set(name, value string) vars {
	at := -1
	for i, e := range v {
		if n, _, ok := strings.Cut(e, "="); ok && n == name {
			at = i
		}
	}
	var out vars
	for i, e := range v {
		n, _, ok := strings.Cut(e, "=")
		switch {
		case !ok || n != name:
			out = append(out, e)
		case i == at && value != "":
			out = append(out, name+"="+value)
		}
	}
	if at < 0 && value != "" {
		out = append(out, name+"="+value)
	}
	return out
}

// checkVar refuses what would not be read back as it was set. An empty name would end the list for U-Boot.
func checkVar(name, value string) error {
	if name == "" {
		return errors.New("set boot variable: its name is empty")
	}
	for _, r := range []byte(name) {
		if r == '=' || r <= ' ' || r == 0x7f {
			return fmt.Errorf("set boot variable %q: a name has no %q", name, r)
		}
	}
	if strings.ContainsRune(value, 0) {
		return fmt.Errorf("set boot variable %s: a value has no NUL", name)
	}
	return nil
}

// block is one copy as it is stored.
type block struct {
	raw   []byte
	err   error // why it is not intact
	order binary.ByteOrder
	flags byte
	vars  vars
}

func header(redundant bool) int {
	if redundant {
		return 5
	}
	return 4
}

// parseBlock reads one copy. Without an order, it takes the one that fits.
func parseBlock(raw []byte, redundant bool, order binary.ByteOrder) block {
	b := block{raw: raw}
	if len(raw) < minSize {
		b.err = fmt.Errorf("%d bytes are too few", len(raw))
		return b
	}
	data := raw[header(redundant):]
	sum := crc32.ChecksumIEEE(data)
	for _, o := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if (order == nil || order == o) && o.Uint32(raw) == sum && b.order == nil {
			b.order = o
		}
	}
	if b.order == nil {
		b.err = errors.New("its checksum is wrong")
		return b
	}
	if redundant {
		b.flags = raw[4]
	}
	b.vars, b.err = parseData(data)
	return b
}

// encodeBlock returns one copy of size bytes.
func encodeBlock(v vars, size int, redundant bool, flags byte, order binary.ByteOrder) ([]byte, error) {
	h := header(redundant)
	data, err := v.data(size - h)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, size)
	copy(raw[h:], data)
	order.PutUint32(raw, crc32.ChecksumIEEE(raw[h:]))
	if redundant {
		raw[4] = flags
	}
	return raw, nil
}

// current returns which of the copies U-Boot uses. It never makes up an environment: with no intact copy there is none.
func current(copies []block, how scheme) (int, error) {
	if len(copies) == 1 {
		if copies[0].err != nil {
			return 0, fmt.Errorf("the only copy is damaged: %w", copies[0].err)
		}
		return 0, nil
	}
	a, b := copies[0], copies[1]
	switch {
	case a.err != nil && b.err != nil:
		return 0, fmt.Errorf("both copies are damaged: %w; %w", a.err, b.err)
	case a.err != nil:
		return 1, nil
	case b.err != nil:
		return 0, nil
	case a.order != b.order:
		return 0, errors.New("the copies have different byte orders")
	case how == boolean:
		return active(a.flags, b.flags), nil
	case a.flags == 255 && b.flags == 0:
		return 1, nil
	case a.flags == 0 && b.flags == 255:
		return 0, nil
	case b.flags > a.flags:
		return 1, nil
	}
	return 0, nil
}

// active is the choice under the boolean scheme: 1 is active, 0 is obsolete, 0xff is what an erase leaves.
func active(a, b byte) int {
	if a == 0 && b == 1 || a != 0xff && b == 0xff {
		return 1
	}
	return 0
}
