// SPDX-License-Identifier: Apache-2.0

package scan_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/backstay/backstay/configs/probe"
	"github.com/backstay/backstay/configs/scan"
	"github.com/backstay/backstay/testdata/testneed"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// run runs a program of the build machine.
func run(t testing.TB, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes()
}

// furnish adds what is hard to read: a directory of many names, long names, files of every size around a block, holes, a
// file in more than one piece, hard links, nodes, long and short links, attributes.
func furnish(t testing.TB, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, "opt", name) }
	must(os.MkdirAll(at("many"), 0o755))
	for i := range 600 {
		must(os.WriteFile(at(fmt.Sprintf("many/file-%04d-%s", i, strings.Repeat("n", i%60))), []byte(strings.Repeat("x", i%200)), 0o644))
	}
	must(os.WriteFile(at(strings.Repeat("l", 255)), []byte("long name"), 0o600))
	text := []byte(strings.Repeat("all work and no play makes jack a dull boy\n", 9000))
	for _, n := range []int{0, 1, 59, 60, 61, 100, 159, 160, 161, 1023, 1024, 1025, 4095, 4096, 4097, 131071, 131072, 131073, 300000} {
		must(os.WriteFile(at(fmt.Sprintf("size-%d", n)), text[:n], 0o644))
	}
	noise := make([]byte, 200_000)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	must(os.WriteFile(at("noise"), noise, 0o644))
	f, err := os.Create(at("holes"))
	must(err)
	for i := range 30 {
		_, err := f.WriteAt(noise[:5000], int64(i)*150_000)
		must(err)
	}
	_, err = f.WriteAt([]byte("end"), 5<<20) // mke2fs forgets a hole at the end of a file when inline_data is on
	must(err)
	must(f.Close())
	must(os.Link(at("noise"), at("noise-again")))
	must(os.Symlink("short", at("link-short")))
	must(os.Symlink(strings.Repeat("d/", 60)+"end", at("link-long")))
	must(syscall.Mkfifo(at("fifo"), 0o640))
	must(os.Mkdir(at("empty"), 0o711))
	must(os.WriteFile(at("bin"), []byte("program"), 0o755))
	must(os.Chmod(at("bin"), 0o755|fs.ModeSetuid|fs.ModeSetgid))
	if os.Geteuid() == 0 {
		if err := unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			t.Logf("no device nodes here: %v", err)
		} else {
			must(os.Chmod(at("null"), 0o666))
			must(unix.Mknod(at("far"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 300))))
		}
		// cap_net_raw=ep
		value := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		if err := unix.Setxattr(at("noise"), "security.capability", value, 0); err != nil {
			t.Logf("no attributes here: %v", err)
		}
	}
	_ = unix.Setxattr(at("size-1"), "user.small", []byte("one"), 0)
	_ = unix.Setxattr(at("size-1"), "user.large", bytes.Repeat([]byte("2"), 250), 0)
}

