// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, limit int, sources ...Source) (*Watcher, string) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"etc/ssh", "usr/lib", "var"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	root, err := os.OpenRoot(dir)
	must(t, err)
	w, err := New(root, false, limit, sources...)
	must(t, err)
	t.Cleanup(func() { w.Close(); root.Close() })
	return w, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// prompt holds a notice to what is promised, a second, and to five on a machine that does other things: a watch that does not
// work waits longer than that.
func prompt(t *testing.T, what string, d time.Duration) {
	t.Helper()
	t.Logf("%s: noticed after %s", what, d.Round(time.Millisecond))
	if d > 5*time.Second {
		t.Errorf("%s: noticed after %s", what, d)
	}
}

func wait(t *testing.T, w *Watcher, d time.Duration) Changes {
	t.Helper()
	c, err := w.Wait(t.Context(), d)
	must(t, err)
	return c
}

func TestWhatIsNoticed(t *testing.T) {
	w, dir := open(t, 16)
	at := func(n string) string { return filepath.Join(dir, n) }
	must(t, os.WriteFile(at("etc/fstab"), []byte("a\n"), 0o644))
	paths := []string{"/etc/fstab", "/etc/ssh/sshd_config", "/opt/app/conf", "/usr/lib"}
	if left := w.Set(paths); left != 0 {
		t.Fatalf("%d directories are not watched", left)
	}
	if c := wait(t, w, 50*time.Millisecond); len(c.Paths) != 0 || c.All {
		t.Fatalf("noticed before anything happened: %v", c)
	}
	for _, step := range []struct {
		what string
		do   func() error
		want string
	}{
		{"write in place", func() error { return os.WriteFile(at("etc/fstab"), []byte("b\n"), 0o644) }, "/etc/fstab"},
		{"replace by rename", func() error {
			return errors.Join(os.WriteFile(at("var/new"), []byte("c\n"), 0o644), os.Rename(at("var/new"), at("etc/fstab")))
		}, "/etc/fstab"},
		{"mode", func() error { return os.Chmod(at("etc/fstab"), 0o666) }, "/etc/fstab"},
		{"appear", func() error { return os.WriteFile(at("etc/ssh/sshd_config"), nil, 0o600) }, "/etc/ssh/sshd_config"},
		{"go away", func() error { return os.Remove(at("etc/ssh/sshd_config")) }, "/etc/ssh/sshd_config"},
		{"in a listed directory", func() error { return os.WriteFile(at("usr/lib/x"), nil, 0o600) }, "/usr/lib/x"},
		{"a missing directory appears", func() error { return os.MkdirAll(at("opt"), 0o755) }, "/opt"},
	} {
		must(t, step.do())
		began := time.Now()
		if c := wait(t, w, 20*time.Second); !slices.Contains(c.Paths, step.want) {
			t.Errorf("%s: noticed %q, want %s", step.what, c.Paths, step.want)
		}
		prompt(t, step.what, time.Since(began))
		w.Set(paths)
	}
	// The directory that was missing is watched now.
	must(t, os.Mkdir(at("opt/app"), 0o755))
	wait(t, w, 5*time.Second)
	w.Set(paths)
	must(t, os.WriteFile(at("opt/app/conf"), nil, 0o600))
	if c := wait(t, w, 5*time.Second); !slices.Contains(c.Paths, "/opt/app/conf") {
		t.Errorf("in a directory that appeared: %q", c.Paths)
	}
	// A directory that was removed and made again, too.
	must(t, os.RemoveAll(at("etc/ssh")))
	must(t, os.Mkdir(at("etc/ssh"), 0o755))
	wait(t, w, 5*time.Second)
	w.Set(paths)
	must(t, os.WriteFile(at("etc/ssh/sshd_config"), nil, 0o600))
	if c := wait(t, w, 5*time.Second); !slices.Contains(c.Paths, "/etc/ssh/sshd_config") {
		t.Errorf("in a directory that was made again: %q", c.Paths)
	}
}

func TestABurstIsToldOnce(t *testing.T) {
	w, dir := open(t, 16)
	w.Set([]string{"/etc/a"})
	go func() {
		for i := range 20 {
			os.WriteFile(filepath.Join(dir, "etc", fmt.Sprint("f", i)), nil, 0o600) //nolint:errcheck // the count tells
			time.Sleep(5 * time.Millisecond)
		}
	}()
	seen, looks := map[string]bool{}, 0
	for ; len(seen) < 20 && looks < 20; looks++ {
		for _, p := range wait(t, w, 20*time.Second).Paths {
			seen[p] = true
		}
	}
	if len(seen) != 20 || looks > 5 {
		t.Errorf("%d paths of 20 told in %d times", len(seen), looks)
	}
	// A writer that never stops does not hold the news back.
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				os.WriteFile(filepath.Join(dir, "etc/b"), nil, 0o600) //nolint:errcheck // the wait tells
			}
		}
	}()
	began := time.Now()
	wait(t, w, 10*time.Second)
	prompt(t, "a burst without end", time.Since(began))
}

func TestLimits(t *testing.T) {
	w, dir := open(t, 2)
	if left := w.Set([]string{"/etc/a", "/usr/lib/b", "/var/c"}); left != 1 || len(w.dirs) != 2 {
		t.Errorf("%d left, %d watched", left, len(w.dirs))
	}
	// A link does not lead out of the root.
	out := t.TempDir()
	must(t, os.Symlink(out, filepath.Join(dir, "out")))
	w.Set([]string{"/out/x"})
	must(t, os.WriteFile(filepath.Join(out, "x"), nil, 0o600))
	if c := wait(t, w, 50*time.Millisecond); len(c.Paths) != 0 {
		t.Errorf("noticed outside the root: %q", c.Paths)
	}
	w.Set([]string{"/var/c"})
	if len(w.dirs) != 1 {
		t.Errorf("%d watched after the list got shorter", len(w.dirs))
	}
	for i := range maxPaths + 10 {
		must(t, os.WriteFile(filepath.Join(dir, "var", fmt.Sprint(i)), nil, 0o600))
	}
	if c := wait(t, w, 5*time.Second); !c.All || len(c.Paths) > maxPaths {
		t.Errorf("a flood is %d paths, all %v", len(c.Paths), c.All)
	}
}

// The kernel drops what does not fit its queue; that is never taken for silence.
func TestOverflowMeansAll(t *testing.T) {
	w, _ := open(t, 4)
	found := map[string]bool{}
	var c Changes
	if !w.event(-1, unix.IN_Q_OVERFLOW, "", found, &c) || !c.All {
		t.Error("an overflow is not everything")
	}
}

func TestWakeAndContext(t *testing.T) {
	w, _ := open(t, 4)
	w.Wake()
	if c := wait(t, w, 5*time.Second); !c.Woken {
		t.Error("not woken")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := w.Wait(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestASourceOfTheCaller(t *testing.T) {
	var p [2]int
	must(t, unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC))
	drained := false
	w, _ := open(t, 4, Source{Path: "nftables", FD: p[0], Drain: func() { drained = true; unix.Read(p[0], make([]byte, 8)) }})
	unix.Write(p[1], []byte("x"))
	if c := wait(t, w, 5*time.Second); !drained || !slices.Equal(c.Paths, []string{"nftables"}) {
		t.Errorf("%v", c)
	}
}
