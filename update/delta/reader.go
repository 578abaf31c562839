// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/delta/internal/lz"
)

// Open returns the bytes of a payload from off on.
type Open func(ctx context.Context, off int64) (io.ReadCloser, error)

// pieces decodes the pieces of one payload in order. It fetches what it needs, from the beginning of a group on.
type pieces struct {
	x    *Index
	open Open
	dec  *lz.Decoder

	body io.ReadCloser
	at   int64 // of body, in the payload
	next int   // the piece that the stream is before; -1: none
	left int64 // bytes of the group that are not read
	read error // why reading the payload ended
}

// errPiece says that a payload does not make the piece its index has a digest of.
var errPiece = errors.New("a piece does not have its digest")

// piece returns piece n. What it returns is right, and valid until the next call.
func (p *pieces) piece(ctx context.Context, n int) ([]byte, error) {
	if g := p.x.groups[n/p.x.Group]; g.plain {
		b, err := p.plain(ctx, g, n)
		if err == nil && !p.x.has(n, b) {
			err = fmt.Errorf("piece %d: %w", n, errPiece)
		}
		return b, err
	}
	if p.next != n {
		if err := p.begin(ctx, n/p.x.Group); err != nil {
			return nil, err
		}
	}
	for {
		b, err := p.step()
		if err != nil {
			p.next = -1
			return nil, err
		}
		if p.next > n {
			return b, nil
		}
	}
}

// step decodes the piece the stream is before.
func (p *pieces) step() ([]byte, error) {
	n := p.next
	b, err := p.dec.Next(int(min(Piece, p.x.Length-int64(n)*Piece)))
	switch {
	case p.read != nil:
		return nil, p.read // whatever the decoder made of it
	case err != nil:
		return nil, fmt.Errorf("piece %d: %w", n, err)
	case !p.x.has(n, b):
		return nil, fmt.Errorf("piece %d: %w", n, errPiece)
	}
	p.next++
	if p.next%p.x.Group == 0 || p.next == p.x.Pieces() {
		if err := p.dec.End(); err != nil || p.read != nil {
			return nil, errors.Join(p.read, err)
		}
		if p.next < p.x.Pieces() && !p.x.groups[p.next/p.x.Group].plain {
			p.enter(p.next / p.x.Group)
		}
	}
	return b, nil
}

// begin places the stream before the first piece of a group.
func (p *pieces) begin(ctx context.Context, g int) error {
	if err := p.seek(ctx, p.x.groups[g].at); err != nil {
		return err
	}
	p.enter(g)
	return nil
}

// enter starts the stream of a group; the payload is at its first byte.
func (p *pieces) enter(g int) {
	p.next, p.left, p.read = g*p.x.Group, p.x.groups[g].length, nil
	at, _ := p.x.span(g)
	p.dec.Begin(at, p.more)
}

// more is how the decoder gets bytes. An error waits in read, because the decoder only knows the end.
func (p *pieces) more(b []byte) int {
	for p.left > 0 && p.read == nil {
		n, err := p.body.Read(b[:min(int64(len(b)), p.left)])
		p.at, p.left = p.at+int64(n), p.left-int64(n)
		if err != nil && p.left > 0 {
			p.read = early(err)
		}
		if n > 0 {
			return n
		}
	}
	return 0
}

// early is err for a body that had to go on.
func early(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("read payload: %w: %w", update.ErrRetry, io.ErrUnexpectedEOF)
	}
	return err
}

// plain reads a piece that is in the payload as it is.
func (p *pieces) plain(ctx context.Context, g group, n int) ([]byte, error) {
	at := g.at + int64(n%p.x.Group)*Piece
	if err := p.seek(ctx, at); err != nil {
		return nil, err
	}
	p.next = -1
	b := p.dec.Buffer(int(min(Piece, p.x.Length-int64(n)*Piece)))
	k, err := io.ReadFull(p.body, b)
	p.at += int64(k)
	if err != nil {
		return nil, early(err)
	}
	if n+1 < p.x.Pieces() && (n+1)%p.x.Group == 0 && !p.x.groups[(n+1)/p.x.Group].plain {
		p.enter((n + 1) / p.x.Group)
	}
	return b, nil
}

// seek brings the payload to byte at.
func (p *pieces) seek(ctx context.Context, at int64) error {
	if p.body != nil && p.at == at {
		return nil
	}
	p.close()
	body, err := p.open(ctx, at)
	if err != nil {
		return err
	}
	p.body, p.at = body, at
	return nil
}

func (p *pieces) close() {
	if p.body != nil {
		p.body.Close()
		p.body = nil
	}
	p.next = -1
}
