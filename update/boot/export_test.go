// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"encoding/binary"
	"slices"
)

// Reencode parses one copy and writes it again.
func Reencode(raw []byte, redundant bool) (entries []string, again []byte, err error) {
	b := parseBlock(raw, redundant, nil)
	if b.err != nil {
		return nil, nil, b.err
	}
	again, err = encodeBlock(b.vars, len(raw), redundant, b.flags, b.order)
	return b.vars, again, err
}

// Encode writes one copy.
func Encode(entries []string, size int, redundant bool, order binary.ByteOrder) ([]byte, error) {
	return encodeBlock(entries, size, redundant, 1, order)
}

// Sort orders the variables by name.
func Sort(e *Env) { slices.Sort(e.vars) }