// listing describes every entry of a tree as a reader of images has to see it.
func listing(t testing.TB, tr probe.Tree, root bool) map[string]string {
	t.Helper()
	out := map[string]string{}
	var dir func(tr probe.Tree, name, at string)
	dir = func(tr probe.Tree, name, at string) {
		for base, err := range tr.Names(name) {
			if err != nil {
				t.Fatalf("list %s: %v", at, err)
			}
			n, p := filepath.Join(name, base), filepath.Join(at, base)
			if p == "lost+found" {
				continue
			}
			fi, err := tr.Lstat(n)
			if err != nil {
				t.Fatalf("lstat %s: %v", p, err)
			}
			st := fi.Sys().(*syscall.Stat_t)
			s := fmt.Sprintf("%v", fi.Mode())
			if !root {
				s += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
			} else if st.Uid != 0 || st.Gid != 0 {
				t.Errorf("%s belongs to %d:%d", p, st.Uid, st.Gid)
			}
			switch {
			case fi.Mode()&fs.ModeDevice != 0:
				s += fmt.Sprintf(" %d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
			case fi.Mode()&fs.ModeSymlink != 0:
				to, err := tr.ReadLink(n)
				if err != nil {
					t.Fatalf("readlink %s: %v", p, err)
				}
				s += " -> " + to
			case fi.Mode().IsRegular():
				f, err := tr.Open(n)
				if err != nil {
					t.Fatalf("open %s: %v", p, err)
				}
				data, err := io.ReadAll(f)
				if err != nil || int64(len(data)) != fi.Size() {
					t.Fatalf("read %s: %d of %d bytes, %v", p, len(data), fi.Size(), err)
				}
				f.Close()
				s += fmt.Sprintf(" %d %x", len(data), sum(data))
			}
			for _, a := range []string{"security.capability", "user.small", "user.large"} {
				v, err := tr.(interface {
					Attr(name, attr string) ([]byte, error)
				}).Attr(n, a)
				if err == nil {
					s += fmt.Sprintf(" %s=%x", a, sum(v))
				} else if fi.Mode().IsRegular() && !strings.Contains(err.Error(), "no data") && !strings.Contains(err.Error(), "numerical result") {
					t.Errorf("attribute %s of %s: %v", a, p, err)
				}
			}
			out[p] = s
			if fi.IsDir() {
				sub, c, err := tr.(interface {
					Sub(string) (probe.Tree, io.Closer, error)
				}).Sub(n)
				if err != nil {
					t.Fatalf("sub %s: %v", p, err)
				}
				dir(sub, ".", p)
				c.Close()
			}
		}
	}
	dir(tr, ".", "")
	return out
}

func sum(b []byte) uint64 { return crc64.Checksum(b, crc64.MakeTable(crc64.ECMA)) }

func sameListing(t testing.TB, name string, want, got map[string]string) {
	t.Helper()
	bad := 0
	for p, w := range want {
		if g := got[p]; g != w {
			if bad++; bad < 10 {
				t.Errorf("%s: %s is\n%s, want\n%s", name, p, g, w)
			}
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s: %s is too much", name, p)
		}
	}
}

func open(t testing.TB, name string, opt scan.Options) *scan.Source {
	t.Helper()
	s, err := scan.Open(context.Background(), name, nil, opt)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func squash(t testing.TB, dir string, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image")
	run(t, nil, testneed.Program(t, "mksquashfs", "squashfs-tools"), append([]string{dir, out, "-noappend", "-no-progress", "-processors", "1"}, args...)...)
	return out
}

func mkext(t testing.TB, dir, kind, size string, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image")
	args = append([]string{"-q", "-F", "-t", kind, "-d", dir, "-E", fmt.Sprintf("root_owner=%d:%d", os.Geteuid(), os.Getegid())}, args...)
	run(t, nil, testneed.Program(t, "mkfs.ext4", "e2fsprogs"), append(args, out, size)...)
	return out
}

func TestSquashfsIsReadAsItWasMade(t *testing.T) {
	dir, _ := planted(t)
	furnish(t, dir)
	want := listing(t, open(t, dir, scan.Options{}).Tree, false)
	p := policy(t, "base")
	verdict := scanned(t, dir, p, scan.Options{})
	for _, c := range []struct{ name, args string }{
		{"gzip", "-comp gzip"}, {"gzip -9 small blocks", "-comp gzip -Xcompression-level 9 -b 4096"}, {"lzma", "-comp lzma"}, {"lzo", "-comp lzo"},
		{"lz4", "-comp lz4"}, {"lz4 hc", "-comp lz4 -Xhc"}, {"xz", "-comp xz"}, {"xz bcj", "-comp xz -Xbcj x86,arm"}, {"zstd", "-comp zstd"},
		{"zstd 1M", "-comp zstd -b 1M"}, {"stored", "-noI -noD -noF -noX"}, {"no fragments", "-no-fragments -no-exports -no-duplicates"},
		{"fragments always", "-always-use-fragments"}, {"no attributes table", "-no-tailends"},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := squash(t, dir, strings.Fields(c.args)...)
			s := open(t, img, scan.Options{})
			if codec := strings.TrimPrefix(strings.Fields(c.args)[min(1, len(strings.Fields(c.args))-1)], "-"); strings.HasPrefix(c.args, "-comp") && s.Kind != "squashfs ("+codec+")" {
				t.Errorf("it is called %s", s.Kind)
			}
			sameListing(t, c.name, want, listing(t, s.Tree, false))
			sameVerdicts(t, c.name, verdict, scanned(t, img, p, scan.Options{}))
		})
	}
}

