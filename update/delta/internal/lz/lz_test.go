// SPDX-License-Identifier: Apache-2.0

package lz_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/backstay/backstay/update/delta/internal/lz"
)

func feed(b []byte) func([]byte) int {
	return func(p []byte) int {
		n := copy(p, b)
		b = b[n:]
		return n
	}
}

// FuzzDecode: a stream gets as many bytes as were asked for or an error, and no panic, whatever it says.
func FuzzDecode(f *testing.F) {
	base := []byte("a base that is short, a base that is short but not too short to be copied from")
	d := lz.NewDecoder(bytes.NewReader(base), int64(len(base)))
	f.Add([]byte{}, 10)
	f.Add(bytes.Repeat([]byte{255}, 100), 1000)
	f.Add(bytes.Repeat([]byte{0x5a, 0}, 100), 1000)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		n &= 1<<16 - 1
		d.Begin(0, feed(b))
		out, err := d.Next(n)
		if err == nil && len(out) != n {
			t.Errorf("%d bytes, want %d", len(out), n)
		}
		if err == nil && n > 0 {
			_ = d.End()
		}
	})
}

// TestImpossible codes tokens that no encoder may write.
func TestImpossible(t *testing.T) {
	base := make([]byte, 100)
	for name, token := range map[string]lz.Token{
		"nothing":           {Kind: lz.Base, Src: lz.Source{Base: true}},
		"before the base":   {Kind: lz.Base, Src: lz.Source{Base: true, Delta: -2}, Len: 5},
		"behind the base":   {Kind: lz.Base, Src: lz.Source{Base: true, Delta: 96}, Len: 5},
		"far out":           {Kind: lz.Base, Src: lz.Source{Base: true, Delta: 1<<62 + 1}, Len: 5},
		"before the output": {Kind: lz.Hist, Src: lz.Source{Delta: -2}, Len: 5},
		"itself":            {Kind: lz.Hist, Len: 5},
		"out of the window": {Kind: lz.Hist, Src: lz.Source{Delta: -lz.Window - 1}, Len: 5},
		"no last source":    {Kind: lz.Rep, Rep: 3, Len: 5},
		"too long":          {Kind: lz.Base, Src: lz.Source{Base: true}, Len: 1 << 30},
	} {
		m := lz.NewModel()
		m.Reset()
		m.Coder.Encode()
		m.Token(lz.Token{Kind: lz.Literal, Len: 1})
		m.Byte('x', 0, 0)
		m.Saw('x')
		m.State.Next(lz.Token{Kind: lz.Literal, Len: 1})
		m.Token(token)
		m.Coder.Flush()
		d := lz.NewDecoder(bytes.NewReader(base), int64(len(base)))
		d.Begin(0, feed(m.Coder.Out))
		if _, err := d.Next(6); !errors.Is(err, lz.ErrStream) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEnds: a stream that is cut, or goes on, is an error.
func TestEnds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	m := lz.NewModel()
	m.Reset()
	m.Coder.Encode()
	want := make([]byte, 300)
	for i := range want {
		want[i] = byte(r.IntN(256))
		m.Token(lz.Token{Kind: lz.Literal, Len: 1})
		m.Byte(want[i], 0, 0)
		m.Saw(want[i])
		m.State.Next(lz.Token{Kind: lz.Literal, Len: 1})
	}
	m.Coder.Flush()
	stream := m.Coder.Out
	for cut := range len(stream) + 1 {
		d := lz.NewDecoder(nil, 0)
		d.Begin(0, feed(stream[:cut]))
		got, err := d.Next(len(want))
		if cut == len(stream) && (err != nil || !bytes.Equal(got, want) || d.End() != nil) {
			t.Errorf("whole stream: %v", err)
		}
		if cut < len(stream)-8 && err == nil {
			t.Errorf("%d of %d bytes were enough", cut, len(stream))
		}
	}
	d := lz.NewDecoder(nil, 0)
	d.Begin(0, feed(append(stream, 1, 2, 3, 4, 5, 6)))
	if _, err := d.Next(len(want)); err == nil && d.End() == nil {
		t.Error("nobody noticed more bytes")
	}
}

// TestUnreadableBase: an error of the medium is not taken for bytes.
func TestUnreadableBase(t *testing.T) {
	m := lz.NewModel()
	m.Reset()
	m.Coder.Encode()
	m.Token(lz.Token{Kind: lz.Base, Src: lz.Source{Base: true}, Len: 50})
	m.Coder.Flush()
	d := lz.NewDecoder(bytes.NewReader(make([]byte, 10)), 100)
	d.Begin(0, feed(m.Coder.Out))
	if _, err := d.Next(50); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}
