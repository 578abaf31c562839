// SPDX-License-Identifier: Apache-2.0

package component_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/component"
)

var _ update.Components = (*component.Set)(nil)

func open(t *testing.T, c ...component.Config) *component.Set {
	t.Helper()
	s, err := component.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func release(name, version string, b []byte) update.Component {
	return update.Component{Name: name, Version: version, Length: int64(len(b)), SHA256: sha256.Sum256(b)}
}

func put(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); (err != nil) != (want == "") || string(got) != want {
		t.Errorf("%s holds %q, want %q: %v", filepath.Base(path), got, want, err)
	}
}

func refused(t *testing.T, err error, code string) {
	t.Helper()
	var no *update.Refusal
	if !errors.As(err, &no) || no.Code != code {
		t.Errorf("error is %v, want the refusal %s", err, code)
	}
}

// cycle takes a component from one version to the next, back, and on again, every step twice as after a cut.
func cycle(t *testing.T, s *component.Set, c update.Component, b []byte, look func(fresh bool)) {
	t.Helper()
	twice := func(what string, f func() error) {
		t.Helper()
		for range 2 {
			if err := f(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	runs := func(want bool) {
		t.Helper()
		if got, err := s.Runs(t.Context(), c); got != want || err != nil {
			t.Fatalf("runs the new version: %v, %v", got, err)
		}
		look(want)
	}
	runs(false)
	twice("rollback of nothing", func() error { return s.Rollback(t.Context(), c) })
	runs(false)
	for range 2 {
		twice("install", func() error { return s.Install(t.Context(), c, bytes.NewReader(b)) })
		runs(false)
		twice("activate", func() error { return s.Activate(t.Context(), c) })
		runs(true)
		twice("rollback", func() error { return s.Rollback(t.Context(), c) })
		runs(false)
	}
	twice("install", func() error { return s.Install(t.Context(), c, bytes.NewReader(b)) })
	twice("activate", func() error { return s.Activate(t.Context(), c) })
	runs(true)
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app")
	put(t, path, "old", 0o755)
	s := open(t, component.Config{Name: "app", Kind: component.File, Path: path})
	cycle(t, s, release("app", "2", []byte("new")), []byte("new"), func(fresh bool) { is(t, path, map[bool]string{true: "new", false: "old"}[fresh]) })
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("the mode is %v, %v", st.Mode(), err)
	}
	t.Run("first one", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "app")
		s := open(t, component.Config{Name: "app", Kind: component.File, Path: path})
		cycle(t, s, release("app", "2", []byte("new")), []byte("new"), func(fresh bool) { is(t, path, map[bool]string{true: "new"}[fresh]) })
	})
	c := release("app", "3", []byte("signed"))
	refused(t, s.Install(t.Context(), c, strings.NewReader("forged")), update.CodeBadHash)
	refused(t, s.Install(t.Context(), c, strings.NewReader("signed and more")), update.CodeWrongLength)
	if err := s.Install(t.Context(), c, strings.NewReader("sig")); !errors.Is(err, update.ErrRetry) {
		t.Errorf("short: %v", err)
	}
	if err := s.Install(t.Context(), c, iotest.ErrReader(update.ErrRetry)); !errors.Is(err, update.ErrRetry) {
		t.Errorf("broken: %v", err)
	}
	if err := s.Activate(t.Context(), c); err == nil {
		t.Error("what was never installed was activated")
	}
	is(t, path, "new")
	_, err := s.Runs(t.Context(), release("other", "1", nil))
	refused(t, err, update.CodeNoComponent)
}

