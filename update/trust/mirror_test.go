// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

// served is a repository with one image, and a client that knows several places for it. The last place is honest.
func served(t *testing.T, data []byte, liars ...func(http.Handler) http.Handler) (*device, trust.TargetInfo) {
	t.Helper()
	repo := trusttest.New(t)
	repo.AddTarget(trusttest.ProductRole, image, data, nil)
	repo.Publish()
	var places []trust.Mirror
	for _, l := range append(liars, nil) {
		url := repo.Serve(l)
		places = append(places, trust.Mirror{MetadataURL: url + "/metadata", TargetsURL: url + "/targets"})
	}
	d := deviceFor(t, repo, nil, func(c *trust.Config) {
		c.MetadataURL, c.TargetsURL, c.Mirrors = places[0].MetadataURL, places[0].TargetsURL, places[1:]
		c.Limits.Header, c.Limits.Idle = 1500*time.Millisecond, 1500*time.Millisecond
	})
	info, err := lookup(t, d.refresh(), image)
	if err != nil {
		t.Fatal(err)
	}
	return d, info
}

// answer puts one answer in front of everything whose path has a part.
func answer(part string, h http.HandlerFunc) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, part) {
				h(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Whatever the first place does to metadata, the second is asked, and what is wrong is reported.
func TestMirrorsOfMetadata(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	for name, c := range map[string]struct {
		part    string
		h       http.HandlerFunc
		refused bool
	}{
		"error":         {"timestamp.json", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, false},
		"absent":        {"snapshot.json", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, false},
		"silence":       {"targets.json", func(_ http.ResponseWriter, r *http.Request) { wait(r) }, false},
		"not metadata":  {"timestamp.json", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }, true},
		"endless":       {"snapshot.json", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) }, true},
		"role":          {trusttest.ProductRole + ".json", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }, true},
		"role is away":  {trusttest.ProductRole + ".json", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, false},
		"redirect away": {"timestamp.json", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, 302) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			d, info := served(t, pattern(3000), answer(c.part, c.h))
			if info.Length != 3000 {
				t.Errorf("target %+v", info)
			}
			if d.emitted("update.mirror-refused") != c.refused {
				t.Errorf("events %q", d.events)
			}
		})
	}
}

// Nobody delivers: the answer may be another later as long as one place could not be reached.
func TestNoMirrorDelivers(t *testing.T) {
	for _, late := range []bool{false, true} {
		repo := trusttest.New(t)
		first := repo.Serve(answer("timestamp.json", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }))
		second := repo.Serve(answer("timestamp.json", func(w http.ResponseWriter, _ *http.Request) {
			if late {
				w.WriteHeader(503)
			}
			io.WriteString(w, "{}")
		}))
		d := deviceFor(t, repo, nil, func(c *trust.Config) {
			c.MetadataURL = first + "/metadata"
			c.Mirrors = []trust.Mirror{{MetadataURL: second + "/metadata"}}
		})
		_, err := d.client.Refresh(t.Context())
		if late {
			wantRetry(t, err)
		} else {
			wantRefusal(t, err, "malformed-metadata")
		}
	}
}

// readAll reads a target as a device does: again from the start while another mirror is left.
func readAll(t *testing.T, d *device, info trust.TargetInfo) ([]byte, error) {
	t.Helper()
	for {
		r, err := d.client.Open(t.Context(), info, 0)
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

// Whatever the first place does to an image, the device gets it from the second.
func TestMirrorsOfTargets(t *testing.T) {
	data := pattern(300_000)
	junk := bytes.Repeat([]byte("x"), len(data))
	cut := func(b []byte, n int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "300000")
			w.Write(b[:n])
			panic(http.ErrAbortHandler)
		}
	}
	for name, c := range map[string]struct {
		h       http.HandlerFunc
		refused bool
	}{
		"error":               {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, false},
		"absent":              {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, false},
		"silence":             {func(_ http.ResponseWriter, r *http.Request) { wait(r) }, false},
		"cut":                 {cut(data, 100_000), false},
		"wrong length":        {func(w http.ResponseWriter, _ *http.Request) { w.Write(data[:1000]) }, true},
		"wrong bytes":         {func(w http.ResponseWriter, _ *http.Request) { w.Write(junk) }, true},
		"wrong bytes and cut": {cut(junk, 100_000), false},
		"compressed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(junk)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d, info := served(t, data, answer(image[len(image)-5:], c.h))
			got, err := readAll(t, d, info)
			if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if d.emitted("update.mirror-refused") != c.refused {
				t.Errorf("events %q", d.events)
			}
		})
	}
}

