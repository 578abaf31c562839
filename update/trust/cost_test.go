// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

// bigImage is the size of an image in bytes: as large as a whole device's
// memory, less where a program is emulated.
func bigImage() int {
	if testing.Short() {
		return 8 << 20
	}
	return 64 << 20
}

// zeros serves an image of zeros without holding it.
func zeros(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/targets/") {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(bigImage()))
		buf := make([]byte, 64<<10)
		for range bigImage() / len(buf) {
			if _, err := w.Write(buf); err != nil {
				return
			}
		}
	})
}

func zerosSum() (sum [32]byte) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for range bigImage() / len(buf) {
		h.Write(buf)
	}
	return [32]byte(h.Sum(nil))
}

// Streaming an image costs the same memory whatever its size.
func TestStreamingMemory(t *testing.T) {
	repo := trusttest.New(t)
	repo.ListTarget(trusttest.ProductRole, image, int64(bigImage()), zerosSum(), nil)
	repo.Publish()
	d := deviceFor(t, repo, zeros)
	info, err := lookup(t, d.refresh(), image)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r, err := d.client.Open(t.Context(), info, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 64<<10)
	var n int64
	for {
		k, err := r.Read(buf)
		n += int64(k)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	// Everything allocated on the way, client and server together, freed or not.
	if got := after.TotalAlloc - before.TotalAlloc; n != int64(bigImage()) || got > 4<<20 {
		t.Errorf("%d bytes read, %d allocated on the way, want at most 4 MiB", n, got)
	}
}

func benchRepo(b *testing.B, targets int) (*trusttest.Repo, trust.Config) {
	b.Helper()
	repo := trusttest.New(b)
	for i := range targets {
		repo.ListTarget("targets", fmt.Sprintf("firmware/%s/1.%d.0.img", trusttest.Product, i), 1, [32]byte{1},
			map[string]any{"backstay": 1, "product": trusttest.Product, "version": fmt.Sprintf("1.%d.0", i), "counter": i})
	}
	repo.Publish()
	return repo, trust.Config{
		FactoryRoot: repo.Factory, MetadataURL: "http://localhost/metadata", TargetsURL: "http://localhost/targets",
		HTTP: &http.Client{Transport: files(repo.Copy())}, Now: func() time.Time { return trusttest.Start },
		Limits: trust.Limits{Role: 1 << 20, Cache: 1 << 20},
	}
}

func BenchmarkRefresh(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("targets=%d", n), func(b *testing.B) {
			_, config := benchRepo(b, n)
			b.ReportAllocs()
			for b.Loop() {
				config.Store = &trusttest.Store{}
				c, err := trust.New(config)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := c.Refresh(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkUnchanged is the poll that finds nothing new.
func BenchmarkUnchanged(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("targets=%d", n), func(b *testing.B) {
			_, config := benchRepo(b, n)
			config.Store = &trusttest.Store{}
			c, err := trust.New(config)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := c.Refresh(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if tr, err := c.Refresh(b.Context()); err != nil || !tr.Unchanged() {
					b.Fatal(err)
				}
			}
		})
	}
}
