// SPDX-License-Identifier: Apache-2.0

package source

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/testdata/testneed"
)

// program copies a small program to a name.
func program(t *testing.T, name string) (sum string) {
	t.Helper()
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o755); err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func run(t *testing.T, name string, args ...string) int {
	t.Helper()
	cmd := exec.Command(name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return cmd.Process.Pid
}

func TestProgramsThatStart(t *testing.T) {
	testneed.Native(t)
	w := observe(t, execKind(), testEnv(t, "/"))

	truth, err := exec.LookPath("true")
	if err != nil {
		t.Skip(err)
	}
	truth, _ = filepath.EvalSymlinks(truth)
	pid := run(t, truth)
	e := w.eventually(t, "exec", is("exe", truth))
	if attr(t, e, "pid") != strconv.Itoa(pid) {
		// Another process of this machine may have started the same program before.
		t.Logf("first start of %s by process %s, ours is %d", truth, attr(t, e, "pid"), pid)
	}

	evil := filepath.Join(t.TempDir(), "evil")
	sum := program(t, evil)
	pid = run(t, evil, "0.5")
	e = w.eventually(t, "exec.writable", is("exe", evil))
	if attr(t, e, "sha256") != sum || attr(t, e, "pid") != strconv.Itoa(pid) || attr(t, e, "uid") != strconv.Itoa(os.Getuid()) || !e.Critical() {
		t.Errorf("event %+v, want hash %s and process %d", e, sum, pid)
	}
	for range 20 {
		run(t, evil, "0")
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	var started uint64
	for _, e := range w.of("exec.writable") {
		if v, _ := e.Attr("exe"); v == evil {
			n := uint64(1) // the first, or one whose user was not known any more
			if c, ok := e.Attr("count"); ok {
				n, _ = strconv.ParseUint(c, 10, 64)
			}
			started += n
		}
		if v, _ := e.Attr("exe"); loader(v) {
			t.Errorf("the loader of a program was taken for a program: %+v", e)
		}
	}
	if started != 21 {
		t.Errorf("the program started 21 times, counted %d", started)
	}
}

func TestProgramOnMemoryFileSystemMountedLater(t *testing.T) {
	testneed.Native(t)
	dir := t.TempDir()
	w := observe(t, execKind(), testEnv(t, "/"))
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=755"); err != nil {
		t.Skip("mount:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	evil := filepath.Join(dir, "evil")
	program(t, evil)
	time.Sleep(2*mountRescan + 500*time.Millisecond)
	run(t, evil, "0")
	e := w.eventually(t, "exec.writable", is("exe", evil))
	if attr(t, e, "place") != "file system in memory" {
		t.Errorf("%+v", e)
	}
	err := unix.Unmount(dir, 0)
	for end := time.Now().Add(time.Second); err != nil && time.Now().Before(end); err = unix.Unmount(dir, 0) {
		time.Sleep(10 * time.Millisecond) // an event was recorded, and its descriptor is about to be closed
	}
	if err != nil {
		t.Errorf("the source keeps a file system busy: %v", err)
	}
}

// A program that never was a file still opens its loader, if it is dynamic.
func TestProgramWithoutFile(t *testing.T) {
	testneed.Native(t)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	b, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	w := observe(t, execKind(), testEnv(t, "/"))
	fd, err := unix.MemfdCreate("evil", unix.MFD_CLOEXEC)
	if err != nil {
		t.Skip(err)
	}
	f := os.NewFile(uintptr(fd), "evil")
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), "1")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	defer cmd.Wait()
	e := w.eventually(t, "exec.writable", func(e logging.Event) bool {
		v, _ := e.Attr("exe")
		return strings.HasPrefix(v, "/memfd:evil")
	})
	sum := sha256.Sum256(b)
	if attr(t, e, "sha256") != hex.EncodeToString(sum[:]) || attr(t, e, "place") != "program without a file" {
		t.Errorf("%+v", e)
	}
}

func TestFilesThatAreWritten(t *testing.T) {
	testneed.Native(t)
	env := testEnv(t, "/")
	w := observe(t, execKind(), env)
	dir := t.TempDir()
	name := filepath.Join(dir, "tool")
	// By another process: the agent's own writes are left out.
	run(t, "/bin/sh", "-c", "printf 'one' >"+name+".new; chmod 755 "+name+".new; printf two >>"+name+".new; sleep 0.5; mv "+name+".new "+name+"; echo x >"+dir+"/data")
	e := w.eventually(t, "file.changed", is("path", name))
	sum := sha256.Sum256([]byte("onetwo"))
	if e.After != hex.EncodeToString(sum[:]) || attr(t, e, "uid") != strconv.Itoa(os.Getuid()) || attr(t, e, "written_as") != name+".new" {
		t.Errorf("%+v", e)
	}
	if _, err := w.find("file.changed", is("path", dir+"/data")); err {
		t.Error("a file that is no program, nowhere near the system, was recorded")
	}
}

func TestOwnWritesAreLeftOut(t *testing.T) {
	testneed.Native(t)
	w := observe(t, execKind(), testEnv(t, "/"))
	name := filepath.Join(t.TempDir(), "own")
	program(t, name)
	time.Sleep(writeSettle + 500*time.Millisecond)
	if _, ok := w.find("file.changed", is("path", name)); ok {
		t.Error("a file the agent wrote was recorded")
	}
}

func fanBytes(size uint32, version byte, mask uint64, fd, pid int32) []byte {
	b := binary.NativeEndian.AppendUint32(nil, size)
	b = append(b, version, 0)
	b = binary.NativeEndian.AppendUint16(b, uint16(fanSize))
	b = binary.NativeEndian.AppendUint64(b, mask)
	b = binary.NativeEndian.AppendUint32(b, uint32(fd))
	b = binary.NativeEndian.AppendUint32(b, uint32(pid))
	for len(b) < int(size) && len(b) < 100 {
		b = append(b, 0)
	}
	return b
}

func TestParseFan(t *testing.T) {
	good := append(fanBytes(24, 3, unix.FAN_OPEN_EXEC, 7, 42), fanBytes(32, 3, unix.FAN_Q_OVERFLOW, -1, 0)...)
	var got []fanEvent
	if err := parseFan(good, func(e fanEvent) { got = append(got, e) }); err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	if got[0] != (fanEvent{unix.FAN_OPEN_EXEC, 7, 42}) || got[1] != (fanEvent{unix.FAN_Q_OVERFLOW, -1, 0}) {
		t.Errorf("%+v", got)
	}
	for name, b := range map[string][]byte{
		"short":         good[:20],
		"other version": fanBytes(24, 4, 0, 0, 0),
		"size 0":        fanBytes(0, 3, 0, 0, 0),
		"beyond":        fanBytes(200, 3, 0, 0, 0),
	} {
		if err := parseFan(b, func(fanEvent) { t.Errorf("%s: an event", name) }); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzParseFan(f *testing.F) {
	f.Add(append(fanBytes(24, 3, unix.FAN_OPEN_EXEC, 7, 42), fanBytes(24, 3, unix.FAN_Q_OVERFLOW, -1, 0)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_ = parseFan(b, func(fanEvent) { n++ })
		if n*fanSize > len(b) {
			t.Errorf("%d events in %d bytes", n, len(b))
		}
	})
}

func TestParseStatus(t *testing.T) {
	for text, want := range map[string]process{
		"Name:\tx\nUmask:\t0022\nPPid:\t12\nTracerPid:\t0\nUid:\t1000\t0\t0\t0\nGid:\t1\t1\t1\t1\n": {12, 1000, 0},
		"Name:\tUid:\\n\nPPid:\t1\nUid:\t5\t6\t7\t8\n":                                              {1, 5, 6},
		"Name:\tx\n":                     {-1, -1, -1},
		"PPid:\t-3\nUid:\t4294967295\tx": {-1, -1, -1},
		"":                               {-1, -1, -1},
	} {
		if got := parseStatus([]byte(text)); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte("Name:\tx\nPPid:\t12\nUid:\t1000\t0\t0\t0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p := parseStatus(b); p.ppid < -1 || p.uid < -1 || p.euid < -1 {
			t.Errorf("%+v", p)
		}
	})
}

func TestUnfitPlaces(t *testing.T) {
	root := t.TempDir()
	for dir, mode := range map[string]os.FileMode{"opt": 0o755, "opt/open": 0o777, "opt/open/deep": 0o755, "usr": 0o755} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(root, dir), mode); err != nil {
			t.Fatal(err)
		}
	}
	p := newPlaces(testEnv(t, root))
	p.why = map[device]string{{8, 17}: "removable medium"}
	stick := unix.Stat_t{Mode: unix.S_IFREG | 0o755}
	setDev(&stick, unix.Mkdev(8, 17))
	for _, c := range []struct {
		path string
		st   unix.Stat_t
		want string
	}{
		{"/usr/x", unix.Stat_t{Mode: 0o755}, ""},
		{"/opt/x", unix.Stat_t{Mode: 0o755}, ""},
		{"/opt/x", unix.Stat_t{Mode: 0o757}, "everybody may write the program"},
		{"/opt/open/deep/x", unix.Stat_t{Mode: 0o755}, "everybody may write /opt/open"},
		{"/tmp/x", unix.Stat_t{Mode: 0o755}, "directory for data: /tmp"},
		{"/var/tmp/a/b", unix.Stat_t{Mode: 0o755}, "directory for data: /var/tmp"},
		{"/dev/shm/x", unix.Stat_t{Mode: 0o755}, "directory for data: /dev"},
		{"/run/x", unix.Stat_t{Mode: 0o755}, "directory for data: /run"},
		{"/media/x", stick, "removable medium"},
		{"/runner", unix.Stat_t{Mode: 0o755}, ""},
	} {
		for range 2 { // the second answer is a remembered one
			if got, sure := p.unfit(c.path, &c.st, time.Now()); got != c.want || !sure {
				t.Errorf("%s: %q, want %q", c.path, got, c.want)
			}
		}
	}
	unsure := 0
	for i := range 1000 {
		if _, sure := p.unfit(fmt.Sprintf("/opt/%d/x", i), &unix.Stat_t{Mode: 0o755}, time.Now()); !sure {
			unsure++
		}
	}
	if unsure == 0 || unsure > 600 {
		t.Errorf("%d of 1000 directories were not looked at", unsure)
	}
}

