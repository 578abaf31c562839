// SPDX-License-Identifier: Apache-2.0

package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/testdata/testneed"
)

func sumOf(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func TestFilesAreWatched(t *testing.T) {
	testneed.Native(t)
	root := tree(t, map[string]string{"etc/one": "1", "etc/init.d/a": "a", "etc/other": "x", "data/real": "r", "etc/gone": "g"})
	if err := os.Symlink("../data/real", filepath.Join(root, "etc/link")); err != nil {
		t.Fatal(err)
	}
	env := testEnv(t, root)
	env.Files = []string{"/etc/one", "/etc/init.d", "/etc/gone", "/etc/new/deep/file", "/etc/link"}
	path := func(name string) string { return filepath.Join(root, name) }
	w := observe(t, fileKind(), env)
	time.Sleep(200 * time.Millisecond)

	// A new file in the place of the old one is one change.
	write(t, path("etc/one.tmp"), "2")
	if err := os.Rename(path("etc/one.tmp"), path("etc/one")); err != nil {
		t.Fatal(err)
	}
	e := w.eventually(t, "file.changed", is("path", "/etc/one"))
	if e.Before != sumOf("1") || e.After != sumOf("2") || attr(t, e, "size") != "1" {
		t.Errorf("%+v", e)
	}
	if err := unix.Chmod(path("etc/one"), 0o4755); err != nil {
		t.Fatal(err)
	}
	e = w.eventually(t, "file.attributes", is("path", "/etc/one"))
	if attr(t, e, "mode") != "-4755" || attr(t, e, "mode_before") != "-0644" || os.Getuid() == 0 && e.Severity.String() != "high" {
		t.Errorf("%+v", e)
	}
	write(t, path("etc/init.d/b"), "b")
	if e = w.eventually(t, "file.created", is("path", "/etc/init.d/b")); e.After != sumOf("b") {
		t.Errorf("%+v", e)
	}
	if err := os.Remove(path("etc/gone")); err != nil {
		t.Fatal(err)
	}
	if e = w.eventually(t, "file.removed", is("path", "/etc/gone")); e.Before != sumOf("g") {
		t.Errorf("%+v", e)
	}
	// Below directories that are not there yet.
	write(t, path("etc/new/deep/file"), "deep")
	w.eventually(t, "file.created", is("path", "/etc/new/deep/file"))
	write(t, path("etc/new/deep/file"), "deeper")
	w.eventually(t, "file.changed", is("path", "/etc/new/deep/file"))
	// What a link leads to.
	write(t, path("data/real"), "s")
	if e = w.eventually(t, "file.changed", is("path", "/etc/link")); e.Before != sumOf("r") || e.After != sumOf("s") {
		t.Errorf("%+v", e)
	}
	write(t, path("etc/other"), "y")
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(w.list); n != 7 {
		t.Errorf("%d events, want 7: %+v", n, w.list)
	}
}

func TestFilesThatChangedWhileDown(t *testing.T) {
	testneed.Native(t)
	root := tree(t, map[string]string{"etc/a": "1", "etc/b": "2", "etc/d/x": "3", "etc/d/y": "4"})
	env := testEnv(t, root)
	env.Files = []string{"/etc/a", "/etc/b", "/etc/d", "/etc/later"}
	round := func() []string {
		t.Helper()
		w := observe(t, fileKind(), env)
		time.Sleep(200 * time.Millisecond)
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range w.list {
			got = append(got, e.Code+" "+attr(t, e, "path")+" "+attr(t, e, "while_down"))
		}
		slices.Sort(got)
		return got
	}
	if got := round(); got != nil {
		t.Errorf("first start: %q", got)
	}
	write(t, filepath.Join(root, "etc/a"), "other")
	write(t, filepath.Join(root, "etc/later"), "new")
	if err := os.Remove(filepath.Join(root, "etc/d/x")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "etc/d/y"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"file.attributes /etc/d/y true", "file.changed /etc/a true", "file.created /etc/later true", "file.removed /etc/d/x true"}
	if got := round(); !slices.Equal(got, want) {
		t.Errorf("second start: %q, want %q", got, want)
	}
	if got := round(); got != nil {
		t.Errorf("third start: %q", got)
	}
	// Another list is no event, but a change of what stays watched is.
	env.Files = []string{"/etc/a", "/etc/passwd", "/etc/d"}
	write(t, filepath.Join(root, "etc/passwd"), "p")
	write(t, filepath.Join(root, "etc/a"), "third")
	if got := round(); !slices.Equal(got, []string{"file.changed /etc/a true"}) {
		t.Errorf("another list: %q", got)
	}
}

// fanotify knows who, inotify knows what.
func TestWhoChangedAFile(t *testing.T) {
	testneed.Native(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "watched")
	write(t, name, "1")
	env := testEnv(t, "/")
	env.Files = []string{name}
	x := observe(t, execKind(), env)
	w := observe(t, fileKind(), env)
	time.Sleep(200 * time.Millisecond)
	cmd := exec.Command("/bin/sh", "-c", "echo 2 >"+name+".new && mv "+name+".new "+name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.eventually(t, "file.changed", is("path", name))
	cmd = exec.Command("/bin/sh", "-c", "echo 3 >"+name+"; sleep 0.5; true")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	e := w.eventually(t, "file.changed", func(e logging.Event) bool { return e.After == sumOf("3\n") })
	if attr(t, e, "pid") != strconv.Itoa(cmd.Process.Pid) || attr(t, e, "uid") != strconv.Itoa(os.Getuid()) {
		t.Errorf("%+v, want process %d", e, cmd.Process.Pid)
	}
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	if e, ok := x.find("file.changed", is("path", name)); ok {
		t.Errorf("a second record of the change: %+v", e)
	}
}

func TestFileState(t *testing.T) {
	s := fileState{list: [8]byte{1, 2}, all: map[string]look{
		"/etc/a":  {mode: unix.S_IFREG | 0o4755, uid: 1, gid: 1 << 31, size: 1 << 40, sum: [32]byte{7}, part: true},
		"/etc/ab": {mode: unix.S_IFDIR | 0o755},
		"/b":      {mode: unix.S_IFLNK | 0o777, size: 3, sum: [32]byte{9}},
	}}
	b, kept := encodeFiles(s)
	got, err := decodeFiles(b)
	if err != nil || kept != 3 || !reflect.DeepEqual(got, s) || !got.knows("/z") {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range len(b) - 1 {
		if got, err := decodeFiles(b[:i]); err == nil && len(got.all) == 3 {
			t.Errorf("%d of %d bytes are whole", i, len(b))
		}
	}
	many := fileState{all: make(map[string]look)}
	for i := range maxLooks {
		many.all[fmt.Sprintf("/etc/some.directory/%04d-file", i)] = look{mode: unix.S_IFREG | 0o644, size: 1000, sum: sha256.Sum256([]byte{byte(i), byte(i >> 8)})}
	}
	b, kept = encodeFiles(many)
	got, err = decodeFiles(b)
	t.Logf("%d files in %d bytes", kept, len(b))
	if err != nil || len(b) > MaxState || len(got.all) != kept || kept < 250 {
		t.Errorf("%d bytes, %d of %d kept, %v", len(b), len(got.all), kept, err)
	}
	names := slices.Sorted(maps.Keys(many.all))
	if !got.knows(names[kept-1]) || got.knows(names[kept]) {
		t.Error("the state does not know where it ends")
	}
}

func FuzzFileState(f *testing.F) {
	b, _ := encodeFiles(fileState{all: map[string]look{"/etc/a": {mode: 0o644, size: 5}, "/etc/b": {}}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeFiles(b)
		if err != nil {
			return
		}
		for n, l := range s.all {
			if len(n) > unix.PathMax {
				t.Errorf("name of %d bytes: %+v", len(n), l)
			}
		}
	})
}

func TestTooManyFiles(t *testing.T) {
	testneed.Native(t)
	root := t.TempDir()
	for i := range maxLooks + 100 {
		write(t, filepath.Join(root, "etc/d", fmt.Sprint(i)), "x")
	}
	env := testEnv(t, root)
	env.Files = []string{"/etc/d"}
	w := observe(t, fileKind(), env)
	time.Sleep(500 * time.Millisecond)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if w.sink.loss.times == 0 || len(w.list) != 0 {
		t.Errorf("loss %+v, events %d", w.sink.loss.reason, len(w.list))
	}
}

func TestDefaultFiles(t *testing.T) {
	list := DefaultFiles()
	for _, name := range list {
		if !filepath.IsAbs(name) || filepath.Clean(name) != name {
			t.Error(name)
		}
	}
	if len(slices.Compact(slices.Sorted(slices.Values(list)))) != len(list) {
		t.Error("a name is there twice")
	}
	w := watchList{"/etc/passwd", "/etc/init.d"}
	for path, want := range map[string]bool{"/etc/passwd": true, "/etc/init.d": true, "/etc/init.d/x": true, "/etc/init.d/x/y": false,
		"/etc/passwd2": false, "/etc/shadow": false, "": false, "passwd": false} {
		if w.has(path) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
	if got := modeText(unix.S_IFREG | 0o644); got != "-0644" || !strings.HasPrefix(modeText(unix.S_IFDIR|unix.S_ISVTX|0o777), "d1777") {
		t.Error(got)
	}
}
