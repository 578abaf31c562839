// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

// stick writes what a repository serves into a directory.
func stick(t *testing.T, repo *trusttest.Repo) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range repo.Copy() {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// plug makes a client use a directory.
func (d *device) plug(path string) {
	d.t.Helper()
	dir, err := trust.OpenDirectory(path)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { dir.Close() })
	d.client.Local(dir)
}

// offline is a client whose network has nobody on it.
func offline(c *trust.Config) {
	c.HTTP = &http.Client{Transport: broken{}}
}

type broken struct{}

func (broken) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no network")
}

// A device without a network gets a release from a directory, at any offset, and keeps what it learned.
func TestDirectory(t *testing.T) {
	repo := trusttest.New(t)
	data := pattern(100_000)
	repo.AddTarget(trusttest.ProductRole, image, data, nil)
	repo.Publish()
	d := deviceFor(t, repo, nil, offline)
	_, err := d.client.Refresh(t.Context())
	wantRetry(t, err)
	d.plug(stick(t, repo))
	info, err := lookup(t, d.refresh(), image)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 1, 50_000, 100_000} {
		r, err := d.client.Open(t.Context(), info, off)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, data[off:]) {
			t.Fatalf("from %d: %d bytes, %v", off, len(got), err)
		}
	}
	if d.state().Floors.Timestamp == 0 {
		t.Error("no floor was saved")
	}
	if len(repo.Asked()) > 0 {
		t.Error("the network was asked")
	}
	d.client.Local(nil)
	_, err = d.client.Refresh(t.Context())
	wantRetry(t, err)
}

// The same checks hold: newer is taken, older refused, expired refused, forged refused.
func TestDirectoryIsNotTrusted(t *testing.T) {
	repo := trusttest.New(t)
	old := stick(t, repo)
	repo.Publish()
	d := deviceFor(t, repo, nil)
	d.refresh()
	d.plug(old)
	d.refused("metadata-rollback")

	repo.Publish()
	d.plug(stick(t, repo))
	if v := d.refresh().Versions(); v.Timestamp != 3 {
		t.Errorf("versions %+v", v)
	}

	repo.Publish()
	late := stick(t, repo)
	d.setTime(trusttest.Start.AddDate(0, 0, 8))
	d.plug(late)
	d.refused("metadata-expired")
	d.setTime(trusttest.Start.Add(time.Hour))

	other := trusttest.New(t)
	other.Publish()
	other.Publish()
	other.Publish()
	other.Publish()
	d.plug(stick(t, other))
	d.refused("bad-signature")

	data := pattern(1000)
	repo.AddTarget(trusttest.ProductRole, image, data, nil)
	repo.Publish()
	dir := stick(t, repo)
	d.plug(dir)
	info, err := lookup(t, d.refresh(), image)
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, filepath.FromSlash(servedAt(data)))
	for name, b := range map[string][]byte{"bad-hash": make([]byte, 1000), "wrong-length": make([]byte, 1001)} {
		if err := os.WriteFile(at, b, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err = readAll(t, d, info)
		wantRefusal(t, err, name)
	}
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	_, err = readAll(t, d, info)
	wantRetry(t, err)
}

// A device that has never had a clock believes the time that newly signed metadata names.
func TestDirectoryWithoutAClock(t *testing.T) {
	repo := trusttest.New(t)
	d := deviceFor(t, repo, nil, offline)
	d.setTime(time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC))
	d.plug(stick(t, repo))
	if tr := d.refresh(); !tr.Issued().Equal(trusttest.Start) {
		t.Errorf("time %v", tr.Issued())
	}
}

// No name leads out of the directory, and what is not a file is not read.
func TestDirectoryHoldsNothingElse(t *testing.T) {
	repo := trusttest.New(t)
	secret := filepath.Join(t.TempDir(), "timestamp.json")
	if err := os.WriteFile(secret, repo.File(timestampFile), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(path string) error{
		"link out":    func(p string) error { return os.Symlink(secret, p) },
		"link around": func(p string) error { return os.Symlink("timestamp.json", p) },
		"pipe":        func(p string) error { return syscall.Mkfifo(p, 0o644) },
		"directory":   func(p string) error { return os.Mkdir(p, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := stick(t, repo)
			d := deviceFor(t, repo, nil, offline)
			d.plug(dir)
			path := filepath.Join(dir, "metadata", "timestamp.json")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := spoil(path); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err := d.client.Refresh(t.Context())
			wantRetry(t, err)
			if time.Since(start) > 5*time.Second {
				t.Error("it waited")
			}
		})
	}
	t.Run("link of a folder", func(t *testing.T) {
		dir := stick(t, repo)
		out := filepath.Join(t.TempDir(), "metadata")
		if err := os.Rename(filepath.Join(dir, "metadata"), out); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(out, filepath.Join(dir, "metadata")); err != nil {
			t.Fatal(err)
		}
		if _, err := trust.OpenDirectory(dir); !errors.Is(err, update.ErrSetup) {
			t.Errorf("opened: %v", err)
		}
	})
	for _, path := range []string{"relative", t.TempDir(), "/nonexistent/backstay", secret} {
		if _, err := trust.OpenDirectory(path); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A huge file costs no memory and no time.
func TestDirectoryLimits(t *testing.T) {
	repo := trusttest.New(t)
	d := deviceFor(t, repo, nil, offline)
	dir := stick(t, repo)
	if err := os.Truncate(filepath.Join(dir, "metadata", "timestamp.json"), 1<<40); err != nil {
		t.Skip("no sparse files here:", err)
	}
	d.plug(dir)
	d.refused("wrong-length")
}
