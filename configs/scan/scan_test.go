// SPDX-License-Identifier: Apache-2.0

package scan_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/scan"
	"github.com/backstay/backstay/testdata/plantroot"
)

var start = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

func now() time.Time { return start }

// planted makes the planted tree, owned by root in every image that is made from it.
func planted(t testing.TB) (dir string, rules []string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	rules, err := plantroot.Plant(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Not every wrapping that a test makes of the tree keeps owners and capabilities.
	for _, name := range []string{"srv/app", "usr/bin/sniff"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, slices.DeleteFunc(rules, func(id string) bool { return slices.Contains(plantroot.RootOnly(), id) })
}

func policy(t testing.TB, profiles ...string) configs.Policy {
	t.Helper()
	p, err := configs.Load(profiles...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// scanned opens and scans an image.
func scanned(t testing.TB, name string, p configs.Policy, opt scan.Options) scan.Result {
	t.Helper()
	s, err := scan.Open(context.Background(), name, nil, opt)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	defer s.Close()
	r, err := scan.Run(context.Background(), s, p, now)
	if err != nil {
		t.Fatalf("scan %s: %v", name, err)
	}
	return r
}

// verdicts is what must be the same whatever a tree is wrapped in.
func verdicts(r scan.Result) []string {
	var out []string
	for _, p := range r.Problems {
		out = append(out, p.Fingerprint+" "+p.Rule+" "+p.Line1())
	}
	for _, f := range r.Report.Findings {
		out = append(out, f.Rule+" "+string(f.Result)+" "+f.Reason+" "+strings.Join(f.Inspected, ","))
	}
	slices.Sort(out)
	return out
}

func sameVerdicts(t testing.TB, name string, want, got scan.Result) {
	t.Helper()
	a, b := verdicts(want), verdicts(got)
	if slices.Equal(a, b) {
		return
	}
	for _, l := range a {
		if !slices.Contains(b, l) {
			t.Errorf("%s lacks: %s", name, l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			t.Errorf("%s has too much: %s", name, l)
		}
	}
}

// rootTar writes dir as a tar whose files belong to root.
func rootTar(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if fi.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(p); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(fi, link)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		h.Name, h.Uid, h.Gid, h.Uname, h.Gname = "./"+rel, 0, 0, "", ""
		if err := w.WriteHeader(h); err != nil || !fi.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(t.TempDir(), name)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPlantedTreeAsDirectoryAndTar(t *testing.T) {
	dir, rules := planted(t)
	p := policy(t, "base")
	want := scanned(t, dir, p, scan.Options{AssumeRoot: true})
	var failed []string
	for _, f := range want.Report.Findings {
		if f.Result == configs.Fail {
			failed = append(failed, f.Rule)
		}
	}
	slices.Sort(failed)
	for _, id := range rules {
		if r, ok := p.Rule(id); ok && (r.Applies == nil || r.Applies.Live == nil || !*r.Applies.Live) && !slices.Contains(failed, id) {
			t.Errorf("the directory: %s does not fail", id)
		}
	}
	sameVerdicts(t, "tar", want, scanned(t, write(t, "rootfs.img", rootTar(t, dir)), p, scan.Options{}))
}

func TestCleanTreeHasNoProblems(t *testing.T) {
	dir := t.TempDir()
	if err := plantroot.Clean(dir); err != nil {
		t.Fatal(err)
	}
	r := scanned(t, write(t, "rootfs.img", rootTar(t, dir)), policy(t, "base"), scan.Options{})
	for _, p := range r.Problems {
		t.Errorf("%s: %s", p.Rule, p.Line1())
	}
}
