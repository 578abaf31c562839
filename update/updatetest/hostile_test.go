// SPDX-License-Identifier: Apache-2.0

package updatetest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay/backstay/testdata/testneed"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/slot"
	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
	"github.com/backstay/backstay/update/updatetest"
)

// A server that is hostile, against the real client, the machine and a slot in a file. Whatever it does, the device spends
// bounded time and memory, says the right thing, arms nothing, and updates as soon as the server is as it should be.

const (
	hostileImage = 6 << 20
	heapGrowth   = 5 << 20 // most that the heap may grow over an attack, the server's own buffers included
	attackTime   = 8 * time.Second
)

// attack is one thing a server does. part is what of a path it does it to.
type attack struct {
	name string
	part string
	do   func(w http.ResponseWriter, r *http.Request)
	want string // code of the refusal, or "retry"
	runs int    // of the machine; 0: 1
}

const (
	toTimestamp = "timestamp.json"
	toSnapshot  = "2.snapshot.json"
	toImage     = ".img"
)

// endless writes until the client goes away, at most far more than it should take.
func endless(w http.ResponseWriter, r *http.Request) {
	for sent := 0; r.Context().Err() == nil && sent < 1<<30; sent += 64 << 10 {
		if _, err := w.Write(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
			return
		}
	}
}

func trickle(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		w.Write([]byte(" "))
		w.(http.Flusher).Flush()
		time.Sleep(20 * time.Millisecond)
	}
}

func write(b []byte) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.Write(b) }
}

// header sets headers and a status before what follows.
func header(status int, next func(http.ResponseWriter, *http.Request), kv ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i+1 < len(kv); i += 2 {
			w.Header().Set(kv[i], kv[i+1])
		}
		w.WriteHeader(status)
		if next != nil {
			next(w, r)
		}
	}
}

func hostileAttacks(image []byte) []attack {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 64 {
		z.Write(make([]byte, 1<<20))
	}
	z.Close()
	deep := func(n int) []byte { return []byte(`{"signed":` + strings.Repeat(`[`, n)) }
	nested := func(n int) []byte {
		return []byte(`{"signatures":[],"signed":` + strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) + "}")
	}
	evil := bytes.Repeat([]byte("evil"), len(image)/4)
	size := strconv.Itoa(len(image))
	part := func(first int, total string) string { return fmt.Sprintf("bytes %d-%d/%s", first, len(image)-1, total) }
	away := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://"+r.Host+r.URL.Path, 302) }
	loop := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 302) }
	silence := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	cutAt := func(b []byte, n int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", size)
			w.Write(b[:n])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	list := []attack{
		{name: "endless timestamp", part: toTimestamp, do: endless, want: "wrong-length"},
		{name: "endless root", part: "2.root.json", do: endless, want: "wrong-length"},
		{name: "endless snapshot", part: toSnapshot, do: endless, want: "wrong-length"},
		{name: "huge timestamp", part: toTimestamp, do: header(200, endless, "Content-Length", "1099511627776"), want: "wrong-length"},
		{name: "slow timestamp", part: toTimestamp, do: trickle, want: "retry"},
		{name: "silent timestamp", part: toTimestamp, do: silence, want: "retry"},
		{name: "endless error", part: toTimestamp, do: header(500, endless), want: "retry"},
		{name: "deep JSON", part: toTimestamp, do: write(deep(30_000)), want: "malformed-metadata"},
		{name: "deep root", part: "2.root.json", do: write(deep(500_000)), want: "malformed-metadata"},
		{name: "deep JSON that ends", part: "2.root.json", do: write(nested(9_000)), want: "malformed-metadata"},
		{name: "many keys", part: "2.root.json", do: write([]byte(`{"signatures":[` + strings.Repeat(`{"keyid":"a","sig":"b"},`, 20_000) + `{}],"signed":{}}`)), want: "malformed-metadata"},
		{name: "compressed metadata", part: toTimestamp, do: header(200, write(bomb.Bytes()), "Content-Encoding", "gzip"), want: "retry"},
		{name: "compressed metadata unsaid", part: toTimestamp, do: write(bomb.Bytes()[:30_000]), want: "malformed-metadata"},
		{name: "metadata sent to http", part: toTimestamp, do: away, want: "cross-host-redirect"},
		{name: "redirect in a circle", part: toTimestamp, do: loop, want: "retry"},
		{name: "huge header", part: toTimestamp, do: header(200, nil, "X-Huge", strings.Repeat("h", 100<<10)), want: "retry"},
		{name: "everything is away", part: "/", do: header(404, nil), want: "retry"},

		{name: "endless image", part: toImage, do: endless, want: "wrong-length"},
		{name: "image with more at its end", part: toImage, do: func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); w.Write(image); endless(w, r) }, want: "wrong-length"},
		{name: "image of another length", part: toImage, do: write(image[:1000]), want: "wrong-length"},
		{name: "slow image", part: toImage, do: trickle, want: "retry"},
		{name: "silent image", part: toImage, do: silence, want: "retry"},
		{name: "other bytes", part: toImage, do: write(evil), want: "bad-hash"},
		{name: "compressed image", part: toImage, do: header(200, write(bomb.Bytes()), "Content-Encoding", "gzip"), want: "retry"},
		{name: "image sent to http", part: toImage, do: away, want: "cross-host-redirect"},
		{name: "image is away", part: toImage, do: header(404, nil), want: "retry", runs: 3},
		{name: "cut again and again", part: toImage, do: cutAt(image, 100), want: "quarantined", runs: 30},
	}
	// After a cut the device asks for a range, and gets something else.
	for _, a := range []attack{
		{name: "resumed with the wrong range", do: header(206, write(image), "Content-Range", part(0, size)), want: "retry"},
		{name: "resumed without a range", do: header(206, write(image)), want: "retry"},
		{name: "resumed with several ranges", do: header(206, write(image), "Content-Type", "multipart/byteranges; boundary=x"), want: "retry"},
		{name: "resumed with a negative range", do: header(206, write(image), "Content-Range", "bytes -5-10/"+size), want: "retry"},
		{name: "resumed with another length", do: header(206, write(image), "Content-Range", part(5<<20, "99")), want: "wrong-length"},
		{name: "resumed with other bytes", do: func(w http.ResponseWriter, r *http.Request) {
			at, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"))
			header(206, write(evil[at:]), "Content-Range", part(at, size))(w, r)
		}, want: "retry", runs: 3},
		{name: "resumed slowly", do: trickle, want: "retry"},
		{name: "resumed without end", do: header(206, endless, "Content-Range", part(5<<20, size)), want: "wrong-length"},
	} {
		rest := a.do
		a.part = toImage
		a.do = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				cutAt(image, 5<<20)(w, r)
			}
			rest(w, r)
		}
		a.runs = max(a.runs, 2)
		list = append(list, a)
	}
	// The first half of one image and the second half of another.
	list = append(list, attack{name: "content that changes between resumes", part: toImage, want: "retry", runs: 4, do: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" {
			cutAt(evil, 5<<20)(w, r)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(image))
	}})
	return list
}

