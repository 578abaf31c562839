// SPDX-License-Identifier: Apache-2.0

package scan_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/probe"
	"github.com/backstay/backstay/configs/scan"
)

type tarFile struct {
	tar.Header
	text string
}

func tarOf(t testing.TB, files ...tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if f.Size == 0 {
			f.Size = int64(len(f.text))
		}
		if f.Mode == 0 {
			f.Mode = 0o644
		}
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, f.text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func reg(name, text string) tarFile {
	return tarFile{tar.Header{Name: name, Typeflag: tar.TypeReg}, text}
}

func link(name, to string) tarFile {
	return tarFile{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
}

func readAll(t testing.TB, tr probe.Tree, name string) string {
	t.Helper()
	f, err := tr.Open(name)
	if err != nil {
		return "error: " + err.Error()
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(data)
}

// TestArchivesCannotLeaveTheTree unpacks in memory as tar would inside of a chroot.
func TestArchivesCannotLeaveTheTree(t *testing.T) {
	s := open(t, write(t, "image", tarOf(t,
		reg("../../etc/up", "up"), reg("/abs", "abs"), link("out", "../../../../x"), reg("out/in", "below"), link("lib", "usr/lib"), reg("lib/so", "so"),
		reg("twice", "first"), reg("twice", "second"), link("etc2", "/etc"), reg("etc2/passwd", "p"),
		tarFile{tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "twice"}, ""}, tarFile{tar.Header{Name: "gone", Typeflag: tar.TypeLink, Linkname: "../../etc/hostname"}, ""},
	)), scan.Options{})
	for name, want := range map[string]string{"etc/up": "up", "abs": "abs", "x/in": "below", "usr/lib/so": "so", "twice": "second", "etc/passwd": "p", "hard": "second"} {
		if got := readAll(t, s.Tree, name); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	if len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "gone") {
		t.Errorf("notes %q", s.Notes)
	}
	for _, bad := range []string{"../x", "/abs", "a/../abs", "abs/x", "out/in", ""} {
		if got := readAll(t, s.Tree, bad); !strings.HasPrefix(got, "error") {
			t.Errorf("%q can be opened: %q", bad, got)
		}
	}
	loop := tarOf(t, link("a", "b"), link("b", "a"), reg("a/x", "x"))
	if _, err := scan.Open(context.Background(), write(t, "loop", loop), nil, scan.Options{}); !errors.Is(err, probe.ErrLoop) {
		t.Errorf("a loop of links: %v", err)
	}
}

// TestACutImageIsNoSmallerImage: what is missing may be what is wrong.
func TestACutImageIsNoSmallerImage(t *testing.T) {
	plain := tarOf(t, reg("etc/passwd", "root:x:0:0::/:\n"), reg("etc/shadow", "root::0:0:99999:7:::\n"))
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	g.Write(plain)
	g.Close()
	flipped := bytes.Clone(z.Bytes())
	flipped[len(flipped)-6] ^= 1 // the sum at the end
	dir, _ := planted(t)
	images := map[string][]byte{"gzip": z.Bytes()[:z.Len()-9], "gzip with a wrong sum": flipped}
	for n := 512; n < len(plain)-512; n += 512 {
		images[fmt.Sprintf("tar at %d", n)] = plain[:n]
	}
	for name, img := range map[string]string{"squashfs": squash(t, dir), "ext4": mkext(t, dir, "ext4", "24M")} {
		data, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		images[name] = data[:len(data)/2]
		images[name+" by a little"] = data[:len(data)-8192]
	}
	for name, data := range images {
		if s, err := scan.Open(context.Background(), write(t, "image", data), nil, scan.Options{}); err == nil {
			s.Close()
			t.Errorf("%s is scanned as if it were whole", name)
		}
	}
}

// TestBombsEndInErrors gives archives that would fill memory or disk.
func TestBombsEndInErrors(t *testing.T) {
	zeros := func(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }
	bomb := filepath.Join(t.TempDir(), "bomb")
	f, err := os.Create(bomb)
	if err != nil {
		t.Fatal(err)
	}
	g, _ := gzip.NewWriterLevel(f, gzip.BestSpeed)
	w := tar.NewWriter(g)
	const size = 100 << 20
	for i := range 2 {
		w.WriteHeader(&tar.Header{Name: fmt.Sprint("big", i), Typeflag: tar.TypeReg, Mode: 0o644, Size: size})
		io.Copy(w, zeros(size))
	}
	w.Close()
	g.Close()
	f.Close()
	var m runtime.MemStats
	if _, err := scan.Open(context.Background(), bomb, nil, scan.Options{MaxTemp: 80 << 20}); !errors.Is(err, probe.ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	s := open(t, bomb, scan.Options{TempDir: t.TempDir()})
	if got := readAll(t, s.Tree, "big1"); !strings.Contains(got, "only the first") {
		t.Errorf("a file of which only the head is kept reads as %.80q", got)
	}
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 200<<20 {
		t.Errorf("%d bytes of memory", m.HeapAlloc)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	if _, err := scan.Open(ctx, bomb, nil, scan.Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the time: %v", err)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestDirectoryLoopOfExt makes a directory its own child: a walk must end.
func TestDirectoryLoopOfExt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.MkdirAll(filepath.Join(dir, "etc/loop"), 0o755); err != nil {
		t.Fatal(err)
	}
	img, err := os.ReadFile(mkext(t, dir, "ext2", "1M", "-b", "1024", "-O", "^metadata_csum"))
	if err != nil {
		t.Fatal(err)
	}
	// The entry "loop" in etc gets the number of etc, which is in its entry in the top.
	entry := func(name string) int {
		i := bytes.Index(img, append([]byte{byte(len(name)), 2}, name...))
		if i < 6 {
			t.Fatalf("no entry %s", name)
		}
		return i - 6
	}
	copy(img[entry("loop"):], img[entry("etc"):entry("etc")+4])
	p := policy(t, "base")
	r := scanned(t, write(t, "image", img), p, scan.Options{})
	found := false
	for _, f := range r.Report.Findings {
		if f.Rule == "file.setuid" {
			found = f.Result == configs.Unknown && strings.Contains(f.Reason, "deeper than")
		}
	}
	if !found {
		t.Errorf("a tree without end is judged: %+v", r.Report.Counts)
	}
}

// TestHugeSizesEndInErrors writes sizes into an ext2 and a squashfs that no image has.
func TestHugeSizesEndInErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "etc"), 0o755), os.WriteFile(filepath.Join(dir, "etc/passwd"), bytes.Repeat([]byte("x"), 1000), 0o644)); err != nil {
		t.Fatal(err)
	}
	img, err := os.ReadFile(squash(t, dir, "-noI", "-noD", "-no-fragments"))
	if err != nil {
		t.Fatal(err)
	}
	// The inode of passwd is stored: ..., no fragment, offset 0, size 1000.
	i := bytes.Index(img, append([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, 0xe8, 3, 0, 0))
	if i < 0 {
		t.Fatal("the inode is elsewhere")
	}
	binary.LittleEndian.PutUint32(img[i+8:], 0xfffffff0)
	s := open(t, write(t, "image", img), scan.Options{})
	if got := readAll(t, s.Tree, "etc/passwd"); !strings.HasPrefix(got, "error") {
		t.Errorf("4 GiB of %.20q", got)
	}
	r := scanned(t, write(t, "image", img), policy(t, "base"), scan.Options{})
	for _, f := range r.Report.Findings {
		if strings.HasPrefix(f.Rule, "account.single-root") && f.Result == configs.Pass {
			t.Error("a file that cannot be read passes")
		}
	}
}

func TestOwnersOfADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	for _, name := range []string{"etc/shadow", "home/u/f", "dev/console", "bin/su", "srv/a"} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 { // as an ordinary user would have it
		for _, p := range []string{dir, filepath.Join(dir, "etc/shadow"), filepath.Join(dir, "srv/a")} {
			if err := os.Chown(p, 1234, 1234); err != nil {
				t.Fatal(err)
			}
		}
	}
	stat := func(s *scan.Source, name string) string {
		fi, err := s.Tree.Lstat(name)
		if err != nil {
			return err.Error()
		}
		st := fi.Sys().(*syscall.Stat_t)
		return fmt.Sprintf("%v %d:%d", fi.Mode(), st.Uid, st.Gid)
	}
	s := open(t, dir, scan.Options{})
	if os.Geteuid() == 0 && (len(s.Notes) != 1 || stat(s, "etc/shadow") != "-rw-r--r-- 1234:1234") {
		t.Errorf("without a word: %q %s", s.Notes, stat(s, "etc/shadow"))
	}
	s = open(t, dir, scan.Options{AssumeRoot: true})
	if got := stat(s, "etc/shadow"); got != "-rw-r--r-- 0:0" || len(s.Notes) > 0 {
		t.Errorf("--assume-root: %s %q", got, s.Notes)
	}
	table := write(t, "table", []byte("# name type mode uid gid major minor start inc count\n/etc/shadow f 600 0 42 - - - - -\n/home/u r - 1000 1000 - - - - -\n"+
		"/dev/console c 622 0 0 5 1 0 0 -\n/bin/su f 4755 0 0 - - - - -\n|xattr cap_net_raw+ep\n/srv/a f 640 7 8 - - - - -\n"))
	s = open(t, dir, scan.Options{AssumeRoot: true, Owners: table})
	for name, want := range map[string]string{"etc/shadow": "-rw------- 0:42", "home/u/f": "-rw-r--r-- 1000:1000", "dev/console": "Dcrw--w--w- 0:0",
		"bin/su": "urwxr-xr-x 0:0", "srv/a": "-rw-r----- 7:8"} {
		if got := stat(s, name); got != want {
			t.Errorf("device table: %s is %s, want %s", name, got, want)
		}
	}
	fi, err := os.Lstat(filepath.Join(dir, "bin/su"))
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	saved := write(t, "saved", fmt.Appendf(nil, "dev=%x,ino=%d,mode=104755,uid=0,gid=5,nlink=1,rdev=0\n", uint64(st.Dev), uint64(st.Ino)))
	s = open(t, dir, scan.Options{Owners: saved})
	if got := stat(s, "bin/su"); got != "urwxr-xr-x 0:5" {
		t.Errorf("fakeroot: su is %s", got)
	}
	for _, bad := range []string{"/x q 1 2 3\n", "/x\n", "/x f 9 0 0\n", "/x c 600 0 0 1 1 0 1 999999999\n", "dev=zz,ino=1\n", "dev=1\n,,,\n"} {
		if _, err := scan.Open(context.Background(), dir, nil, scan.Options{Owners: write(t, "bad", []byte(bad))}); err == nil {
			t.Errorf("table %q is taken", bad)
		}
	}
}
