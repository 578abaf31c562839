// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/delta/internal/lz"
)

// image is the reader of an image: it hands out one piece after the other, each from the smallest payload that makes it.
//
// A piece that a payload does not make, because the base is not what it was or the payload is not what it should be, comes
// from the next one, and so does the rest of its group; the last resort is the image itself, from which a range is fetched. The
// payload is tried again at its next group.
type image struct {
	s    *Source
	ctx  context.Context // of Open
	r    update.Release
	ways []update.Payload
	run  *Running
	dec  *lz.Decoder

	from   []*pieces // by way; nil if it is not open, or was given up
	barred []int     // by way: the piece from which on it may be tried again
	plain  *counted  // the image itself
	plainN int       // the piece plain is before

	n    int // piece to hand out next
	skip int // bytes of it that nobody wants
	out  []byte
	lost int // pieces that did not come from the first way
	err  error
}

// start opens the first payload that can be used, and knows the digests of all pieces after that.
func (m *image) start() error {
	m.from, m.barred = make([]*pieces, len(m.ways)), make([]int, len(m.ways))
	var first error
	for i := range m.ways {
		err := m.open(i)
		if err == nil {
			kind := "compressed"
			if m.ways[i].BaseLength > 0 {
				kind = "delta"
			}
			m.s.report(m.r, kind, m.ways[i].Length)
			return nil
		}
		if !isWrong(err) {
			return err
		}
		first = errors.Join(first, err)
	}
	return &update.Refusal{Code: CodeBadPayload, What: "payloads of release " + m.r.Version, Why: first.Error(), Err: first}
}

// isWrong reports whether an error says that a payload or its base is not what it should be, so that another may be better.
func isWrong(err error) bool {
	over, is := errors.AsType[*update.Refusal](err)
	return errors.Is(err, errMalformed) || errors.Is(err, errPiece) || errors.Is(err, lz.ErrStream) || errors.Is(err, errBase) ||
		is && over.Code != CodeOverBudget
}

// errBase says that the base could not be read.
var errBase = errors.New("read base")

// open fetches and checks the index of a payload.
func (m *image) open(i int) (err error) {
	p := m.ways[i]
	if p.IndexLength > MaxIndex {
		return malformed(fmt.Sprintf("an index of %d bytes", p.IndexLength))
	}
	body, err := m.fetch(p.Release(), 0)
	if err != nil {
		m.s.miss(p.Path, err)
		return err
	}
	defer func() {
		if err != nil {
			body.Close()
		}
	}()
	var raw bytes.Buffer // grows with what arrives, not with what was announced
	if n, err := io.CopyN(&raw, body, p.IndexLength); err != nil {
		err = fmt.Errorf("fetch %s: it ends at %d of %d bytes: %w: %w", p.Path, n, p.IndexLength, update.ErrRetry, err)
		m.s.miss(p.Path, err)
		return err
	}
	if sha256.Sum256(raw.Bytes()) != p.IndexSHA256 {
		err := fmt.Errorf("fetch %s: its index is not the signed one: %w", p.Path, update.ErrRetry)
		m.s.miss(p.Path, err)
		return err
	}
	x, err := Parse(raw.Bytes(), p.Length)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Path, err)
	}
	if x.Length != m.r.Length || x.SHA256 != m.r.SHA256 || x.Base != p.Base || x.BaseLength != p.BaseLength {
		return malformed(p.Path + " is for another image or another base")
	}
	if m.dec == nil {
		if err := m.decoder(); err != nil {
			return err
		}
	}
	m.from[i] = &pieces{x: x, dec: m.dec, body: body, at: p.IndexLength, next: -1, open: func(_ context.Context, off int64) (io.ReadCloser, error) {
		return m.fetch(p.Release(), off)
	}}
	return nil
}

// decoder makes the one decoder, over the base of the delta if there is one.
func (m *image) decoder() error {
	var length int64
	for _, p := range m.ways {
		length = max(length, p.BaseLength)
	}
	var base io.ReaderAt
	if length > 0 {
		run, err := m.s.Running(m.ctx)
		if err != nil {
			return fmt.Errorf("open base: %w", err)
		}
		m.run, base = &run, baseReader{run}
	}
	m.dec = lz.NewDecoder(base, length)
	return nil
}