// A place whose bytes were refused is asked again after the next refresh, and at once when there is no other.
func TestRefusedMirrorIsRemembered(t *testing.T) {
	data := pattern(3000)
	asked := 0
	liar := answer(image[len(image)-5:], func(w http.ResponseWriter, _ *http.Request) { asked++; w.Write(make([]byte, len(data))) })
	d, info := served(t, data, liar)
	for range 3 {
		if _, err := readAll(t, d, info); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("the liar was asked %d times in one run", asked)
	}
	d.refresh()
	// The first choice is now the place that delivered last.
	if _, err := readAll(t, d, info); err != nil || asked != 1 {
		t.Errorf("asked %d times: %v", asked, err)
	}

	repo := trusttest.New(t)
	repo.AddTarget(trusttest.ProductRole, image, data, nil)
	repo.Publish()
	asked = 0
	alone := deviceFor(t, repo, liar)
	info, err := lookup(t, alone.refresh(), image)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := readAll(t, alone, info)
		wantRefusal(t, err, "bad-hash")
	}
	if asked != 2 || alone.emitted("update.mirror-refused") {
		t.Errorf("asked %d times, events %q", asked, alone.events)
	}
}

// Two liars, one of whom cuts: the honest place is found, and no good place is condemned for what another mixed in.
func TestMixedBytes(t *testing.T) {
	data := pattern(100_000)
	cutting := answer(image[len(image)-5:], func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			w.WriteHeader(500)
			return
		}
		w.Header().Set("Content-Length", "100000")
		w.Write(make([]byte, 50_000))
		panic(http.ErrAbortHandler)
	})
	whole := answer(image[len(image)-5:], func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, len(data))) })
	d, info := served(t, data, cutting, whole)
	var err error
	var got []byte
	for range 4 { // a cut ends an attempt that may not mix
		if got, err = readAll(t, d, info); err == nil {
			break
		}
	}
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestRedirectToANamedMirror(t *testing.T) {
	repo := trusttest.New(t)
	second := repo.Serve(nil)
	first := repo.Serve(answer("timestamp.json", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, second+r.URL.Path, 307) }))
	d := deviceFor(t, repo, nil, func(c *trust.Config) {
		c.MetadataURL, c.Mirrors = first+"/metadata", []trust.Mirror{{TargetsURL: second + "/targets"}}
	})
	d.refresh()
}

func TestBadMirrors(t *testing.T) {
	d := newDevice(t)
	for name, m := range map[string][]trust.Mirror{
		"no URL": {{MetadataURL: "ftp://host/"}}, "query": {{TargetsURL: "http://host/?a"}}, "too many": make([]trust.Mirror, 8),
	} {
		c := d.config
		c.Mirrors = m
		if _, err := trust.New(c); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The cap holds for all downloads together and is even: no second brings more than its share.
func TestBandwidth(t *testing.T) {
	const size, rate = 200_000, 100_000
	data := pattern(size)
	repo := trusttest.New(t)
	repo.AddTarget(trusttest.ProductRole, image, data, nil)
	repo.Publish()
	synctest.Test(t, func(t *testing.T) {
		d := &device{t: t, repo: repo, store: &trusttest.Store{}, now: trusttest.Start.Add(time.Hour)}
		d.config = trust.Config{FactoryRoot: repo.Factory, MetadataURL: "http://h/metadata", TargetsURL: "http://h/targets", Store: d.store,
			Now: d.time, Emit: d.emit, HTTP: &http.Client{Transport: handlerTransport{repo}}, Limits: trust.Limits{Bandwidth: rate}}
		d.restart()
		info, err := lookup(t, d.refresh(), image)
		if err != nil {
			t.Fatal(err)
		}
		r, err := d.client.Open(t.Context(), info, 0)
		if err != nil {
			t.Fatal(err)
		}
		start, last, second := time.Now(), time.Now(), 0
		buf := make([]byte, 128<<10)
		for {
			n, err := r.Read(buf)
			if n > rate/10 {
				t.Fatalf("%d bytes at once", n)
			}
			if second += n; time.Since(last) >= time.Second {
				if second > rate+rate/10 {
					t.Errorf("%d bytes in a second", second)
				}
				last, second = time.Now(), 0
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 1900*time.Millisecond || took > 2100*time.Millisecond {
			t.Errorf("%d bytes took %v", size, took)
		}
	})
}

// handlerTransport answers without a network, whose sockets a bubble of synctest would wait for.
type handlerTransport struct{ h http.Handler }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.h.ServeHTTP(w, r)
	return w.Result(), nil
}

// Hosts that the configuration names may be redirected to, but never from https to http.
func TestRedirectToANamedMirrorWithoutTLS(t *testing.T) {
	repo := trusttest.New(t)
	d := deviceFor(t, repo, nil, func(c *trust.Config) {
		c.MetadataURL, c.TargetsURL = "https://one.invalid/metadata", "https://one.invalid/targets"
		c.Mirrors = []trust.Mirror{{TargetsURL: "http://two.invalid/targets"}, {TargetsURL: "https://three.invalid/targets"}}
		c.HTTP = &http.Client{Transport: handlerTransport{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Host == "one.invalid" {
				http.Redirect(w, r, "http://two.invalid"+r.URL.Path, http.StatusFound)
				return
			}
			repo.ServeHTTP(w, r)
		})}}
	})
	d.refused("cross-host-redirect")
}
