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
)

// Fetch returns the bytes of a small target, verified. max is the most the
// caller will hold in memory, in bytes; a longer target is refused unfetched.
func (c *Client) Fetch(ctx context.Context, t TargetInfo, max int64) ([]byte, error) {
	if t.Length > max {
		return nil, refuse("wrong-length", t.Path, nil, "it is %d bytes long, the limit is %d", t.Length, max)
	}
	r, err := c.Open(ctx, t, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Open returns the bytes of a target from byte off on, without ever holding
// more than the caller's buffer.
//
// The bytes are not to be trusted before the end: read from 0, the reader ends
// in io.EOF only if length and digest are the signed ones, else in a refusal
// with code wrong-length or bad-hash. Read from further on, only the length is
// checked, and the caller must verify what it has put together. An error that
// is [update.ErrRetry] means that the rest can be had by opening again there.
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
	resp, err := c.get(ctx, t.targetURL(c.cfg.TargetsURL), off)
	if err != nil {
		return nil, err
	}
	if err := t.placed(resp, off); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return &targetReader{body: resp.Body, left: t.Length - off, path: t.Path, sums: sums, known: resp.ContentLength >= 0}, nil
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

// targetReader ends exactly at the signed length.
type targetReader struct {
	body  io.ReadCloser
	left  int64
	path  string
	sums  []sum // nil if the digest cannot be checked
	known bool  // the server said how long the body is, and it fits
	end   error // what every read after the last byte returns
}

func (r *targetReader) Read(b []byte) (int, error) {
	if r.end != nil {
		return 0, r.end
	}
	if r.left == 0 {
		r.end = r.finish()
		return 0, r.end
	}
	if int64(len(b)) > r.left {
		b = b[:r.left]
	}
	n, err := r.body.Read(b)
	r.left -= int64(n)
	for _, s := range r.sums {
		s.Write(b[:n])
	}
	if err != nil && r.left > 0 {
		r.end = ended(r.path, err)
		return n, r.end
	}
	return n, nil
}

// finish says io.EOF if what was read is what was signed.
func (r *targetReader) finish() error {
	if !r.known {
		var extra [1]byte
		if n, _ := r.body.Read(extra[:]); n > 0 {
			return refuse("wrong-length", r.path, nil, "the server sends more bytes than are signed")
		}
	}
	for _, s := range r.sums {
		if got := s.Sum(nil); !bytes.Equal(got, s.want) {
			return refuse("bad-hash", r.path, nil, "its %s is %x, signed is %s", s.name, got, metadata.HexBytes(s.want))
		}
	}
	return io.EOF
}

func (r *targetReader) Close() error { return r.body.Close() }

// ended says that a body stopped early; the rest may be had later.
func ended(path string, err error) error {
	if errors.Is(err, io.EOF) {
		return retry(fmt.Errorf("fetch %s: %w", path, io.ErrUnexpectedEOF))
	}
	return err
}
