// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
)

// Fetch returns the bytes of a small target, verified. max is the most the
// caller will hold in memory, in bytes; a longer target is refused unfetched.
func (c *Client) Fetch(ctx context.Context, t TargetInfo, max int64) ([]byte, error) {
	if t.Length > max {
		return nil, refuse("wrong-length", t.Path, nil, "it is %d bytes long, the limit is %d", t.Length, max)
	}
	for {
		r, err := c.Open(ctx, t, 0)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(r)
		r.Close()
		if !errors.Is(err, update.ErrElsewhere) {
			return b, err
		}
	}
}

// Open returns the bytes of a target from byte off on, without ever holding
// more than the caller's buffer.
//
// The bytes are not to be trusted before the end: read from 0, the reader ends
// in io.EOF only if length and digest are the signed ones, else in a refusal
// with code wrong-length or bad-hash. Read from further on, only the length is
// checked, and the caller must verify what it has put together. An error that
// is [update.ErrRetry] means that the rest can be had by opening again there; a
// refusal that is [update.ErrElsewhere] means that the mirror was to blame, and
// that opening again at 0 asks another.
//
// With several mirrors the reader goes on with the next when one breaks off.
func (c *Client) Open(ctx context.Context, t TargetInfo, off int64) (io.ReadCloser, error) {
	if off < 0 || off > t.Length {
		return nil, fmt.Errorf("open %s: offset %d is outside its %d bytes", t.Path, off, t.Length)
	}
	sums, err := t.sums()
	if err != nil {
		return nil, err
	}
	if off > 0 {
		sums = nil
	}
	if off > 0 && off == t.Length {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	r := &targetReader{c: c, ctx: ctx, t: t, at: off, sums: sums}
	if err := r.connect(nil); err != nil {
		return nil, err
	}
	return r, nil
}

// connect asks the places in turn for the rest of the target, except one.
func (r *targetReader) connect(except *mirror) error {
	var errs []error
	for _, m := range r.c.places.order(true) {
		if m == except {
			continue
		}
		resp, err := r.c.get(r.ctx, m, r.t.targetURL(m.base), r.at)
		if err == nil {
			if err = r.t.placed(resp, r.at); err == nil {
				r.body, r.known = resp.Body, resp.ContentLength >= 0
				r.mixed = r.mixed || r.from != nil && r.from != m
				r.from = m
				r.c.places.delivered(m)
				return nil
			}
			resp.Body.Close()
		}
		if r.ctx.Err() != nil || !blame(err) {
			return err
		}
		if errors.Is(err, update.ErrRefused) {
			r.c.condemn(m, true, err)
		}
		errs = append(errs, err)
		if !r.c.places.mixing() && r.at > 0 {
			break
		}
	}
	if len(errs) == 0 {
		return retry(fmt.Errorf("fetch %s: no other mirror", r.t.Path))
	}
	return together(errs)
}

// placed makes sure that the body starts at off and can end where it should.
func (t TargetInfo) placed(resp *http.Response, off int64) error {
	if resp.StatusCode == http.StatusPartialContent {
		first, total, ok := contentRange(resp.Header.Get("Content-Range"))
		switch {
		case !ok || first != off:
			return retry(fmt.Errorf("fetch %s: the server sent another range than asked for", t.Path))
		case total != t.Length:
			return refuse("wrong-length", t.Path, nil, "the server has %d bytes, %d are signed", total, t.Length)
		}
		return nil
	}
	if n := resp.ContentLength; n >= 0 && n != t.Length {
		return refuse("wrong-length", t.Path, nil, "the server has %d bytes, %d are signed", n, t.Length)
	}
	// A server that ignores ranges sends it all; what the caller has is skipped.
	if _, err := io.CopyN(io.Discard, resp.Body, off); err != nil {
		return ended(t.Path, err)
	}
	if resp.ContentLength >= 0 {
		resp.ContentLength -= off
	}
	return nil
}

// contentRange reads "bytes first-last/total".
func contentRange(h string) (first, total int64, ok bool) {
	h, ok = strings.CutPrefix(h, "bytes ")
	if !ok {
		return 0, 0, false
	}
	span, size, ok1 := strings.Cut(h, "/")
	from, _, ok2 := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(from, 10, 64)
	total, err2 := strconv.ParseInt(size, 10, 64)
	return first, total, ok1 && ok2 && err1 == nil && err2 == nil
}

// sum is one digest to be met.
type sum struct {
	hash.Hash
	name string
	want []byte
}

// sums lists every digest signed for the target. One of a kind that cannot be
// checked is a refusal: it was signed to be met.
func (t TargetInfo) sums() ([]sum, error) {
	if len(t.hashes) == 0 {
		return []sum{{sha256.New(), "sha256", t.SHA256[:]}}, nil
	}
	var out []sum
	for name, want := range t.hashes {
		switch name {
		case "sha256":
			out = append(out, sum{sha256.New(), name, want})
		case "sha512":
			out = append(out, sum{sha512.New(), name, want})
		default:
			return nil, refuse("bad-hash", t.Path, nil, "digest %q is of an unknown kind", name)
		}
	}
	return out, nil
}

// maxSwitches is how often one reader may go on with another mirror.
const maxSwitches = 2 * maxMirrors

// targetReader ends exactly at the signed length.
type targetReader struct {
	c     *Client
	ctx   context.Context // of the Open: the reader asks again with it
	t     TargetInfo
	body  io.ReadCloser
	at    int64 // offset of the next byte
	sums  []sum // nil if the digest cannot be checked
	known bool  // the server said how long the body is, and it fits
	end   error // what every read after the last byte returns

	from     *mirror
	mixed    bool // more than one mirror has delivered
	switches int
}

func (r *targetReader) Read(b []byte) (int, error) {
	if r.end != nil {
		return 0, r.end
	}
	if r.at == r.t.Length {
		r.end = r.finish()
		return 0, r.end
	}
	if left := r.t.Length - r.at; int64(len(b)) > left {
		b = b[:left]
	}
	n, err := r.body.Read(b)
	r.at += int64(n)
	for _, s := range r.sums {
		s.Write(b[:n])
	}
	if err != nil && r.at < r.t.Length {
		r.end = r.goOn(ended(r.t.Path, err))
		return n, r.end
	}
	return n, nil
}

// goOn continues with another mirror after a body broke off with err, which is
// returned if that cannot be.
func (r *targetReader) goOn(err error) error {
	if r.ctx.Err() != nil || !errors.Is(err, update.ErrRetry) {
		return err
	}
	r.c.places.brokeOff(r.from)
	if r.switches >= maxSwitches || !r.c.places.mixing() {
		return err
	}
	r.switches++
	r.body.Close()
	if next := r.connect(r.from); next != nil {
		return err
	}
	return nil
}

// finish says io.EOF if what was read is what was signed.
func (r *targetReader) finish() error {
	if !r.known {
		var extra [1]byte
		if n, _ := r.body.Read(extra[:]); n > 0 {
			return r.wrong("wrong-length", "the server sends more bytes than are signed")
		}
	}
	for _, s := range r.sums {
		if got := s.Sum(nil); !bytes.Equal(got, s.want) {
			return r.wrong("bad-hash", "its %s is %x, signed is %s", s.name, got, metadata.HexBytes(s.want))
		}
	}
	return io.EOF
}

// wrong refuses the bytes. If they are all of one mirror, that mirror is done
// for; if not, nobody knows whose they were, and the next time there is no mixing.
func (r *targetReader) wrong(code, format string, args ...any) error {
	err := refuse(code, r.t.Path, nil, format, args...)
	again := false
	if r.mixed {
		again = r.c.places.unmix()
	} else {
		again = r.c.condemn(r.from, true, err)
	}
	if again {
		return refuse(code, r.t.Path, update.ErrElsewhere, format, args...)
	}
	return err
}

func (r *targetReader) Close() error { return r.body.Close() }

// ended says that a body stopped early; the rest may be had later.
func ended(path string, err error) error {
	if errors.Is(err, io.EOF) {
		return retry(fmt.Errorf("fetch %s: %w", path, io.ErrUnexpectedEOF))
	}
	return err
}
