// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
)

// partition is one part of a disk image.
type partition struct {
	number      int
	start, size int64
	label, what string
}

// Bounds of a partition table.
const (
	maxParts   = 256
	maxLogical = 64 // links of a chain of logical partitions
)

// disk opens a partition of a disk image, or lists them.
func (s *Source) disk(ctx context.Context, r *io.SectionReader, opt Options) error {
	parts, table := partitions(r)
	if table == "" {
		return &Unsupported{Name: s.Name, What: "its content is no file system, archive or disk that this program knows",
			Next: "name a directory, or a tar, cpio, squashfs, ext2, ext3 or ext4 image"}
	}
	list := listOf(r, parts)
	if opt.Partition == "" {
		return &Unsupported{Name: s.Name, What: "it is a disk image (" + table + ") with partitions:\n" + list,
			Next: "give --partition the number or label of the one with the root file system"}
	}
	for _, p := range parts {
		if strconv.Itoa(p.number) != opt.Partition && (p.label == "" || p.label != opt.Partition) {
			continue
		}
		if p.start < 0 || p.size <= 0 || p.start > r.Size()-p.size {
			return fmt.Errorf("partition %s lies outside of the image: it was cut, or its table is damaged", opt.Partition)
		}
		part := io.NewSectionReader(r, p.start, p.size)
		f, ok := formatOf(part)
		if !ok {
			return &Unsupported{Name: s.Name, What: "partition " + opt.Partition + " holds nothing that this program knows", Next: "choose another one:\n" + list}
		}
		return s.volume(ctx, part, f)
	}
	return &Unsupported{Name: s.Name, What: "no partition is called " + opt.Partition, Next: "the partitions are:\n" + list}
}

// listOf describes partitions, a line each.
func listOf(r io.ReaderAt, parts []partition) string {
	var b strings.Builder
	for _, p := range parts {
		what := p.what
		if f, ok := formatOf(io.NewSectionReader(r, p.start, p.size)); ok {
			what = f.name
		}
		fmt.Fprintf(&b, "%d %s %s %s\n", p.number, fmt.Sprintf("%.1f MiB", float64(p.size)/(1<<20)), what, printable(p.label))
	}
	return strings.TrimRight(b.String(), "\n")
}

// partitions reads a GPT or an MBR. table is "" when there is neither.
func partitions(r *io.SectionReader) (parts []partition, table string) {
	for _, sector := range []int64{512, 4096} {
		if p, ok := readGPT(r, sector); ok {
			return p, "GPT"
		}
	}
	var mbr [512]byte
	if n, _ := r.ReadAt(mbr[:], 0); n < len(mbr) || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, ""
	}
	for i := range 4 {
		e := mbr[446+16*i:]
		if e[0]&0x7f != 0 { // a boot sector of something else
			return nil, ""
		}
		start, size := int64(binary.LittleEndian.Uint32(e[8:]))*512, int64(binary.LittleEndian.Uint32(e[12:]))*512
		if size == 0 {
			continue
		}
		if t := e[4]; t == 5 || t == 15 || t == 0x85 {
			parts = append(parts, logical(r, start)...)
			continue
		}
		parts = append(parts, partition{i + 1, start, size, "", fmt.Sprintf("type %02x", e[4])})
	}
	if len(parts) == 0 {
		return nil, ""
	}
	return parts, "MBR"
}

// logical follows the chain inside an extended partition.
func logical(r io.ReaderAt, extended int64) (parts []partition) {
	for at, n := extended, 5; n < 5+maxLogical; n++ {
		var ebr [512]byte
		if k, _ := r.ReadAt(ebr[:], at); k < len(ebr) || ebr[510] != 0x55 || ebr[511] != 0xaa {
			return parts
		}
		e, next := ebr[446:], ebr[462:]
		if size := int64(binary.LittleEndian.Uint32(e[12:])) * 512; size > 0 {
			parts = append(parts, partition{n, at + int64(binary.LittleEndian.Uint32(e[8:]))*512, size, "", fmt.Sprintf("type %02x", e[4])})
		}
		if binary.LittleEndian.Uint32(next[8:]) == 0 {
			return parts
		}
		at = extended + int64(binary.LittleEndian.Uint32(next[8:]))*512
	}
	return parts
}

func readGPT(r io.ReaderAt, sector int64) ([]partition, bool) {
	var h [92]byte
	if n, _ := r.ReadAt(h[:], sector); n < len(h) || string(h[:8]) != "EFI PART" {
		return nil, false
	}
	le := binary.LittleEndian
	at, count, size := int64(le.Uint64(h[72:])), int(min(le.Uint32(h[80:]), maxParts)), int64(le.Uint32(h[84:]))
	if at < 0 || at > 1<<40 || size < 128 || size > 4096 {
		return nil, false
	}
	var out []partition
	e := make([]byte, size)
	for i := range count {
		if n, _ := r.ReadAt(e, at*sector+int64(i)*size); n < len(e) {
			break
		}
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		first, last := int64(le.Uint64(e[32:])), int64(le.Uint64(e[40:]))
		if first < 0 || last < first || last > 1<<40 {
			continue
		}
		var name []uint16
		for j := 56; j < 128; j += 2 {
			c := le.Uint16(e[j:])
			if c == 0 {
				break
			}
			name = append(name, c)
		}
		out = append(out, partition{i + 1, first * sector, (last - first + 1) * sector, string(utf16.Decode(name)), "unknown"})
	}
	return out, true
}
