// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"time"
)

// Sizes of a record of utmp(5). glibc has 32-bit times in it on most machines, those that also ran 32-bit programs included, and
// 64-bit ones where there never were any; musl has 64-bit ones everywhere, but never writes a record.
const (
	utmpShort = 384
	utmpLong  = 400
)

// Types of utmp records that are used.
const (
	utmpBoot  = 2
	utmpLogin = 6
	utmpUser  = 7
	utmpDead  = 8
	utmpMax   = 9
)

// utmpSize returns the size of the records in a file of n bytes: that of this machine, unless only the other one fits.
func utmpSize(n int64) int {
	size, other := utmpShort, utmpLong
	switch runtime.GOARCH {
	case "arm64", "riscv64", "loong64":
		size, other = other, size
	}
	if n%int64(size) != 0 && n%int64(other) == 0 {
		return other
	}
	return size
}

// utmpRecord is what is used of a record.
type utmpRecord struct {
	kind             int16
	pid              int32
	line, user, host string
	at               time.Time
	address          netip.Addr // zero value when there is none
}

// parseUtmp reads one record, in the byte order of the machine. ok is false for what cannot be one.
func parseUtmp(b []byte) (r utmpRecord, ok bool) {
	if len(b) != utmpShort && len(b) != utmpLong {
		return r, false
	}
	order := binary.NativeEndian
	r.kind, r.pid = int16(order.Uint16(b)), int32(order.Uint32(b[4:]))
	if r.kind < 0 || r.kind > utmpMax {
		return r, false
	}
	r.line, r.user, r.host = text(b[8:40]), text(b[44:76]), text(b[76:332])
	address := b[348:364]
	seconds := int64(order.Uint32(b[340:])) // unsigned: good until 2106
	if len(b) == utmpLong {
		seconds = int64(order.Uint64(b[344:]))
		address = b[360:376]
	}
	if seconds > 0 && seconds < 1<<40 {
		r.at = time.Unix(seconds, 0).UTC()
	}
	switch {
	case bytes.Count(address, []byte{0}) == 16:
	case bytes.Count(address[4:], []byte{0}) == 12:
		r.address = netip.AddrFrom4([4]byte(address[:4]))
	default:
		r.address = netip.AddrFrom16([16]byte(address)).Unmap()
	}
	return r, true
}

// text reads a string that ends with a zero byte or with its field.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