func TestExtIsReadAsItWasMade(t *testing.T) {
	dir, _ := planted(t)
	furnish(t, dir)
	want := listing(t, open(t, dir, scan.Options{}).Tree, false)
	p := policy(t, "base")
	verdict := scanned(t, dir, p, scan.Options{})
	for _, c := range []struct{ name, kind, args string }{
		{"ext2", "ext2", "-b 1024"}, {"ext2", "ext2", "-b 1024 -I 128"}, {"ext2", "ext2", "-b 4096"}, {"ext3", "ext3", "-b 1024"}, {"ext4", "ext4", ""},
		{"ext4", "ext4", "-b 1024"}, {"ext4", "ext4", "-b 2048 -O inline_data"}, {"ext4", "ext4", "-O inline_data,^has_journal"},
		{"ext4", "ext4", "-O ^64bit,^metadata_csum"}, {"ext4", "ext4", "-O meta_bg,^resize_inode -b 1024"}, {"ext4", "ext4", "-O metadata_csum_seed,ea_inode"},
		{"ext4", "ext4", "-O ^flex_bg,uninit_bg,^metadata_csum -b 1024"}, {"ext4", "ext4", "-O bigalloc -C 16384"}, {"ext4", "ext4", "-I 1024 -O inline_data"},
		{"ext4", "ext4", "-O casefold,large_dir"},
	} {
		t.Run(strings.ReplaceAll(c.kind+" "+c.args, "/", ""), func(t *testing.T) {
			img := mkext(t, dir, c.kind, "24M", strings.Fields(c.args)...)
			s := open(t, img, scan.Options{})
			if s.Kind != c.name {
				t.Errorf("it is called %s", s.Kind)
			}
			sameListing(t, c.name, want, listing(t, s.Tree, false))
			sameVerdicts(t, c.name, verdict, scanned(t, img, p, scan.Options{}))
		})
	}
}

