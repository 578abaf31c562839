// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The header of cpio's "new ASCII" format, which the kernel takes as an initramfs: a magic and 13 numbers of 8 hexadecimal
// digits. Name and content follow, each padded to 4 bytes.
const (
	cpioMagic   = "070701"
	cpioCRC     = "070702" // the same with a sum of the content
	cpioHeader  = 110
	cpioTrailer = "TRAILER!!!"
)

type cpioEntry struct {
	ino, mode, uid, gid, nlink, size, major, minor, rmajor, rminor uint32
	name                                                           string
}

// cpioIndex reads an archive once. Several archives may follow each other, as the kernel allows, padded with zeros.
func cpioIndex(ctx context.Context, in *stream, keep *spool) (*index, error) {
	x := newIndex()
	links := map[[3]uint32][]string{} // names of one file, by device and number, whose content comes with the last of them
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := readCPIO(in)
		if errors.Is(err, io.EOF) {
			return x, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read cpio: %w", err)
		}
		if e.name == cpioTrailer {
			clear(links)
			continue
		}
		if err := x.cpioEntry(ctx, e, in, keep, links); err != nil {
			return nil, fmt.Errorf("read cpio: %w", err)
		}
	}
}

func (x *index) cpioEntry(ctx context.Context, e cpioEntry, in *stream, keep *spool, links map[[3]uint32][]string) error {
	n := node{in: inode{mode: e.mode & (unix.S_IFMT | 0o7777), uid: e.uid, gid: e.gid, rdev: unix.Mkdev(e.rmajor, e.rminor)}}
	start := in.at
	switch e.mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.in.size = int64(e.size)
		var err error
		if n.data, err = in.content(ctx, in, n.in.size, false, keep); err != nil {
			return err
		}
	case unix.S_IFLNK:
		if e.size > maxLink {
			return fmt.Errorf("%s: a link of %d bytes", printable(e.name), e.size)
		}
		to := make([]byte, e.size)
		if _, err := io.ReadFull(in, to); err != nil {
			return err
		}
		n.in.size, n.data = int64(len(to)), text(string(to))
	case unix.S_IFDIR, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return fmt.Errorf("%s: mode %o is of no type", printable(e.name), e.mode)
	}
	if err := skip(in, start+int64(e.size)-in.at); err != nil {
		return err
	}
	if err := pad(in, start); err != nil {
		return err
	}
	if e.nlink < 2 || e.mode&unix.S_IFMT != unix.S_IFREG {
		return x.add(e.name, n)
	}
	id := [3]uint32{e.ino, e.major, e.minor}
	if e.size == 0 {
		links[id] = append(links[id], e.name)
		if len(links[id]) < int(min(e.nlink, maxIndex)) {
			return x.add(e.name, n) // replaced when the content comes
		}
	}
	if err := x.add(e.name, n); err != nil {
		return err
	}
	for _, other := range links[id] {
		if other == e.name {
			continue
		}
		if err := x.link(other, e.name); err != nil {
			return err
		}
	}
	delete(links, id)
	return nil
}

// readCPIO reads one header and name; io.EOF at the end of the archive.
func readCPIO(in *stream) (cpioEntry, error) {
	var h [cpioHeader]byte
	for {
		n, err := io.ReadFull(in, h[:4])
		if n == 0 || (errors.Is(err, io.ErrUnexpectedEOF) && allZero(h[:n])) {
			return cpioEntry{}, io.EOF
		}
		if err != nil {
			return cpioEntry{}, err
		}
		if !allZero(h[:4]) {
			break
		}
	}
	if _, err := io.ReadFull(in, h[4:]); err != nil {
		return cpioEntry{}, noEOF(err)
	}
	if m := string(h[:6]); m != cpioMagic && m != cpioCRC {
		return cpioEntry{}, fmt.Errorf("no header at byte %d", in.at-cpioHeader)
	}
	var v [13]uint32
	for i := range v {
		n, err := strconv.ParseUint(string(h[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			return cpioEntry{}, fmt.Errorf("bad header at byte %d", in.at-cpioHeader)
		}
		v[i] = uint32(n)
	}
	if v[11] == 0 || v[11] > maxLink {
		return cpioEntry{}, fmt.Errorf("a name of %d bytes", v[11])
	}
	name := make([]byte, v[11])
	if _, err := io.ReadFull(in, name); err != nil {
		return cpioEntry{}, noEOF(err)
	}
	e := cpioEntry{v[0], v[1], v[2], v[3], v[4], v[6], v[7], v[8], v[9], v[10], strings.TrimRight(string(name), "\x00")}
	// The header is 110 bytes, so the name ends 2 bytes before a multiple of 4 when its own length is one.
	return e, skip(in, int64((4-(cpioHeader+int(v[11]))%4)%4))
}

// pad skips to the next multiple of 4 after start.
func pad(in *stream, start int64) error {
	return skip(in, (4-(in.at-start)%4)%4)
}

func skip(in *stream, n int64) error {
	if n <= 0 {
		return nil
	}
	if in.direct != nil && n > 1 { // the last byte is read, to see that it is there
		if _, err := (seekable{in}).Seek(n-1, io.SeekCurrent); err != nil {
			return err
		}
		n = 1
	}
	_, err := io.CopyN(io.Discard, in, n)
	return noEOF(err)
}

// noEOF makes the end of the input an error where it must not be.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
