// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/internal/flash"
)

// ParseCmdline is the parser behind Booted.
var ParseCmdline = parseCmdline

// What the tests put in the place of a kernel.
type (
	Flash  = rawFlash
	Medium = medium
)

// NewChip opens a flash that is made of size bytes in blocks and pages.
func NewChip(f rawFlash, size, block, page int64, nand bool) (Medium, error) {
	return openChip(f, geometry{size, block, page, nand})
}

// NewStore opens a volume.
func NewStore(v flash.Volume) (Medium, error) { return newStore(v) }

// WriterOf returns what writes to a medium.
func WriterOf(m Medium, id update.SlotID, size int64) (update.Writer, error) {
	return m.writer(id, size)
}

// Drain is what reads a slot again.
var Drain = drain

// Written returns how many bytes a writer has really written.
func Written(w update.Writer) int64 { return w.(*Writer).written }
