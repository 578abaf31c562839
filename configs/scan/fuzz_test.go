// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs/probe"
	"github.com/klauspost/compress/zstd"
)

// exercise reads an image as a scan does, within bounds. Errors are fine; time, memory and panics are not.
func exercise(t *testing.T, r *io.SectionReader, limit int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s := &Source{Name: "image"}
	defer func() { s.Close() }()
	if err := s.image(ctx, r, Options{Partition: "1", MaxTemp: 1 << 20}); err != nil {
		s = &Source{Name: "image"}
		if err := s.image(ctx, r, Options{MaxTemp: 1 << 20}); err != nil {
			return
		}
	}
	walkAll(t, s.Tree, 0, &limit)
}

func walkAll(t *testing.T, tr probe.Tree, depth int, left *int) {
	if depth > 20 {
		return
	}
	for name, err := range tr.Names(".") {
		if *left--; *left < 0 || err != nil {
			return
		}
		fi, err := tr.Lstat(name)
		if err != nil {
			continue
		}
		if _, err := tr.(*tree).Attr(name, "security.capability"); err == nil {
			_, _ = tr.(*tree).Attr(name, "user.none")
		}
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			if to, err := tr.ReadLink(name); err == nil && len(to) > maxLink {
				t.Errorf("a link of %d bytes", len(to))
			}
		case fi.Mode().IsRegular():
			f, err := tr.Open(name)
			if err != nil {
				continue
			}
			_, _ = io.Copy(io.Discard, io.LimitReader(f, 1<<18))
			if f, ok := f.(*file); ok {
				var b [100]byte
				_, _ = f.ReadAt(b[:], fi.Size()-50)
				_, _ = f.ReadAt(b[:], fi.Size()/2)
			}
			f.Close()
		case fi.IsDir():
			sub, c, err := tr.(*tree).Sub(name)
			if err == nil {
				walkAll(t, sub, depth+1, left)
				c.Close()
			}
		}
	}
}

func section(b []byte) *io.SectionReader { return newSection(b) }

// seedTree is a small tree with every type of file.
func seedTree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "seed")
	for name, size := range map[string]int{"etc/passwd": 40, "etc/empty": 0, "bin/long": 9000, "bin/longer": 70_000, "a/b/c/d/e": 10} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(strings.Repeat(name, size/len(name)+1)[:size]), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 60 {
		if err := os.WriteFile(filepath.Join(dir, "bin", strings.Repeat("n", i+1)), []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("/etc/passwd", filepath.Join(dir, "link")), os.Symlink(strings.Repeat("x/", 50), filepath.Join(dir, "far"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// seeds makes images of one kind with the real programs, where they are there.
func seeds(t testing.TB, prog string, variants ...string) [][]byte {
	t.Helper()
	path := ""
	for _, p := range []string{prog, "/usr/sbin/" + prog, "/sbin/" + prog} {
		if q, err := exec.LookPath(p); err == nil {
			path = q
		}
	}
	if path == "" {
		return nil
	}
	dir := seedTree(t)
	var out [][]byte
	for _, v := range variants {
		img := filepath.Join(t.TempDir(), "image")
		args := append([]string{dir, img, "-noappend", "-no-progress"}, strings.Fields(v)...)
		if prog != "mksquashfs" {
			args = append(append([]string{"-q", "-F", "-d", dir}, strings.Fields(v)...), img, "600k")
		}
		if msg, err := exec.Command(path, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v %s", prog, v, err, msg)
		}
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

func squashSeeds(t testing.TB) [][]byte {
	return seeds(t, "mksquashfs", "-comp gzip -b 4096", "-comp lzo -b 4096", "-comp lz4 -b 4096", "-comp xz -b 4096 -Xbcj x86", "-comp zstd -b 4096", "-comp lzma -b 4096", "-noI -noD -noF -noX -b 4096")
}

func extSeeds(t testing.TB) [][]byte {
	return seeds(t, "mkfs.ext4", "-t ext2 -b 1024 -N 128", "-t ext4 -b 1024 -N 128 -O ^has_journal,^metadata_csum,^resize_inode", "-t ext4 -b 1024 -N 128 -O ^has_journal,inline_data,^metadata_csum,^resize_inode",
		"-t ext4 -b 1024 -N 128 -O ^has_journal,^resize_inode")
}

func tarSeed(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644, Size: 10},
		{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"}, {Name: "lib/x", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 10},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: "etc/passwd"}, {Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		{Name: "cap", Typeflag: tar.TypeReg, Mode: 0o755, Size: 10, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"}},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			w.Write([]byte("0123456789"))
		}
	}
	w.Close()
	return b.Bytes()
}

func fuzzImages(f *testing.F, images [][]byte) {
	for _, b := range images {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			t.Skip()
		}
		exercise(t, section(b), 2000)
	})
}

