// SPDX-License-Identifier: Apache-2.0

package repo_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/delta"
	"github.com/backstay/backstay/update/repo"
)

// TestPayloads publishes a release with a delta and a compressed image, and gets it as a device.
func TestPayloads(t *testing.T) {
	f := newProduct(t)
	old := strings.Repeat("a line of the first image, which is like all others\n", 500)
	image := old[:9000] + "and something new" + old[9100:]
	f.release(repo.NewRelease{Version: "1.0.0"}, old)
	_, err := f.add(repo.NewRelease{Version: "1.1.0", DeltaFrom: []string{"0.9.0"}}, image)
	wantCode(t, err, "unknown-release")
	r := f.release(repo.NewRelease{Version: "1.1.0", DeltaFrom: []string{"1.0.0"}}, image)
	if len(r.Payloads) != 2 || r.Payloads[0].From != "1.0.0" || r.Payloads[1].From != "" || r.Payloads[1].Length > r.Length/10 {
		t.Errorf("payloads %+v of %d bytes", r.Payloads, r.Length)
	}
	f.start("1.1.0")
	f.publish()
	got, _, err := f.device(f.PublishDir(), &memory{}, cam("1.0.0"))
	must(t, err)
	if len(got.Payloads) != 2 {
		t.Fatalf("the device sees %+v", got.Payloads)
	}
	d := &delta.Source{Inner: served{f.PublishDir()}, Policy: delta.Require, Running: func(context.Context) (delta.Running, error) {
		return delta.Running{SlotReader: slot{strings.NewReader(old)}, Length: int64(len(old)), SHA256: sha256.Sum256([]byte(old))}, nil
	}}
	body, err := d.Open(t.Context(), got, 0)
	must(t, err)
	b, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(b, []byte(image)) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if rep, err := f.Verify(t.Context()); err != nil || len(rep.Problems) > 0 {
		t.Fatalf("%v, %v", rep.Problems, err)
	}
	// The payloads go with their release.
	must(t, f.Withdraw("acme-cam", "1.1.0"))
	p, err := f.Proposals()
	must(t, err)
	if n := strings.Count(strings.Join(p[0].Changes, "\n"), "withdraw firmware/acme-cam/1.1.0"); n != 3 {
		t.Errorf("%d targets are withdrawn, want 3: %v", n, p[0].Changes)
	}
}

type slot struct{ *strings.Reader }

func (slot) Close() error { return nil }

// served opens what is published.
type served struct{ dir string }

func (served) Latest(context.Context) (update.Release, error) {
	return update.Release{}, update.ErrNothing
}

func (s served) Open(_ context.Context, r update.Release, off int64) (io.ReadCloser, error) {
	dir, name := filepath.Split(r.Path)
	f, err := os.Open(filepath.Join(s.dir, "targets", dir, hex.EncodeToString(r.SHA256[:])+"."+name))
	if err != nil {
		return nil, err
	}
	_, err = f.Seek(off, io.SeekStart)
	return f, err
}
