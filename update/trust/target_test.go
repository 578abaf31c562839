// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i*7)
	}
	return b
}

// servedAt returns where the repository serves image.
func servedAt(data []byte) string {
	sum := sha256.Sum256(data)
	return fmt.Sprintf("targets/firmware/%s/%x.1.1.0.img", trusttest.Product, sum)
}

// opened publishes data as image, serves other bytes in its place if swap is
// not nil, and opens it.
func opened(t *testing.T, data []byte, wrap func(http.Handler) http.Handler) (*device, trust.TargetInfo) {
	t.Helper()
	repo := trusttest.New(t)
	repo.AddTarget(trusttest.ProductRole, image, data, nil)
	repo.Publish()
	d := deviceFor(t, repo, wrap)
	info, err := lookup(t, d.refresh(), image)
	if err != nil {
		t.Fatal(err)
	}
	return d, info
}

func (d *device) read(info trust.TargetInfo, off int64) ([]byte, error) {
	d.t.Helper()
	r, err := d.client.Open(d.t.Context(), info, off)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestOpen(t *testing.T) {
	data := pattern(300_000)
	d, info := opened(t, data, nil)
	for _, off := range []int64{0, 1, 4096, 299_999, 300_000} {
		got, err := d.read(info, off)
		if err != nil || !bytes.Equal(got, data[off:]) {
			t.Errorf("from %d: %d bytes, %v", off, len(got), err)
		}
	}
	for _, off := range []int64{-1, 300_001} {
		if _, err := d.read(info, off); err == nil {
			t.Errorf("from %d: no error", off)
		}
	}
	if got, err := d.client.Fetch(t.Context(), info, 300_000); err != nil || !bytes.Equal(got, data) {
		t.Errorf("fetch: %d bytes, %v", len(got), err)
	}
	d.repo.Asked()
	_, err := d.client.Fetch(t.Context(), info, 299_999)
	wantRefusal(t, err, "wrong-length")
	if len(d.repo.Asked()) != 0 {
		t.Error("a target over the caller's limit is fetched")
	}
}

func TestOpenEmptyTarget(t *testing.T) {
	d, info := opened(t, []byte{}, nil)
	if got, err := d.read(info, 0); err != nil || len(got) != 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// One byte changed, by a mirror or on the way: the reader ends in a refusal,
// wherever the byte is.
func TestOpenOneByteChanged(t *testing.T) {
	data := pattern(70_000)
	for _, at := range []int{0, 35_000, 69_999} {
		d, info := opened(t, data, nil)
		bent := bytes.Clone(data)
		bent[at] ^= 1
		d.repo.SetFile(servedAt(data), bent)
		got, err := d.read(info, 0)
		wantRefusal(t, err, "bad-hash")
		if len(got) != len(data) {
			t.Errorf("%d bytes before the refusal", len(got))
		}
		if _, err := d.client.Fetch(t.Context(), info, 1<<20); err == nil {
			t.Error("fetch hands out bytes that are not the signed ones")
		}
	}
}

// plainBody serves b as the image, without a length if chunked.
func plainBody(b []byte, chunked bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/targets/") {
				next.ServeHTTP(w, r)
				return
			}
			if !chunked {
				w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			}
			_, _ = w.Write(b[:len(b)/2])
			w.(http.Flusher).Flush()
			_, _ = w.Write(b[len(b)/2:])
		})
	}
}

func TestOpenWrongLength(t *testing.T) {
	data := pattern(5000)
	for _, chunked := range []bool{false, true} {
		d, info := opened(t, data, plainBody(append(pattern(5000), 'x'), chunked))
		_, err := d.read(info, 0)
		wantRefusal(t, err, "wrong-length")
	}
	d, info := opened(t, data, plainBody(data[:4999], false))
	_, err := d.read(info, 0)
	wantRefusal(t, err, "wrong-length")
	// Without a length it is a connection that broke: the rest may come later.
	d, info = opened(t, data, plainBody(data[:4999], true))
	got, err := d.read(info, 0)
	wantRetry(t, err)
	if len(got) != 4999 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A connection that breaks is resumed where it broke.
func TestOpenResume(t *testing.T) {
	data := pattern(100_000)
	broken := true
	d, info := opened(t, data, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if broken && strings.HasPrefix(r.URL.Path, "/targets/") {
				broken = false
				w.Header().Set("Content-Length", "100000")
				_, _ = w.Write(data[:60_000])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		})
	})
	first, err := d.read(info, 0)
	wantRetry(t, err)
	rest, err := d.read(info, int64(len(first)))
	if err != nil || !bytes.Equal(append(first, rest...), data) {
		t.Errorf("%d and %d bytes, %v", len(first), len(rest), err)
	}
}

func TestOpenServersThatDoNotResume(t *testing.T) {
	data := pattern(50_000)
	// Sends everything: what is there already is skipped.
	for _, chunked := range []bool{false, true} {
		d, info := opened(t, data, plainBody(data, chunked))
		got, err := d.read(info, 20_000)
		if err != nil || !bytes.Equal(got, data[20_000:]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	answer := func(rng string, code int) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") == "" {
					next.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Content-Range", rng)
				w.WriteHeader(code)
				_, _ = w.Write(data[:100])
			})
		}
	}
	for _, rng := range []string{"", "bytes 0-99/50000", "bytes 20001-20100/50000", "bytes x-y/z", "20000-20099/50000", "bytes 20000-20099/*"} {
		d, info := opened(t, data, answer(rng, http.StatusPartialContent))
		_, err := d.read(info, 20_000)
		wantRetry(t, err)
	}
	d, info := opened(t, data, answer("bytes 20000-20099/50001", http.StatusPartialContent))
	_, err := d.read(info, 20_000)
	wantRefusal(t, err, "wrong-length")
	d, info = opened(t, data, answer("bytes */50000", http.StatusRequestedRangeNotSatisfiable))
	_, err = d.read(info, 20_000)
	wantRetry(t, err)
	// Part of the file where all of it was asked for.
	d, info = opened(t, data, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/targets/") {
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(data)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	_, err = d.read(info, 0)
	wantRetry(t, err)
}

// Digests of every kind that is signed must be met; outside our repositories
// there may be more than one.
func TestEveryDigestIsChecked(t *testing.T) {
	data := pattern(1000)
	repo := trusttest.New(t)
	f := repo.AddTarget(trusttest.ProductRole, image, data, nil)
	f.Hashes["sha512"] = make([]byte, 64)
	repo.Publish()
	d := deviceFor(t, repo, nil, interop)
	info, err := lookup(t, d.refresh(), image)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.read(info, 0)
	wantRefusal(t, err, "bad-hash")
	delete(f.Hashes, "sha512")
	f.Hashes["blake2b"] = make([]byte, 64)
	repo.Publish()
	if info, err = lookup(t, d.refresh(), image); err != nil {
		t.Fatal(err)
	}
	_, err = d.read(info, 0)
	wantRefusal(t, err, "bad-hash")
}

func TestOpenCancelled(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	d, info := opened(t, pattern(1000), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/targets/") {
				_, _ = w.Write([]byte("x"))
				w.(http.Flusher).Flush()
				select {
				case <-release:
				case <-r.Context().Done():
				}
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := d.client.Open(ctx, info, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the caller's cancellation", err)
	}
}
