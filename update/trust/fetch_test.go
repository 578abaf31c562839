// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

var metadataFiles = []string{"/metadata/2.root.json", "/metadata/timestamp.json", "/metadata/1.snapshot.json", "/metadata/1.targets.json"}

// at puts h in front of one path.
func at(path string, h http.HandlerFunc) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == path {
				h(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Each file has a limit, whether the server admits its length or not, and a
// body without end is not read to it.
func TestOversizedMetadata(t *testing.T) {
	for _, path := range metadataFiles {
		for _, endless := range []bool{false, true} {
			sent := 0
			d := deviceFor(t, trusttest.New(t), at(path, func(w http.ResponseWriter, r *http.Request) {
				if !endless {
					w.Header().Set("Content-Length", strconv.Itoa(10<<20))
				}
				for r.Context().Err() == nil && sent < 10<<20 {
					n, err := w.Write(bytes.Repeat([]byte(" "), 4096))
					sent += n
					if err != nil {
						return
					}
				}
			}))
			d.refused("wrong-length")
			if sent > 8<<20 {
				t.Errorf("%s: %d bytes were taken from the server", path, sent)
			}
		}
	}
}

func TestListedLengthOverTheLimit(t *testing.T) {
	for role, limit := range map[string]func(*trust.Limits) *int64{
		"snapshot": func(l *trust.Limits) *int64 { return &l.Snapshot },
		"targets":  func(l *trust.Limits) *int64 { return &l.Role },
	} {
		d := newDevice(t, func(c *trust.Config) { *limit(&c.Limits) = 100 })
		d.refused("wrong-length")
		for _, path := range d.repo.Asked() {
			if strings.Contains(path, role) {
				t.Errorf("%s is asked for although it is listed as too long", path)
			}
		}
	}
}

func wantSlow(t *testing.T, err error, since time.Time) {
	t.Helper()
	wantRetry(t, err)
	if !strings.Contains(err.Error(), "too slow") || time.Since(since) > 15*time.Second {
		t.Errorf("after %v: %v", time.Since(since), err)
	}
}

// wait blocks a handler until its client is gone.
func wait(r *http.Request) { <-r.Context().Done() }

func TestStalledServer(t *testing.T) {
	quick := func(c *trust.Config) { c.Limits.Header, c.Limits.Idle = 50*time.Millisecond, 50*time.Millisecond }
	for _, path := range metadataFiles {
		for name, h := range map[string]http.HandlerFunc{
			"no header": func(_ http.ResponseWriter, r *http.Request) { wait(r) },
			"no body": func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusOK)
				w.(http.Flusher).Flush()
				wait(r)
			},
			"half a body": func(w http.ResponseWriter, r *http.Request) {
				_, _ = w.Write([]byte(`{"signed":`))
				w.(http.Flusher).Flush()
				wait(r)
			},
			"a refusal without end": func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
				w.(http.Flusher).Flush()
				wait(r)
			},
		} {
			t.Run(path+" "+name, func(t *testing.T) {
				d := deviceFor(t, trusttest.New(t), at(path, h), quick)
				start := time.Now()
				_, err := d.client.Refresh(t.Context())
				if name == "a refusal without end" {
					wantRetry(t, err)
					return
				}
				wantSlow(t, err, start)
			})
		}
	}
}

// A server that always sends the next byte just in time is still too slow.
func TestTricklingServer(t *testing.T) {
	trickle := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte(" "))
			w.(http.Flusher).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	}
	t.Run("whole file", func(t *testing.T) {
		d := deviceFor(t, trusttest.New(t), at("/metadata/timestamp.json", trickle), func(c *trust.Config) { c.Limits.File = 150 * time.Millisecond })
		start := time.Now()
		_, err := d.client.Refresh(t.Context())
		wantSlow(t, err, start)
	})
	t.Run("rate", func(t *testing.T) {
		repo := trusttest.New(t)
		data := pattern(100_000)
		repo.AddTarget(trusttest.ProductRole, image, data, nil)
		repo.Publish()
		d := deviceFor(t, repo, at("/"+servedAt(data), trickle), func(c *trust.Config) {
			c.Limits.Window, c.Limits.MinRate = 400*time.Millisecond, 5000
		})
		info, err := lookup(t, d.refresh(), image)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = d.read(info, 0)
		wantSlow(t, err, start)
	})
}