// hostile is a device and the server it depends on.
type hostile struct {
	*testing.T
	m     *update.Machine
	boot  *updatetest.Boot
	slots slot.Config
	ops   []string
	now   time.Time
	on    atomic.Bool
	fresh []byte
}

func newHostile(t *testing.T, image []byte, a attack) *hostile {
	t.Helper()
	h := &hostile{T: t, now: trusttest.Start.Add(time.Hour), fresh: image}
	repo := trusttest.New(t)
	path := update.ImagePath(trusttest.Product, "3.0")
	repo.AddTarget(trusttest.ProductRole, path, image, map[string]any{"backstay": 1, "product": trusttest.Product, "compatible": []string{"v2"},
		"version": "3.0", "counter": 3, "floor": 1, "kind": "full", "class": "security"})
	raw, err := json.Marshal(update.Assignment{Product: trusttest.Product, Serial: 1, Issued: repo.Now, Entries: []update.Assigned{
		{Path: path, SHA256: sha256.Sum256(image), Length: int64(len(image)), Counter: 3, To: 100}}})
	h.ok(err)
	repo.AddTarget("assign", update.AssignmentPath(trusttest.Product), raw, nil)
	repo.Publish()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.on.Load() && strings.Contains(r.URL.Path, a.part) {
			a.do(w, r)
			return
		}
		repo.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	client, err := trust.New(trust.Config{FactoryRoot: repo.Factory, MetadataURL: server.URL + "/metadata", TargetsURL: server.URL + "/targets",
		HTTP: &http.Client{Transport: trust.NewTransport(&tls.Config{RootCAs: roots})}, Store: &trusttest.Store{}, Now: func() time.Time { return h.now },
		Limits: trust.Limits{Header: time.Second, Idle: time.Second, File: 1500 * time.Millisecond, MinRate: 20_000, Window: 700 * time.Millisecond}})
	h.ok(err)
	h.device(client)
	return h
}

