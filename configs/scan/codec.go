// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"
	"github.com/xi2/xz"
)

// codec unpacks one block of a squashfs; the result has at most limit bytes.
type codec struct {
	name   string
	unpack func(packed []byte, limit int) ([]byte, error)
}

// maxDict bounds the dictionary of one block: mksquashfs makes none longer than the block.
const maxDict = 8 << 20

// errBlock says that a block does not unpack to what it may be.
var errBlock = errors.New("damaged compression")

// codecOf finds the codec by the number in the superblock.
func codecOf(id uint16) (codec, error) {
	switch id {
	case 1:
		return codec{"gzip", unzlib}, nil
	case 2:
		return codec{"lzma", unlzma}, nil
	case 3:
		return codec{"lzo", unlzo}, nil
	case 4:
		return codec{"xz", unxz}, nil
	case 5:
		return codec{"lz4", unlz4}, nil
	case 6:
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxWindow(maxDict), zstd.WithDecoderMaxMemory(maxDict))
		if err != nil {
			return codec{}, err
		}
		return codec{"zstd", func(p []byte, limit int) ([]byte, error) { return d.DecodeAll(p, make([]byte, 0, limit)) }}, nil
	}
	return codec{}, &Unsupported{Name: "squashfs", What: fmt.Sprintf("it is compressed with method %d, which this program does not know", id),
		Next: "unsquashfs -d ROOT IMAGE, then scan ROOT"}
}

// readBlock reads r to its end.
func readBlock(r io.Reader, limit int) ([]byte, error) {
	out := bytes.NewBuffer(make([]byte, 0, min(limit, 16<<10)))
	n, err := io.Copy(out, io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBlock, err)
	}
	if n > int64(limit) {
		return nil, fmt.Errorf("%w: more than %d bytes", errBlock, limit)
	}
	return out.Bytes(), nil
}

func unzlib(p []byte, limit int) ([]byte, error) {
	r, err := zlib.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBlock, err)
	}
	return readBlock(r, limit)
}

func unxz(p []byte, limit int) ([]byte, error) {
	r, err := xz.NewReader(bytes.NewReader(p), maxDict)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBlock, err)
	}
	return readBlock(r, limit)
}

// unlzma looks at the dictionary before the decoder makes room for it.
func unlzma(p []byte, limit int) ([]byte, error) {
	if len(p) < lzma.HeaderLen || binary.LittleEndian.Uint32(p[1:]) > maxDict {
		return nil, errBlock
	}
	r, err := lzma.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBlock, err)
	}
	return readBlock(r, limit)
}

// blockReader reads the input of the two codecs below. Reading past the end gives zeros and is found by bad.
type blockReader struct {
	p   []byte
	bad bool
}

func (r *blockReader) byte() int {
	if len(r.p) == 0 {
		r.bad = true
		return 0
	}
	b := r.p[0]
	r.p = r.p[1:]
	return int(b)
}

// run reads a length that goes on as long as bytes are more.
func (r *blockReader) run(more int) int {
	n := 0
	for {
		b := r.byte()
		if b != more || r.bad {
			return n + b
		}
		n += 255
	}
}

// blockWriter collects output up to a limit.
type blockWriter struct {
	out   []byte
	limit int
	bad   bool
}

// literal copies n bytes of the input.
func (w *blockWriter) literal(r *blockReader, n int) {
	if n > len(r.p) || len(w.out)+n > w.limit {
		w.bad = true
		return
	}
	w.out = append(w.out, r.p[:n]...)
	r.p = r.p[n:]
}

// match repeats n bytes from back bytes before the end; they may overlap with what is written.
func (w *blockWriter) match(back, n int) {
	if back <= 0 || back > len(w.out) || len(w.out)+n > w.limit {
		w.bad = true
		return
	}
	for from := len(w.out) - back; n > 0; n-- {
		w.out = append(w.out, w.out[from])
		from++
	}
}

// unlz4 unpacks an LZ4 block (lz4_Block_format.md).
func unlz4(p []byte, limit int) ([]byte, error) {
	r, w := &blockReader{p: p}, &blockWriter{limit: limit}
	for !r.bad && !w.bad {
		token := r.byte()
		n := token >> 4
		if n == 15 {
			n += r.run(255)
		}
		w.literal(r, n)
		if len(r.p) == 0 && !r.bad && !w.bad {
			return w.out, nil // a block ends with literals
		}
		back := r.byte() | r.byte()<<8
		if n = token & 15; n == 15 {
			n += r.run(255)
		}
		w.match(back, n+4)
	}
	return nil, errBlock
}

// unlzo unpacks an LZO1X block, as the kernel's lib/lzo does it. state is how many literals the instruction before copied, 4
// for a long run of them: the meaning of small instructions depends on it.
func unlzo(p []byte, limit int) ([]byte, error) {
	r, w := &blockReader{p: p}, &blockWriter{limit: limit}
	state := 0
	if len(p) > 0 && p[0] > 17 {
		n := r.byte() - 17
		w.literal(r, n)
		state = min(n, 4)
	}
	for !r.bad && !w.bad {
		t := r.byte()
		var back, n, next int
		switch {
		case t < 16 && state == 0:
			if n = t; n == 0 {
				n = r.zeros() + 15
			}
			w.literal(r, n+3)
			state = 4
			continue
		case t < 16 && state != 4:
			back, n, next = 1+t>>2+r.byte()<<2, 2, t&3
		case t < 16:
			back, n, next = 1+0x800+t>>2+r.byte()<<2, 3, t&3
		case t >= 64:
			back, n, next = 1+t>>2&7+r.byte()<<3, t>>5+1, t&3
		case t >= 32:
			if n = t & 31; n == 0 {
				n = r.zeros() + 31
			}
			v := r.byte() | r.byte()<<8
			back, n, next = 1+v>>2, n+2, v&3
		default:
			if n = t & 7; n == 0 {
				n = r.zeros() + 7
			}
			v := r.byte() | r.byte()<<8
			if back = t&8<<11 + v>>2; back == 0 { // the end mark
				if r.bad || len(r.p) > 0 {
					return nil, errBlock
				}
				return w.out, nil
			}
			back, n, next = back+0x4000, n+2, v&3
		}
		w.match(back, n)
		w.literal(r, next)
		state = next
	}
	return nil, errBlock
}

// zeros reads a length of LZO: each zero is 255, the first other byte ends it.
func (r *blockReader) zeros() int { return r.run(0) }
