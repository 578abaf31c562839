// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
)

// maxWindow bounds what a stream may ask a decoder to remember.
const maxWindow = 128 << 20

// packer is a compression of whole files, known by how it begins.
type packer struct {
	name, magic string
	open        func(io.Reader) (io.Reader, error)
	unpack      string // the command, where we do not do it
}

func packers() []packer {
	return []packer{
		{name: "gzip", magic: "\x1f\x8b", open: func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
		{name: "xz", magic: "\xfd7zXZ\x00", open: func(r io.Reader) (io.Reader, error) { return xz.NewReader(r, maxWindow) }},
		{name: "zstd", magic: "\x28\xb5\x2f\xfd", open: openZstd},
		{name: "bzip2", magic: "BZh", open: func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }},
		{name: "lz4", magic: "\x04\x22\x4d\x18", unpack: "lz4 -d IMAGE OUT"},
		{name: "lz4 (legacy)", magic: "\x02\x21\x4c\x18", unpack: "lz4 -d IMAGE OUT"},
		{name: "lzop", magic: "\x89LZO\x00\r\n\x1a\n", unpack: "lzop -d IMAGE -o OUT"},
		{name: "lzma", magic: "\x5d\x00\x00", unpack: "xz --format=lzma -dc IMAGE > OUT"},
	}
}

func openZstd(r io.Reader) (io.Reader, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<40))
}

// packerOf recognises a compressed file by its first bytes.
func packerOf(head []byte) (packer, bool) {
	for _, p := range packers() {
		if bytes.HasPrefix(head, []byte(p.magic)) {
			return p, true
		}
	}
	return packer{}, false
}

// careful turns a panic of a decoder into an error.
type careful struct{ r io.Reader }

func (c careful) Read(p []byte) (n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			n, err = 0, fmt.Errorf("damaged compression: %v", r)
		}
	}()
	return c.r.Read(p)
}