// TestSwapSlowly cuts between the steps of a switch on a file system that cannot exchange two names.
func TestSwapSlowly(t *testing.T) {
	c := release("app", "2", []byte("new"))
	for name, have := range map[string]map[string]string{
		"before":           {"app": "old", "app.new": "new"},
		"after the first":  {"app.old": "old", "app.new": "new"},
		"after the second": {"app": "new", "app.old": "old"},
		"after the third":  {"app": "new", "app.new": "old"},
		"with a rest":      {"app": "old", "app.new": "new", "app.old": "older"},
	} {
		dir := t.TempDir()
		for f, text := range have {
			put(t, filepath.Join(dir, f), text, 0o644)
		}
		path := filepath.Join(dir, "app")
		s := open(t, component.Config{Name: "app", Kind: component.File, Path: path})
		if err := s.Activate(t.Context(), c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		is(t, path, "new")
		if err := s.Rollback(t.Context(), c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		is(t, path, "old")
		is(t, filepath.Join(dir, "app.old"), "")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "app")
	put(t, path, "old", 0o644)
	put(t, path+".new", "new", 0o644)
	if err := component.SwapSlowly(path); err != nil {
		t.Fatal(err)
	}
	is(t, path, "new")
	is(t, path+".new", "old")
}

// archive makes a tar.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		body := []byte(nil)
		if h.Typeflag == tar.TypeReg || h.Typeflag == 0 {
			body = []byte("content of " + h.Name)
			h.Size, h.Typeflag = int64(len(body)), tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.Uid, h.Gid = os.Geteuid(), os.Getegid()
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app")
	put(t, filepath.Join(path, "bin/app"), "old", 0o755)
	s := open(t, component.Config{Name: "app", Kind: component.Tree, Path: path})
	b := archive(t, tar.Header{Name: "./", Typeflag: tar.TypeDir}, tar.Header{Name: "bin", Typeflag: tar.TypeDir}, tar.Header{Name: "bin/app", Mode: 0o750},
		tar.Header{Name: "bin/link", Typeflag: tar.TypeSymlink, Linkname: "../etc/conf"}, tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "etc/conf", Mode: 0o600}, tar.Header{Name: "bin/again", Typeflag: tar.TypeLink, Linkname: "bin/app"})
	cycle(t, s, release("app", "2", b), b, func(fresh bool) {
		is(t, filepath.Join(path, "bin/app"), map[bool]string{true: "content of bin/app", false: "old"}[fresh])
		is(t, filepath.Join(path, "bin/link"), map[bool]string{true: "content of etc/conf"}[fresh])
		is(t, filepath.Join(path, "bin/again"), map[bool]string{true: "content of bin/app"}[fresh])
	})
	for name, want := range map[string]os.FileMode{"bin/app": 0o750, "etc": 0o700 | os.ModeDir, "etc/conf": 0o600} {
		if st, err := os.Stat(filepath.Join(path, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	is(t, path+".tar", "")
	next := archive(t, tar.Header{Name: "x"})
	refused(t, s.Install(t.Context(), release("app", "3", next), bytes.NewReader(archive(t, tar.Header{Name: "y"}))), update.CodeBadHash)
	if _, err := os.Stat(filepath.Join(path+".new", "y")); err == nil {
		t.Error("an archive was unpacked before its digest was known")
	}
}

func TestUnpackRefuses(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	put(t, filepath.Join(outside, "secret"), "secret", 0o600)
	for name, entries := range map[string][]tar.Header{
		"absolute":      {{Name: "/etc/passwd"}},
		"up":            {{Name: "../outside/secret"}},
		"up in between": {{Name: "a", Typeflag: tar.TypeDir}, {Name: "a/../../outside/secret"}},
		"link out":      {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}},
		"absolute link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}},
		"hard link":     {{Name: "l", Typeflag: tar.TypeLink, Linkname: "../outside/secret"}},
		"device":        {{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}},
		"character":     {{Name: "null", Typeflag: tar.TypeChar}},
		"fifo":          {{Name: "f", Typeflag: tar.TypeFifo}},
		"set-user-id":   {{Name: "su", Mode: 0o4755}},
		"attribute":     {{Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "x"}}},
		"the mark":      {{Name: ".backstay-component"}},
		"no directory":  {{Name: "a/b"}},
		"twice":         {{Name: "a"}, {Name: "a"}},
		"through a link": {{Name: "d", Typeflag: tar.TypeDir}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d"}, {Name: "l", Typeflag: tar.TypeSymlink, Linkname: "."},
			{Name: "l/x"}},
		"long": {{Name: strings.Repeat("a/", 600) + "b"}},
	} {
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		b := archive(t, entries...)
		if err := component.Unpack(t.Context(), root, bytes.NewReader(b), int64(len(b))); err == nil {
			t.Errorf("%s: was unpacked", name)
		}
		root.Close()
	}
	is(t, filepath.Join(outside, "secret"), "secret")
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	refused(t, component.Unpack(t.Context(), root, strings.NewReader(strings.Repeat("no archive", 100)), 1000), "bad-archive")
	refused(t, component.Unpack(t.Context(), root, bytes.NewReader(archive(t, tar.Header{Name: "file"})), 10), "bad-archive")
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string][]component.Config{
		"no name":       {{Kind: component.File, Path: "/x"}},
		"twice":         {{Name: "a", Kind: component.File, Path: "/nonexistent/x"}, {Name: "a", Kind: component.File, Path: "/nonexistent/y"}},
		"kind":          {{Name: "a", Kind: "blob", Path: "/x"}},
		"relative":      {{Name: "a", Kind: component.File, Path: "x"}},
		"root":          {{Name: "a", Kind: component.Tree, Path: "/"}},
		"no program":    {{Name: "a", Kind: component.Handler}},
		"relative prog": {{Name: "a", Kind: component.Handler, Argv: []string{"sh"}}},
	} {
		if _, err := component.Open(c); !errors.Is(err, update.ErrSetup) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// script is a handler made of shell, in which $1 is the operation.
func script(t *testing.T, text string) *component.Set {
	t.Helper()
	return open(t, component.Config{Name: "mcu", Kind: component.Handler, Argv: []string{"/bin/sh", "-c", text, "handler"}, Timeout: 3 * time.Second})
}

// TestExample runs the handler that ships as an example.
func TestExample(t *testing.T) {
	program, err := filepath.Abs("../../configs/examples/component-handler.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "component") // syncing to memory is free
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	put(t, filepath.Join(dir, "mcu.running"), "1.0\n", 0o644)
	put(t, filepath.Join(dir, "mcu.image-1.0"), "old", 0o644)
	put(t, filepath.Join(dir, "mcu.flash"), "old", 0o644)
	s := open(t, component.Config{Name: "mcu", Kind: component.Handler, Argv: []string{program, dir}})
	b := bytes.Repeat([]byte("new"), 100_000)
	cycle(t, s, release("mcu", "2.0", b), b, func(fresh bool) {
		is(t, filepath.Join(dir, "mcu.flash"), map[bool]string{true: string(b), false: "old"}[fresh])
	})
	b = []byte("newer")
	cycle(t, s, release("mcu", "3.0", b), b, func(bool) {})
	is(t, filepath.Join(dir, "mcu.flash"), "newer")
}

func TestHandler(t *testing.T) {
	b := []byte("image")
	c := release("mcu", "2.0", b)
	install := func(text string) error {
		return script(t, text).Install(t.Context(), c, bytes.NewReader(b))
	}
	good := fmt.Sprintf(`cat >/dev/null; echo noise; echo sha256=%x`, c.SHA256)
	if err := install(good); err != nil {
		t.Error(err)
	}
	refused(t, install(`cat >/dev/null; echo sha256=`+strings.Repeat("0", 64)), update.CodeBadHash)
	refused(t, install(`echo no such chip >&2; exit 5`), "component-refused")
	if err := install(`exit 7`); !errors.Is(err, update.ErrRetry) {
		t.Errorf("later: %v", err)
	}
	if err := install(`cat >/dev/null`); err == nil || !strings.Contains(err.Error(), "does not say sha256") {
		t.Errorf("no digest: %v", err)
	}
	if err := install(`echo first >&2; printf '%3000d' 1 >&2; echo the last words >&2; exit 1`); err == nil || !strings.Contains(err.Error(), "the last words") ||
		strings.Contains(err.Error(), "first") {
		t.Errorf("what it says: %v", err)
	}
	if err := install(`while :; do echo x; done | head -c 100000; cat >/dev/null`); err == nil {
		t.Error("an answer without end")
	}
	if err := script(t, good).Install(t.Context(), c, strings.NewReader("ima")); !errors.Is(err, update.ErrRetry) {
		t.Errorf("a stream that ends early: %v", err)
	}
	if err := script(t, `[ "$1" != install ] || [ "$(cat)" = image ] || exit 9; `+good).Install(t.Context(), c, io.MultiReader(bytes.NewReader(b), strings.NewReader("more"))); err != nil {
		t.Errorf("more than is signed reached the program: %v", err)
	}
	start := time.Now()
	slow := open(t, component.Config{Name: "mcu", Kind: component.Handler, Argv: []string{"/bin/sh", "-c", "exec sleep 60", "h"}, Timeout: 200 * time.Millisecond})
	if err := slow.Activate(t.Context(), c); err == nil || !strings.Contains(err.Error(), "longer than") || time.Since(start) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
	if err := script(t, `echo version=1.0`).Activate(t.Context(), c); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("an activate without effect: %v", err)
	}
	env := `[ "$BACKSTAY_PROTOCOL $BACKSTAY_COMPONENT $BACKSTAY_VERSION $BACKSTAY_LENGTH $1" = "1 mcu 2.0 5 version" ] && [ -z "$HOME$BACKSTAY_TOKEN" ] && echo version=2.0`
	t.Setenv("BACKSTAY_TOKEN", "secret")
	if runs, err := script(t, env).Runs(t.Context(), c); !runs || err != nil {
		t.Errorf("what a program is told: %v, %v", runs, err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("version=1.2.3\nsha256=" + strings.Repeat("ab", 32) + "\nprogress=10\n"))
	f.Add([]byte("version=1\nversion=2"))
	f.Add([]byte("sha256=zz"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := component.ParseAnswer(b)
		if err != nil {
			return
		}
		if len(a.Version) > 256 || strings.ContainsAny(a.Version, "\n\x00") || (!a.Digest && a.SHA256 != [32]byte{}) {
			t.Fatalf("%+v", a)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, tar.Header{Name: "a", Typeflag: tar.TypeDir}, tar.Header{Name: "a/b"}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a/b"}))
	f.Add(archive(f, tar.Header{Name: "../x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		inner := filepath.Join(dir, "inner")
		if err := os.Mkdir(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(inner)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_ = component.Unpack(t.Context(), root, bytes.NewReader(b), int64(len(b)))
		list, err := os.ReadDir(dir)
		if err != nil || len(list) != 1 {
			t.Fatalf("outside: %v, %v", list, err)
		}
	})
}
