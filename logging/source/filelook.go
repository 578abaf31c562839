// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// look is what is kept of one watched name.
type look struct {
	mode     uint32 // type and permissions
	uid, gid uint32
	size     int64
	sum      [sha256.Size]byte // of the content, of the text of a link; zero for a directory
	part     bool              // sum is of the beginning only
}

func (l look) isDir() bool { return l.mode&unix.S_IFMT == unix.S_IFDIR }

// same reports whether content and attributes are equal.
func (l look) sameContent(o look) bool {
	return l.mode&unix.S_IFMT == o.mode&unix.S_IFMT && l.sum == o.sum && l.part == o.part && (l.isDir() || l.size == o.size)
}

func (l look) sameAttributes(o look) bool {
	return l.mode == o.mode && l.uid == o.uid && l.gid == o.gid
}

// take looks at a name. With follow a link stands for what it leads to.
func take(d *digester, path string, follow bool) (l look, st unix.Stat_t, err error) {
	if err = unix.Lstat(path, &st); err != nil {
		return l, st, err
	}
	if follow && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if err = unix.Stat(path, &st); err != nil {
			return l, st, err
		}
	}
	l = look{mode: uint32(st.Mode), uid: st.Uid, gid: st.Gid, size: st.Size}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return l, st, err
		}
		l.sum = sha256.Sum256([]byte(target))
	case unix.S_IFREG:
		f, err := openRegular(path)
		if err != nil {
			return l, st, err
		}
		defer f.Close()
		sum, err := d.file(int(f.Fd()))
		if err != nil {
			return l, st, err
		}
		l.sum, l.part = sum.sum, !sum.whole
	default:
		l.size = 0
	}
	return l, st, nil
}

// Flags of an encoded look, above the bits of a mode.
const lookPart = 1 << 16

// fileState is what is kept across restarts: looks in the order of names, as many as find room.
type fileState struct {
	list [8]byte // identifies the list of watched names
	last string  // names after this one found no room; empty: all did
	all  map[string]look
}

// encodeFiles writes a state: names share their beginning with the one before.
func encodeFiles(s fileState) (b []byte, kept int) {
	names := make([]string, 0, len(s.all))
	for n := range s.all {
		names = append(names, n)
	}
	slices.Sort(names)
	b = append([]byte{1, 0}, s.list[:]...)
	prev := ""
	for _, n := range names {
		at := len(b)
		l := s.all[n]
		shared := 0
		for shared < min(len(prev), len(n)) && prev[shared] == n[shared] {
			shared++
		}
		mode := l.mode & 0xffff
		if l.part {
			mode |= lookPart
		}
		b = binary.AppendUvarint(b, uint64(shared))
		b = binary.AppendUvarint(b, uint64(len(n)-shared))
		b = append(b, n[shared:]...)
		for _, v := range [...]uint64{uint64(mode), uint64(l.uid), uint64(l.gid), uint64(l.size)} {
			b = binary.AppendUvarint(b, v)
		}
		b = append(b, l.sum[:]...)
		if len(b) > MaxState {
			b[1] = 1
			return b[:at], kept
		}
		kept++
		prev = n
	}
	return b, kept
}

var errFileState = errors.New("not a state of files")

// decodeFiles reads what encodeFiles wrote.
func decodeFiles(b []byte) (s fileState, err error) {
	if len(b) < 10 || b[0] != 1 || b[1] > 1 || len(b) > MaxState {
		return s, errFileState
	}
	copy(s.list[:], b[2:])
	s.all = make(map[string]look)
	cut := b[1] == 1
	r := bytes.NewReader(b[10:])
	name := ""
	for r.Len() > 0 {
		var v [6]uint64
		for i := range 2 {
			if v[i], err = binary.ReadUvarint(r); err != nil {
				return s, errFileState
			}
		}
		if v[0] > uint64(len(name)) || v[1] > uint64(r.Len()) || v[0]+v[1] > unix.PathMax {
			return s, errFileState
		}
		rest := make([]byte, v[1])
		_, _ = io.ReadFull(r, rest)
		name = strings.Clone(name[:v[0]]) + string(rest)
		for i := 2; i < 6; i++ {
			if v[i], err = binary.ReadUvarint(r); err != nil {
				return s, errFileState
			}
		}
		l := look{mode: uint32(v[2] & 0xffff), part: v[2]&lookPart != 0, uid: uint32(v[3]), gid: uint32(v[4]), size: int64(v[5])}
		if _, err = io.ReadFull(r, l.sum[:]); err != nil {
			return s, errFileState
		}
		s.all[name] = l
	}
	if cut {
		s.last = name
	}
	return s, nil
}

// knows reports whether the state tells of a name, that it was not there included.
func (s fileState) knows(name string) bool { return s.last == "" || name <= s.last }