// baseReader marks errors of the base as its own.
type baseReader struct{ io.ReaderAt }

func (b baseReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.ReaderAt.ReadAt(p, off)
	if n < len(p) {
		return n, fmt.Errorf("%w: %w", errBase, err)
	}
	return n, nil
}

func (m *image) fetch(r update.Release, off int64) (*counted, error) {
	body, err := m.s.Inner.Open(m.ctx, r, off)
	if err != nil {
		return nil, err
	}
	return &counted{ReadCloser: body, s: m.s, r: m.r}, nil
}

// Read hands out bytes of pieces that are right.
func (m *image) Read(b []byte) (int, error) {
	for len(m.out) == 0 {
		if m.err == nil && int64(m.n)*Piece >= m.r.Length {
			m.err = io.EOF
			m.done()
		}
		if m.err != nil {
			return 0, m.err
		}
		piece, err := m.piece()
		if err != nil {
			m.err = err
			return 0, err
		}
		m.out = piece[min(m.skip, len(piece)):]
		m.skip = 0
		m.n++
	}
	n := copy(b, m.out)
	m.out = m.out[n:]
	return n, nil
}

// piece makes the next piece in the cheapest way that works.
func (m *image) piece() ([]byte, error) {
	var why error
	for i := range m.ways {
		if m.n < m.barred[i] {
			continue
		}
		b, err := m.try(i)
		if err == nil {
			if i > 0 {
				m.lost++
			}
			return b, nil
		}
		if !isWrong(err) {
			return nil, err
		}
		why = errors.Join(why, err)
		if x := m.from[i]; x != nil {
			group := x.x.Group
			m.barred[i] = (m.n/group + 1) * group
			x.close()
		} else {
			m.barred[i] = 1 << 30
		}
	}
	if m.s.Policy == Require {
		return nil, &update.Refusal{Code: CodeNoDelta, What: "release " + m.r.Version, Why: fmt.Sprintf("the delta does not make it: %v", why), Err: why}
	}
	m.lost++
	return m.last(why)
}

func (m *image) try(i int) ([]byte, error) {
	if m.from[i] == nil {
		if err := m.open(i); err != nil {
			return nil, err
		}
	}
	for k, other := range m.from {
		if k != i && other != nil {
			other.next = -1 // the decoder is leaving its stream
		}
	}
	b, err := m.from[i].piece(m.ctx, m.n)
	m.s.miss(m.ways[i].Path, err)
	return b, err
}

// last fetches a piece of the image itself, which has to have the digest of the index too.
func (m *image) last(why error) ([]byte, error) {
	if m.plain == nil || m.plainN != m.n {
		if m.plain != nil {
			m.plain.Close()
		}
		var err error
		if m.plain, err = m.fetch(m.r, int64(m.n)*Piece); err != nil {
			m.plain = nil
			return nil, err
		}
	}
	for _, x := range m.from {
		if x != nil {
			x.next = -1
		}
	}
	b := m.dec.Buffer(int(min(Piece, m.r.Length-int64(m.n)*Piece)))
	if _, err := io.ReadFull(m.plain, b); err != nil {
		return nil, early(err)
	}
	m.plainN = m.n + 1
	for _, x := range m.from {
		if x != nil && x.x.has(m.n, b) {
			return b, nil
		}
	}
	return nil, &update.Refusal{Code: CodeBadPayload, What: fmt.Sprintf("piece %d of release %s", m.n, m.r.Version),
		Why: fmt.Sprintf("neither its payloads nor its image have the signed digest: %v", why), Err: why}
}

// done reports what an image cost.
func (m *image) done() {
	if m.s.Emit == nil || m.lost == 0 {
		return
	}
	m.s.Emit("update.payload", slog.String("release", m.r.Version), slog.String("kind", "mended"),
		slog.Int64("bytes", m.s.spent), slog.Int64("of", m.r.Length), slog.Int("pieces", m.lost))
}

// Close ends every fetch.
func (m *image) Close() error {
	for _, x := range m.from {
		if x != nil {
			x.close()
		}
	}
	if m.plain != nil {
		m.plain.Close()
		m.plain = nil
	}
	if m.run != nil {
		m.run.Close()
		m.run = nil
	}
	return nil
}
