// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

const tarBlock = 512

// end looks at how an archive ended: one that was cut between two files would otherwise pass for a smaller one, and one whose
// compressed bytes changed shows that only at the very end.
func (s *stream) end() error {
	if !s.zeros {
		return fmt.Errorf("read tar: %w: the end mark is missing, it was cut", io.ErrUnexpectedEOF)
	}
	if s.direct != nil {
		return nil
	}
	const padding = 1 << 20
	if _, err := io.CopyN(io.Discard, s, padding); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read tar: %w", err)
	}
	return nil
}

// tarIndex reads an archive once. Contents stay where they are when src can be read at any place, and go to keep otherwise.
func tarIndex(ctx context.Context, in *stream, keep *spool) (*index, error) {
	x := newIndex()
	tr := tar.NewReader(in)
	if in.direct != nil {
		tr = tar.NewReader(seekable{in})
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return x, in.end()
		}
		if err != nil {
			return nil, fmt.Errorf("read tar: %w", err)
		}
		if err := x.tarEntry(ctx, h, tr, in, keep); err != nil {
			return nil, fmt.Errorf("read tar: %w", err)
		}
	}
}

func (x *index) tarEntry(ctx context.Context, h *tar.Header, tr *tar.Reader, in *stream, keep *spool) error {
	n := node{in: inode{mode: uint32(h.Mode) & 0o7777, uid: uint32(h.Uid), gid: uint32(h.Gid)}}
	for k, v := range h.PAXRecords {
		if a, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && len(v) <= maxAttr {
			if n.attrs == nil {
				n.attrs = map[string]string{}
			}
			n.attrs[a] = v
		}
	}
	switch h.Typeflag {
	case tar.TypeLink:
		return x.link(h.Name, h.Linkname)
	case tar.TypeDir:
		n.in.mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		n.in.mode = unix.S_IFLNK | 0o777
		n.in.size, n.data = int64(len(h.Linkname)), text(h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		n.in.mode |= map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
		n.in.rdev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	case tar.TypeFifo:
		n.in.mode |= unix.S_IFIFO
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		n.in.mode |= unix.S_IFREG
		n.in.size = h.Size
		var err error
		if n.data, err = in.content(ctx, tr, h.Size, isSparse(h), keep); err != nil {
			return err
		}
	case tar.TypeXGlobalHeader:
		return nil
	default:
		x.note("%s: left out, tar type %q", printable(h.Name), h.Typeflag)
		return nil
	}
	return x.add(h.Name, n)
}

// isSparse says that the bytes of a file do not lie in the archive as they are read.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}