func TestArchivesAreReadAsTheyWereMade(t *testing.T) {
	dir, _ := planted(t)
	furnish(t, dir)
	want := listing(t, open(t, dir, scan.Options{}).Tree, false)
	verdict := scanned(t, dir, policy(t, "base"), scan.Options{})
	tar := testneed.Program(t, "tar", "tar")
	type made struct {
		name, kind string
		data       []byte
		attrs      bool
	}
	plain := run(t, nil, tar, "-C", dir, "--xattrs", "--xattrs-include=*", "-cf", "-", ".")
	pack := func(prog, pkg string, args ...string) []byte {
		return run(t, plain, testneed.Program(t, prog, pkg), args...)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(plain)
	z.Close()
	zw, _ := zstd.NewWriter(nil)
	names := run(t, nil, "find", dir, "-mindepth", "0", "-printf", "./%P\\n")
	cpio := cpioOf(t, dir, names)
	for _, m := range []made{
		{"plain", "tar", plain, true}, {"gnu", "tar", run(t, nil, tar, "-C", dir, "-H", "gnu", "-cf", "-", "."), false},
		{"sparse", "tar", run(t, nil, tar, "-C", dir, "-S", "-H", "posix", "-cf", "-", "."), false},
		{"sparse gnu", "tar", run(t, nil, tar, "-C", dir, "-S", "-H", "gnu", "-cf", "-", "."), false},
		{"no dot", "tar", run(t, nil, "sh", "-c", "cd "+dir+" && exec tar -cf - *"), false},
		{"gzip", "tar (gzip)", zipped.Bytes(), true}, {"xz", "tar (xz)", pack("xz", "xz-utils", "-c"), true},
		{"bzip2", "tar (bzip2)", pack("bzip2", "bzip2", "-c"), true}, {"zstd", "tar (zstd)", zw.EncodeAll(plain, nil), true},
		{"cpio", "cpio", cpio, false}, {"cpio gzip", "cpio (gzip)", run(t, cpio, "gzip", "-c"), false},
	} {
		t.Run(m.name, func(t *testing.T) {
			w := want
			if !m.attrs {
				w = map[string]string{}
				for p, s := range want {
					s, _, _ = strings.Cut(s, " security.")
					w[p], _, _ = strings.Cut(s, " user.")
				}
			}
			file := write(t, "image", m.data)
			s := open(t, file, scan.Options{})
			if s.Kind != m.kind || len(s.Notes) > 0 {
				t.Errorf("it is called %s, %q", s.Kind, s.Notes)
			}
			sameListing(t, m.name, w, listing(t, s.Tree, false))
			r, err := scan.Open(context.Background(), "-", bytes.NewReader(m.data), scan.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			sameListing(t, m.name+" from a pipe", w, listing(t, r.Tree, false))
			if m.attrs {
				sameVerdicts(t, m.name, verdict, scanned(t, file, policy(t, "base"), scan.Options{}))
			}
		})
	}
}

func cpioOf(t testing.TB, dir string, names []byte) []byte {
	t.Helper()
	prog := testneed.Program(t, "cpio", "cpio")
	cmd := exec.Command(prog, "-o", "-H", "newc", "--quiet")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(names)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cpio: %v %s", err, errs.Bytes())
	}
	return out
}

func TestPartitions(t *testing.T) {
	dir, _ := planted(t)
	img, err := os.ReadFile(squash(t, dir, "-all-root"))
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 16<<20); err != nil {
		t.Fatal(err)
	}
	sfdisk := testneed.Program(t, "sfdisk", "fdisk")
	want := scanned(t, dir, policy(t, "base"), scan.Options{AssumeRoot: true})
	for table, script := range map[string]string{
		"GPT": "label: gpt\nstart=2048, size=4096, name=boot\nstart=8192, size=16384, name=rootfs\n",
		"MBR": "label: dos\nstart=2048, size=2048, type=c\nstart=6144, size=20480, type=5\nstart=8192, size=16384, type=83\n",
	} {
		run(t, []byte(script), sfdisk, "-q", disk)
		f, err := os.OpenFile(disk, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteAt(img, 8192*512)
		f.Close()
		_, err = scan.Open(context.Background(), disk, nil, scan.Options{})
		if err == nil || !strings.Contains(err.Error(), table) || !strings.Contains(err.Error(), "squashfs") {
			t.Errorf("%s without a choice: %v", table, err)
		}
		part := map[string][]string{"GPT": {"2", "rootfs"}, "MBR": {"5"}}[table]
		for _, name := range part {
			sameVerdicts(t, table, want, scanned(t, disk, policy(t, "base"), scan.Options{Partition: name}))
		}
		if _, err := scan.Open(context.Background(), disk, nil, scan.Options{Partition: "7"}); err == nil || !strings.Contains(err.Error(), "no partition") {
			t.Errorf("%s partition 7: %v", table, err)
		}
	}
}

func TestOthersAreNamedAndRefused(t *testing.T) {
	for _, c := range []struct {
		at         int
		magic, say string
	}{
		{0, "UBI#\x01", "UBI"}, {0, "\x31\x18\x10\x06", "UBIFS"}, {0, "\x45\x3d\xcd\x28", "cramfs"}, {32769, "CD001", "ISO 9660"}, {0, "\x85\x19\x01\xe0", "JFFS2"},
		{0, "sqsh", "squashfs"}, {0, "070707", "cpio"}, {1024, "\xe2\xe1\xf5\xe0", "EROFS"}, {0, "PK\x03\x04", "ZIP"}, {0, "\x02\x21\x4c\x18", "lz4"},
		{0, "\xd0\x0d\xfe\xed", "FIT"}, {0, "\x27\x05\x19\x56", "U-Boot"}, {0, "nonsense", "no file system"}, {0, "", "no file system"},
	} {
		data := make([]byte, 64<<10)
		copy(data[c.at:], c.magic)
		_, err := scan.Open(context.Background(), write(t, "image.ext4", data), nil, scan.Options{})
		u, ok := err.(*scan.Unsupported)
		if !ok || !strings.Contains(u.What, c.say) || u.Next == "" {
			t.Errorf("%q: %v", c.magic, err)
		}
	}
	if _, err := scan.Open(context.Background(), write(t, "empty", nil), nil, scan.Options{}); err == nil {
		t.Error("an empty file is an image")
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := scan.Open(context.Background(), fifo, nil, scan.Options{}); err == nil {
		t.Error("a FIFO is an image")
	}
}
