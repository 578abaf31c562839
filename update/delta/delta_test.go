// SPDX-License-Identifier: Apache-2.0

package delta_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/delta"
	"github.com/backstay/backstay/update/delta/encode"
)

// pair is two images of a little over n pieces, in which much is alike: shifted, edited and new.
func pair(n int) (base, image []byte) {
	r := rand.New(rand.NewPCG(5, uint64(n)))
	words := make([][]byte, 300)
	for i := range words {
		words[i] = make([]byte, 4+r.IntN(60))
		for k := range words[i] {
			words[i][k] = byte(r.IntN(256))
		}
	}
	for len(base) < n*delta.Piece+12345 {
		if r.IntN(50) == 0 {
			base = append(base, make([]byte, r.IntN(60000))...)
		}
		at := len(base)
		base = append(base, words[r.IntN(len(words))]...)
		if len(base) > 1<<16 && r.IntN(3) == 0 {
			base = append(base, base[at-60000:at-60000+r.IntN(50000)]...)
		}
	}
	image = slices.Clone(base[:len(base)/3])
	image = append(image, "something is new here"...)
	image = append(image, base[len(base)/3+77:]...)
	for at := 5000; at+8 < len(image); at += 30000 + r.IntN(60000) {
		binary.LittleEndian.PutUint32(image[at:], binary.LittleEndian.Uint32(image[at:])+0x40)
	}
	return base, image
}

// made is a release with a delta and a compressed image, and a world that serves it.
type made struct {
	t           *testing.T
	base, image []byte
	r           update.Release
	files       map[string][]byte
	fail        func(path string, off int64) error // asked at every Open
	opens       []string
	got         int64 // bytes read
	events      []string
	s           *delta.Source
}

func payload(t *testing.T, path string, base, image []byte) (update.Payload, []byte) {
	t.Helper()
	var b bytes.Buffer
	r, err := encode.Write(t.Context(), &b, base, image, encode.Options{Group: 2})
	if err != nil {
		t.Fatal(err)
	}
	return update.Payload{Path: path, Length: r.Length, SHA256: r.SHA256, IndexLength: r.IndexLength, IndexSHA256: r.IndexSHA256,
		Base: r.Base, BaseLength: r.BaseLength}, b.Bytes()
}

// cache keeps what was made: encoding takes most of the time of these tests.
var cache sync.Map

func cached(t *testing.T, n int) *made {
	if c, ok := cache.Load(n); ok {
		return c.(*made)
	}
	m := &made{t: t, files: map[string][]byte{}}
	m.base, m.image = pair(n)
	m.r = update.Release{Path: "firmware/p/2.img", Version: "2", Length: int64(len(m.image)), SHA256: sha256.Sum256(m.image)}
	m.files[m.r.Path] = m.image
	for _, p := range []struct {
		path string
		base []byte
	}{{"firmware/p/2.pack", nil}, {"firmware/p/2.from-1.pack", m.base}} {
		pl, b := payload(t, p.path, p.base, m.image)
		m.r.Payloads = append(m.r.Payloads, pl)
		m.files[p.path] = b
	}
	cache.Store(n, m)
	return m
}

func newMade(t *testing.T, n int) *made {
	m := &made{t: t, files: map[string][]byte{}}
	c := cached(t, n)
	m.base, m.image, m.r = slices.Clone(c.base), slices.Clone(c.image), c.r
	m.r.Payloads = slices.Clone(c.r.Payloads)
	for path, b := range c.files {
		m.files[path] = slices.Clone(b)
	}
	m.s = &delta.Source{Inner: m, Running: func(context.Context) (delta.Running, error) {
		return delta.Running{SlotReader: slotReader{bytes.NewReader(m.base)}, Length: int64(len(m.base)), SHA256: sha256.Sum256(m.base)}, nil
	}, Emit: func(code string, attrs ...slog.Attr) { m.events = append(m.events, fmt.Sprint(code, attrs)) }}
	return m
}

type slotReader struct{ *bytes.Reader }

func (slotReader) Close() error { return nil }

func (m *made) Latest(context.Context) (update.Release, error) { return m.r, nil }

