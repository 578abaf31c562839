// SPDX-License-Identifier: Apache-2.0

package trusttest

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"
)

// File returns a served file, nil if there is none. Paths are below the
// server's root: "metadata/timestamp.json".
func (r *Repo) File(path string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.files[path]
}

// SetFile serves b at path; nil takes the file away.
func (r *Repo) SetFile(path string, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b == nil {
		delete(r.files, path)
		return
	}
	r.files[path] = b
}

// Copy returns what is served now, for Replay.
func (r *Repo) Copy() map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.files)
}

// Replay serves a copy made before, and nothing else.
func (r *Repo) Replay(files map[string][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files = maps.Clone(files)
}

// Asked returns the paths asked for since the last call.
func (r *Repo) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.asked)
	r.asked = nil
	return out
}

// ServeHTTP serves the files, with ranges.
func (r *Repo) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path := strings.TrimPrefix(req.URL.EscapedPath(), "/")
	r.mu.Lock()
	r.asked = append(r.asked, path)
	b, ok := r.files[path]
	r.mu.Unlock()
	if !ok {
		http.NotFound(w, req)
		return
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(b))
}

// Serve starts a server on loopback that ends with the test. wrap, if not nil,
// stands in front of the repository.
func (r *Repo) Serve(wrap func(http.Handler) http.Handler) string {
	var h http.Handler = r
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	r.t.Cleanup(s.Close)
	return s.URL
}