func TestChosenMounts(t *testing.T) {
	list, _ := parseMounts([]byte(strings.Join([]string{
		"1 0 8:1 / / rw - ext4 a rw", "2 1 8:1 /x /bind rw - ext4 a rw", "3 1 0:5 / /proc rw - proc p rw", "4 1 0:6 / /net rw - nfs4 n:/ rw",
		"5 1 0:7 / /box rw - fuse.sshfs s rw", "6 1 0:8 / /tmp rw - tmpfs t rw", "7 1 8:2 / /media rw - fuseblk b rw",
	}, "\n")))
	for want, only := range map[string][]string{"/ /tmp /media ": nil, "/net ": {"/net"}, "/bind ": {"/bind", "/proc"}} {
		env := testEnv(t, "/")
		env.Mounts = only
		got := ""
		for _, m := range chosen(env, list) {
			got += m.point + " "
		}
		if got != want {
			t.Errorf("%q: %q, want %q", only, got, want)
		}
	}
}

func TestRemovable(t *testing.T) {
	root := t.TempDir()
	disk := filepath.Join(root, "sys/devices/platform/mmc0/block/sdx")
	for dir, text := range map[string]string{disk: "1\n", filepath.Join(root, "sys/devices/pci0/nvme/nvme0n1"): "0\n"} {
		write(t, filepath.Join(dir, "removable"), text)
	}
	for _, dir := range []string{disk + "/sdx1", filepath.Join(root, "sys/devices/pci0/usb1/1-1/block/sdy"), filepath.Join(root, "sys/dev/block")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"8:16": "devices/platform/mmc0/block/sdx", "8:17": "devices/platform/mmc0/block/sdx/sdx1",
		"8:32": "devices/pci0/usb1/1-1/block/sdy", "259:0": "devices/pci0/nvme/nvme0n1"} {
		if err := os.Symlink("../../"+to, filepath.Join(root, "sys/dev/block", link)); err != nil {
			t.Fatal(err)
		}
	}
	p := places{env: testEnv(t, root)}
	for dev, want := range map[device]bool{{8, 16}: true, {8, 17}: true, {8, 32}: true, {259, 0}: false, {259, 9}: false, {0, 20}: false} {
		if got := p.removable(dev); got != want {
			t.Errorf("%v: %v, want %v", dev, got, want)
		}
	}
}

func TestSeenTableIsBounded(t *testing.T) {
	var table seenTable
	now := time.Now()
	total := uint64(0)
	flush := func(s *seen) { total += s.count }
	for i := range 5 * maxSeen {
		s := &seen{key: seenKey{inode: uint64(i)}, until: now.Add(time.Minute)}
		table.add(s, now, flush)
		table.again(s, 1)
		if len(table.list) > maxSeen {
			t.Fatalf("%d entries", len(table.list))
		}
	}
	table.flush(now.Add(2*time.Minute), false, time.Minute, flush)
	if total != 5*maxSeen {
		t.Errorf("%d counted, want %d", total, 5*maxSeen)
	}
	table.flush(now.Add(4*time.Minute), false, time.Minute, flush)
	table.due = now
	table.flush(now.Add(4*time.Minute), false, time.Minute, flush)
	if len(table.list) != 0 {
		t.Errorf("%d entries stay", len(table.list))
	}
}