func (m *made) Open(_ context.Context, r update.Release, off int64) (io.ReadCloser, error) {
	m.opens = append(m.opens, fmt.Sprint(r.Path, " ", off))
	if m.fail != nil {
		if err := m.fail(r.Path, off); err != nil {
			return nil, err
		}
	}
	b, ok := m.files[r.Path]
	if !ok {
		return nil, fmt.Errorf("%s is not there: %w", r.Path, update.ErrRetry)
	}
	return io.NopCloser(&meter{m, bytes.NewReader(b[min(int64(len(b)), off):])}), nil
}

type meter struct {
	m *made
	r io.Reader
}

func (c *meter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.m.got += int64(n)
	return n, err
}

// read gets the image from off on, and fails the test if it is not right as far as it goes.
func (m *made) read(off int64) error {
	m.t.Helper()
	r, err := m.s.Latest(m.t.Context())
	if err != nil {
		return err
	}
	body, err := m.s.Open(m.t.Context(), r, off)
	if err != nil {
		return err
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if !bytes.HasPrefix(m.image[off:], got) {
		m.t.Fatalf("wrong bytes from %d on, %d of them", off, len(got))
	}
	if err == nil && len(got) != len(m.image)-int(off) {
		m.t.Fatalf("%d bytes from %d on, want %d", len(got), off, len(m.image)-int(off))
	}
	return err
}

func (m *made) ok(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *made) refused(err error, code string) {
	m.t.Helper()
	if no, ok := errors.AsType[*update.Refusal](err); !ok || no.Code != code {
		m.t.Fatalf("got %v, want the refusal %s", err, code)
	}
}

func (m *made) used(path string) bool {
	return slices.ContainsFunc(m.opens, func(s string) bool { return strings.HasPrefix(s, path+" ") })
}

func TestDelta(t *testing.T) {
	m := newMade(t, 2)
	m.ok(m.read(0))
	if m.used("firmware/p/2.img") || m.used("firmware/p/2.pack") || m.got != m.r.Payloads[1].Length {
		t.Errorf("fetched %v, %d bytes; the delta has %d", m.opens, m.got, m.r.Payloads[1].Length)
	}
	if want := "update.payload[release=2 kind=delta"; len(m.events) != 1 || !strings.HasPrefix(m.events[0], want) {
		t.Errorf("events %v, want one %s", m.events, want)
	}
	if m.r.Payloads[1].Length*10 > m.r.Payloads[0].Length {
		t.Errorf("the delta has %d bytes, the compressed image %d", m.r.Payloads[1].Length, m.r.Payloads[0].Length)
	}
}

func TestContinue(t *testing.T) {
	m := newMade(t, 2)
	for _, off := range []int64{1, delta.Piece - 1, delta.Piece, delta.Piece + 4711, 2 * delta.Piece, m.r.Length - 1, m.r.Length} {
		m.ok(m.read(off))
	}
}

func TestWays(t *testing.T) {
	t.Run("another base", func(t *testing.T) {
		m := newMade(t, 1)
		m.base = append([]byte{1}, m.base...)
		m.ok(m.read(0))
		if m.used("firmware/p/2.from-1.pack") || m.got != m.r.Payloads[0].Length {
			t.Errorf("opened %v, read %d", m.opens, m.got)
		}
	})
	t.Run("off", func(t *testing.T) {
		m := newMade(t, 1)
		m.s.Policy = delta.Off
		m.ok(m.read(0))
		if m.used("firmware/p/2.from-1.pack") {
			t.Errorf("opened %v", m.opens)
		}
	})
	t.Run("require", func(t *testing.T) {
		m := newMade(t, 1)
		m.s.Policy = delta.Require
		m.ok(m.read(0))
		m.base = append([]byte{1}, m.base...)
		m.opens = nil
		m.refused(m.read(0), delta.CodeNoDelta)
		if len(m.opens) > 0 {
			t.Errorf("opened %v", m.opens)
		}
	})
	t.Run("no payloads", func(t *testing.T) {
		m := newMade(t, 1)
		m.r.Payloads = nil
		m.ok(m.read(4711))
	})
	t.Run("base known by reading", func(t *testing.T) {
		m := newMade(t, 1)
		m.s.Running = func(context.Context) (delta.Running, error) {
			return delta.Running{SlotReader: slotReader{bytes.NewReader(append(slices.Clone(m.base), 1, 2, 3))}}, nil
		}
		m.ok(m.read(0))
		if m.used("firmware/p/2.pack") || m.used("firmware/p/2.img") {
			t.Errorf("opened %v", m.opens)
		}
	})
	t.Run("delta is missing", func(t *testing.T) {
		m := newMade(t, 1)
		delete(m.files, "firmware/p/2.from-1.pack")
		for range 3 {
			if err := m.read(0); !errors.Is(err, update.ErrRetry) {
				t.Fatal(err)
			}
		}
		m.ok(m.read(0))
		if m.used("firmware/p/2.img") || !m.used("firmware/p/2.pack") {
			t.Errorf("opened %v", m.opens)
		}
	})
}

func TestDamagedBase(t *testing.T) {
	for _, broken := range []string{"", "firmware/p/2.pack"} {
		m := newMade(t, 2)
		sum := sha256.Sum256(m.base)
		m.base[2*delta.Piece+500] ^= 1
		m.s.Running = func(context.Context) (delta.Running, error) {
			return delta.Running{SlotReader: slotReader{bytes.NewReader(m.base)}, Length: int64(len(m.base)), SHA256: sum}, nil
		}
		if b := m.files[broken]; b != nil {
			for i := len(b) / 2; i < len(b); i++ {
				b[i] ^= 0x55
			}
		}
		m.ok(m.read(0))
		if broken == "" && m.used("firmware/p/2.img") {
			t.Errorf("the image itself was fetched although its compressed form is good: %v", m.opens)
		}
		if m.got > m.r.Payloads[1].Length+m.r.Payloads[0].Length+delta.Piece {
			t.Errorf("fetched %d bytes", m.got)
		}
		m.s.Policy = delta.Require
		m.refused(m.read(0), delta.CodeNoDelta)
	}
}

func TestBudget(t *testing.T) {
	m := newMade(t, 1)
	m.s.Budget = m.r.Payloads[1].Length - 1
	m.refused(m.read(0), delta.CodeOverBudget)
	if len(m.opens) > 0 {
		t.Errorf("opened %v", m.opens)
	}
	// What is fetched again counts too.
	m.s.Budget = 2*m.r.Payloads[1].Length + 10
	m.ok(m.read(0))
	m.ok(m.read(0))
	m.refused(m.read(0), delta.CodeOverBudget)
	if m.got > m.s.Budget+8<<10 {
		t.Errorf("%d bytes were fetched, the budget is %d", m.got, m.s.Budget)
	}
}

// TestHostile changes payloads in every way that its index or its stream can be wrong. The image must come out right all the
// same, from the image itself, and nothing may be taken that was announced.
func TestHostile(t *testing.T) {
	m := newMade(t, 2)
	good := m.files["firmware/p/2.from-1.pack"]
	p := m.r.Payloads[1]
	sign := func(b []byte, index int64) {
		m.files[p.Path] = b
		q := p
		q.Length, q.SHA256, q.IndexLength, q.IndexSHA256 = int64(len(b)), sha256.Sum256(b), index, sha256.Sum256(b[:min(index, int64(len(b)))])
		m.r.Payloads = []update.Payload{q}
	}
	for name, change := range map[string]func(b []byte) []byte{
		"magic":           func(b []byte) []byte { b[0] ^= 1; return b },
		"length":          func(b []byte) []byte { b[15]++; return b },
		"huge length":     func(b []byte) []byte { b[8] = 0x7f; return b },
		"negative length": func(b []byte) []byte { b[8] = 0xff; return b },
		"output":          func(b []byte) []byte { b[20] ^= 1; return b },
		"base":            func(b []byte) []byte { b[60] ^= 1; return b },
		"huge base":       func(b []byte) []byte { b[48] = 0x7f; return b },
		"no group":        func(b []byte) []byte { b[88], b[89] = 0, 0; return b },
		"huge group":      func(b []byte) []byte { b[88] = 0xff; return b },
		"group size":      func(b []byte) []byte { b[90] ^= 2; return b },
		"digest":          func(b []byte) []byte { b[100] ^= 1; return b },
		"stream":          func(b []byte) []byte { b[p.IndexLength+1] ^= 0x10; return b },
		"stream at end":   func(b []byte) []byte { b[len(b)-4] ^= 0x10; return b },
		"cut":             func(b []byte) []byte { return b[:len(b)-9] },
		"longer":          func(b []byte) []byte { return append(b, 0) },
		"zeros":           func(b []byte) []byte { clear(b[p.IndexLength:]); return b },
		"ones":            func(b []byte) []byte { copy(b[p.IndexLength:], bytes.Repeat([]byte{255}, len(b))); return b },
		"only index":      func(b []byte) []byte { return b[:p.IndexLength] },
	} {
		m.s, m.opens = &delta.Source{Inner: m, Running: m.s.Running}, nil
		sign(change(slices.Clone(good)), p.IndexLength)
		err := m.read(0)
		no, is := errors.AsType[*update.Refusal](err)
		if err != nil && (!is || no.Code != delta.CodeBadPayload) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && !m.used(m.r.Path) {
			t.Errorf("%s: nobody noticed", name)
		}
	}
	for n := int64(1); n < p.IndexLength; n += 7 {
		sign(slices.Clone(good), n)
		m.s = &delta.Source{Inner: m, Running: m.s.Running}
		m.refused(m.read(0), delta.CodeBadPayload)
	}
	m.s = &delta.Source{Inner: m, Running: m.s.Running}
	sign(slices.Clone(good), delta.MaxIndex+1)
	m.refused(m.read(0), delta.CodeBadPayload)
}

// TestParts: a part longer than what it makes, or plain bytes of another length, would let a payload be larger than the image.
func TestParts(t *testing.T) {
	h := delta.Header{Length: 1000, Group: 1}
	digest := make([]byte, delta.DigestSize)
	for size, ok := range map[int64]bool{0: true, 999: true, 1000: true, 1001: false, -1000: true, -999: false, -1001: false} {
		index := h.Append(nil, digest, []int64{size})
		if _, err := delta.Parse(index, int64(len(index))+max(size, -size)); (err == nil) != ok {
			t.Errorf("%d bytes for 1000: %v", size, err)
		}
	}
}

// TestNothingRight: when the image itself is spoiled too, none of its bytes come out.
func TestNothingRight(t *testing.T) {
	m := newMade(t, 1)
	for path, b := range m.files {
		b[len(b)-3] ^= 1
		m.files[path] = b
	}
	m.image = m.image[:delta.Piece] // what may come out
	m.r.Payloads = m.r.Payloads[1:]
	r, err := m.s.Latest(t.Context())
	m.ok(err)
	body, err := m.s.Open(t.Context(), r, 0)
	m.ok(err)
	defer body.Close()
	got, err := io.ReadAll(body)
	m.refused(err, delta.CodeBadPayload)
	if len(got) > delta.Piece {
		t.Errorf("%d bytes came out", len(got))
	}
}

// TestNetwork spoils a payload on its way: the index is noticed at once, the stream at the piece.
func TestNetwork(t *testing.T) {
	m := newMade(t, 2)
	p := m.r.Payloads[1]
	m.files[p.Path] = slices.Clone(m.files[p.Path])
	m.files[p.Path][30] ^= 1
	if err := m.read(0); !errors.Is(err, update.ErrRetry) {
		t.Errorf("a spoiled index: %v", err)
	}
	m.files[p.Path][30] ^= 1
	m.files[p.Path] = m.files[p.Path][:len(m.files[p.Path])-20]
	if err := m.read(0); !errors.Is(err, update.ErrRetry) {
		t.Errorf("a short body: %v", err)
	}
}

func TestPlain(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	m := newMade(t, 1)
	m.image = make([]byte, 2*delta.Piece+5)
	for i := 0; i+8 <= len(m.image); i += 8 {
		binary.LittleEndian.PutUint64(m.image[i:], r.Uint64())
	}
	copy(m.image[delta.Piece:], make([]byte, delta.Piece))
	p, b := payload(t, "firmware/p/2.pack", nil, m.image)
	m.r.Length, m.r.SHA256, m.r.Payloads = int64(len(m.image)), sha256.Sum256(m.image), []update.Payload{p}
	m.files[p.Path] = b
	m.ok(m.read(0))
	m.ok(m.read(delta.Piece / 2))
	m.ok(m.read(delta.Piece + 5))
}