func FuzzSquashfs(f *testing.F) { fuzzImages(f, squashSeeds(f)) }

func FuzzExt(f *testing.F) {
	images := extSeeds(f)
	// The sums hide everything behind them from a fuzzer: without the flag the same image is read without them.
	for _, b := range images {
		c := bytes.Clone(b)
		c[extSuperAt+101] &^= 4
		images = append(images, c)
	}
	fuzzImages(f, images)
}

func FuzzArchive(f *testing.F) {
	plain := tarSeed(f)
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	g.Write(plain)
	g.Close()
	zw, _ := zstd.NewWriter(nil)
	cpio := "070701" + strings.Repeat("00000001", 1) + "000081a4" + strings.Repeat("00000000", 2) + "00000001" + "00000000" + "00000004" +
		strings.Repeat("00000000", 4) + "00000006" + "00000000" + "hello\x00" + "text" +
		"070701" + strings.Repeat("00000000", 11) + "0000000b" + "00000000" + "TRAILER!!!\x00\x00\x00\x00"
	fuzzImages(f, [][]byte{plain, z.Bytes(), zw.EncodeAll(plain, nil), []byte(cpio)})
}

func FuzzDisk(f *testing.F) {
	mbr := make([]byte, 4096)
	copy(mbr[446:], "\x80\x00\x00\x00\x83\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x02\x00\x00\x00\x06\x00\x00\x00")
	copy(mbr[510:], "\x55\xaa")
	gpt := make([]byte, 8192)
	copy(gpt[512:], "EFI PART")
	copy(gpt[512+72:], "\x02\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x80\x00\x00\x00")
	copy(gpt[1024:], "type-guid-0123456")
	copy(gpt[1024+32:], "\x04\x00\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00")
	fuzzImages(f, [][]byte{mbr, gpt})
}

// FuzzBlocks gives the codecs blocks; what they make must be within the limit.
func FuzzBlocks(f *testing.F) {
	f.Add(uint8(5), []byte("\x54hello\x05\x00\x50world"))
	f.Add(uint8(3), []byte("\x16hello\x2c\x10\x00\x11\x00\x00"))
	f.Add(uint8(1), []byte("\x78\x9c\x03\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, id uint8, b []byte) {
		c, err := codecOf(uint16(id%6) + 1)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			// Other people's decoders may panic; volumes recover. Ours must not.
			if r := recover(); r != nil && (c.name == "lz4" || c.name == "lzo") {
				panic(r)
			}
		}()
		out, err := c.unpack(b, 4096)
		if len(out) > 4096 {
			t.Errorf("%s: %d bytes", c.name, len(out))
		}
		_ = err
	})
}

// FuzzOwners reads owner tables.
func FuzzOwners(f *testing.F) {
	f.Add("/dev/tty c 660 0 5 4 0 0 1 4\n/etc/shadow f 600 0 0 - - - - -\n/var r 755 0 0\n")
	f.Add("dev=fd00,ino=12,mode=100644,uid=0,gid=0,nlink=1,rdev=0\n")
	f.Fuzz(func(t *testing.T, text string) {
		o := &owners{}
		_ = o.load(write(t, text))
		if len(o.paths) > maxOwners+maxOwnerRange {
			t.Errorf("%d owners", len(o.paths))
		}
	})
}

func write(t testing.TB, text string) string {
	name := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestDamagedImagesEndInErrors cuts images at many places and turns bits of every structure.
func TestDamagedImagesEndInErrors(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	tried := 0
	for _, images := range [][][]byte{squashSeeds(t), extSeeds(t), {tarSeed(t)}} {
		for _, b := range images {
			tried += damage(t, b)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if after.HeapAlloc > before.HeapAlloc+64<<20 {
		t.Errorf("%d bytes are held after %d damaged images", after.HeapAlloc-before.HeapAlloc, tried)
	}
	t.Logf("%d damaged images, peak of the heap %d MiB", tried, after.HeapSys>>20)
}

func damage(t *testing.T, b []byte) (tried int) {
	t.Helper()
	for i := range 12 {
		exercise(t, section(b[:len(b)*i/12]), 500)
		tried++
	}
	step := max(1, len(b)/50)
	for at := 0; at < len(b); {
		c := bytes.Clone(b)
		c[at] ^= 1 << (at % 8)
		exercise(t, section(c), 500)
		c[at] = 0xff
		exercise(t, section(c), 500)
		tried += 2
		switch {
		case at < 96 || at >= 1024 && at < 1400: // every byte of a super block
			at++
		default:
			at += step
		}
	}
	return tried
}