func (h *hostile) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// device is what is around the client.
func (h *hostile) device(client *trust.Client) {
	dir, err := os.MkdirTemp("/dev/shm", "backstay") // syncing to memory is free
	if err != nil {
		dir = h.TempDir()
	}
	h.Cleanup(func() { os.RemoveAll(dir) })
	h.slots = slot.Config{Cmdline: filepath.Join(dir, "cmdline"), Slots: map[update.SlotID]slot.Device{
		"A": {Kind: slot.File, Path: filepath.Join(dir, "a")}, "B": {Kind: slot.File, Path: filepath.Join(dir, "b")}}}
	for _, name := range []string{"a", "b"} {
		h.ok(os.WriteFile(filepath.Join(dir, name), make([]byte, hostileImage+(64<<10)), 0o600))
	}
	h.runs("A")
	set, err := slot.Open(h.slots)
	h.ok(err)
	note := func(op string) (bool, error) { h.ops = append(h.ops, op); return true, nil }
	h.boot = &updatetest.Boot{Effect: note, Order: []update.SlotID{"A", "B"}, Left: map[update.SlotID]int{"A": 3, "B": 3}}
	h.m = &update.Machine{
		Source: trust.NewSource(client, func(context.Context) (update.Device, error) {
			return update.Device{ID: "unit1", Product: trusttest.Product, Compatible: "v2", Version: "1.0", Agent: "1", Floor: 1}, nil
		}),
		Slots: set, Boot: h.boot, Floor: &updatetest.Floor{Value: 1}, Journal: &updatetest.Journal{},
		Health: func(context.Context) error { return nil }, Reboot: func(context.Context, string) error { return nil },
		Now: func() time.Time { return h.now }, BootID: func() string { return h.now.String() },
	}
}

func (h *hostile) runs(id string) {
	h.ok(os.WriteFile(h.slots.Cmdline, []byte("quiet rauc.slot="+id+"\n"), 0o600))
}

// peak measures how far the heap grows while f runs.
func peak(f func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(5)) // what is garbage already is not growth
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	base, top := int64(m.HeapAlloc), int64(m.HeapAlloc)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				top = max(top, int64(m.HeapAlloc))
			}
		}
	}()
	f()
	close(done)
	<-ended
	return top - base
}

func TestHostileServer(t *testing.T) {
	testneed.Native(t) // it measures time and memory
	image := updatetest.Image("3.0", hostileImage)
	for _, a := range hostileAttacks(image) {
		t.Run(strings.ReplaceAll(a.name, " ", "-"), func(t *testing.T) {
			h := newHostile(t, image, a)
			h.on.Store(true)
			var last error
			start := time.Now()
			grown := peak(func() {
				for range max(a.runs, 1) {
					last = h.m.Run(t.Context())
					if !errors.Is(last, update.ErrRetry) {
						break
					}
				}
			})
			took := time.Since(start)
			t.Logf("%.2f s, heap grew by %.1f MiB: %v", took.Seconds(), float64(grown)/(1<<20), last)
			if took > attackTime {
				t.Errorf("it took %v", took)
			}
			if grown > heapGrowth {
				t.Errorf("the heap grew by %d bytes", grown)
			}
			h.says(last, a.want)
			if slices.Contains(h.ops, "boot.try B") || h.boot.Order[0] != "A" || h.boot.Left["A"] != 3 {
				t.Fatalf("the boot loader was told: %q", h.ops)
			}
			h.updates()
		})
	}
}

func (h *hostile) says(err error, want string) {
	h.Helper()
	no, refused := errors.AsType[*update.Refusal](err)
	switch {
	case want == "retry" && (!errors.Is(err, update.ErrRetry) || refused):
		h.Errorf("error is %v, want one that is ErrRetry", err)
	case want != "retry" && (!refused || no.Code != want):
		h.Errorf("error is %v, want the refusal %s", err, want)
	}
}

// updates serves properly, waits as long as the device wants to, and expects the update.
func (h *hostile) updates() {
	h.Helper()
	h.on.Store(false)
	for _, q := range h.m.Status().Quarantine {
		if q.Never {
			h.Fatalf("the release is given up: %+v", q)
		}
		h.now = q.NotBefore
	}
	if err := h.m.Run(h.Context()); !errors.Is(err, update.ErrReboot) {
		h.Fatalf("served properly: %v", err)
	}
	f, err := os.Open(h.slots.Slots["B"].Path)
	h.ok(err)
	defer f.Close()
	got := sha256.New()
	_, err = io.CopyN(got, f, hostileImage)
	h.ok(err)
	if [32]byte(got.Sum(nil)) != sha256.Sum256(h.fresh) {
		h.Fatal("the slot holds something else")
	}
	h.now = h.now.Add(time.Minute) // another boot
	h.runs("B")
	h.ok(h.m.Resume(h.Context()))
	if s := h.m.Status(); s.Booted != "B" || len(s.History) == 0 || s.History[len(s.History)-1].Result != update.Committed {
		h.Errorf("status %+v", s)
	}
}