// Time that the reader spends elsewhere is not the server's.
func TestSlowReaderIsNotASlowServer(t *testing.T) {
	repo := trusttest.New(t)
	data := pattern(1 << 20)
	repo.AddTarget(trusttest.ProductRole, image, data, nil)
	repo.Publish()
	d := deviceFor(t, repo, nil, func(c *trust.Config) {
		c.Limits.Idle, c.Limits.Window, c.Limits.MinRate = 300*time.Millisecond, 300*time.Millisecond, 1000
	})
	info, err := lookup(t, d.refresh(), image)
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.client.Open(t.Context(), info, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		if _, err := io.ReadFull(r, make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(400 * time.Millisecond)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
}

func TestRedirects(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the other host was asked") }))
	defer other.Close()
	d := deviceFor(t, trusttest.New(t), at("/metadata/timestamp.json", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/metadata/timestamp.json", http.StatusFound)
	}))
	d.refused("cross-host-redirect")

	d = deviceFor(t, trusttest.New(t), at("/metadata/timestamp.json", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://"+r.Host+"/metadata/timestamp.json", http.StatusFound)
	}))
	d.refused("cross-host-redirect")

	d = deviceFor(t, trusttest.New(t), at("/metadata/timestamp.json", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
	}))
	_, err := d.client.Refresh(t.Context())
	wantRetry(t, err)

	repo := trusttest.New(t)
	repo.SetFile("moved/timestamp.json", repo.File(timestampFile))
	d = deviceFor(t, repo, at("/metadata/timestamp.json", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/moved/timestamp.json", http.StatusMovedPermanently)
	}))
	d.refresh()
}

// A small compressed body can unpack to a huge one. None is asked for, and one
// that comes all the same is not unpacked.
func TestCompressedAnswer(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(make([]byte, 1<<20))
	z.Close()
	for _, path := range metadataFiles {
		d := deviceFor(t, trusttest.New(t), at(path, func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get("Accept-Encoding"); got != "identity" {
				t.Errorf("asked for encoding %q", got)
			}
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(packed.Bytes())
		}))
		_, err := d.client.Refresh(t.Context())
		wantRetry(t, err)
	}
}

func TestNoServer(t *testing.T) {
	d := newDevice(t, func(c *trust.Config) { c.MetadataURL = "http://127.0.0.1:1/metadata" })
	_, err := d.client.Refresh(t.Context())
	wantRetry(t, err)
	if n := strings.Count(err.Error(), "127.0.0.1:1/metadata"); n != 1 {
		t.Errorf("the URL is %d times in %q", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.client.Refresh(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, update.ErrRetry) {
		t.Errorf("cancelled: %v", err)
	}
}

// What the caller set up for its connections is used; what would weaken this
// package's handling of them is not.
func TestCallersHTTPClient(t *testing.T) {
	tr := &countingTransport{}
	d := newDevice(t, func(c *trust.Config) {
		c.HTTP = &http.Client{Transport: tr, Timeout: time.Nanosecond, CheckRedirect: func(*http.Request, []*http.Request) error { return nil }}
	})
	d.refresh()
	if tr.n != 4 {
		t.Errorf("%d requests through the caller's transport", tr.n)
	}
}

type countingTransport struct{ n int }

func (c *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n++
	return http.DefaultTransport.RoundTrip(r)
}

func TestNewTransport(t *testing.T) {
	tr := trust.NewTransport(nil)
	if tr.TLSHandshakeTimeout <= 0 || tr.ResponseHeaderTimeout <= 0 || tr.IdleConnTimeout <= 0 || tr.MaxResponseHeaderBytes <= 0 || !tr.DisableCompression || tr.Proxy == nil {
		t.Errorf("transport %+v lacks a limit", tr)
	}
}
