// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/testdata/plantroot"
)

const insideVar = "BACKSTAY_TEST_INSIDE"

// isolated runs the calling test a second time, as process 1 of mount, process, network, host name and IPC name spaces of its
// own, and returns true there. It returns false in the first, after the second has ended; nothing done in there reaches the
// machine. It skips the test where this cannot be had.
func isolated(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVar) != "" {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, for name spaces and mounts")
	}
	if os.Getenv("BACKSTAY_TEST_EMULATED") != "" {
		t.Skip("name spaces under user emulation: the same code runs natively")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v=true", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), insideVar+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("the machine gives no name spaces:", err)
	}
	for line := range strings.Lines(string(out)) {
		t.Log(strings.TrimRight(line, "\n"))
	}
	if err != nil && !endedBy(err, string(out)) {
		t.Error("inside:", err)
	}
	return false
}

// enterLiveRoot makes the planted tree the root of this process, with a /proc of its own, volatile directories that are real
// mounts, and the weak kernel values of the tree. /proc/sys/net is the kernel's, of this network name space; the rest of
// /proc/sys belongs to the whole machine, so a copy of it lies over it: what is written there is a file, not the kernel.
func enterLiveRoot(t *testing.T) {
	t.Helper()
	dir := os.Getenv(insideVar)
	must(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	must(t, syscall.Mount("root", dir, "tmpfs", 0, "mode=0755"))
	if _, err := plantroot.Plant(dir); err != nil {
		t.Fatal(err)
	}
	weak := keyFiles(t, filepath.Join(dir, "proc/sys"))
	must(t, syscall.Mount("proc", filepath.Join(dir, "proc"), "proc", 0, ""))
	coverKernel(t, dir, weak)
	dev := filepath.Join(dir, "dev")
	must(t, syscall.Mount(dev, dev, "", syscall.MS_BIND, "")) // a mount of its own, with what is planted in it
	for _, m := range []string{"tmp", "var/tmp", "run", "dev/shm", "data", "media/usb"} {
		at := filepath.Join(dir, m)
		kept, err := os.ReadDir(at)
		must(t, errors.Join(os.MkdirAll(at, 0o755), ignore(err, fs.ErrNotExist)))
		if len(kept) == 0 { // what is planted there has to stay in view
			must(t, syscall.Mount("tmpfs", at, "tmpfs", 0, "mode=1777"))
		}
	}
	must(t, os.MkdirAll(filepath.Join(dir, "run"), 0o755))
	must(t, os.Chmod(filepath.Join(dir, "run"), 0o755))
	liveDefects(t, dir)
	must(t, syscall.Chroot(dir))
	must(t, os.Chdir("/"))
	// Where t.TempDir puts its directories has to be in the new root.
	must(t, os.Setenv("TMPDIR", "/run"))
}

// liveDefects adds what can only be wrong while a system runs.
func liveDefects(t *testing.T, dir string) {
	t.Helper()
	for key, value := range map[string]string{
		"kernel/sysrq": "1", "net/ipv4/conf/all/accept_source_route": "1", "net/ipv4/conf/default/accept_source_route": "1", "net/ipv4/tcp_syncookies": "0",
		"net/ipv4/icmp_echo_ignore_broadcasts": "0", "net/ipv4/conf/all/send_redirects": "1", "net/ipv4/conf/all/route_localnet": "1",
		"net/ipv4/conf/all/proxy_arp": "1",
	} {
		must(t, ignore(os.WriteFile(filepath.Join(dir, "proc/sys", key), []byte(value+"\n"), 0), fs.ErrNotExist))
	}
	tab, err := os.OpenFile(filepath.Join(dir, "etc/inittab"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = tab.WriteString("::respawn:/usr/sbin/vsftpd /etc/vsftpd.conf\n")
	must(t, errors.Join(err, tab.Close()))
}

func ignore(err, class error) error {
	if errors.Is(err, class) {
		return nil
	}
	return err
}

// keyFiles reads every regular file below dir: name relative to dir, bytes.
func keyFiles(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && (d.Name() == "neigh" || d.Name() == "route" || d.Name() == "netfilter") {
			return fs.SkipDir // hundreds of names that no rule is about
		}
		if err != nil || d.IsDir() {
			return ignore(err, fs.ErrPermission)
		}
		data, err := os.ReadFile(p) // many parameters can only be written, or not be read now
		if rel, _ := filepath.Rel(dir, p); err == nil {
			out[rel] = data
		}
		return nil
	})
	must(t, ignore(err, fs.ErrNotExist))
	return out
}

func coverKernel(t *testing.T, dir string, weak map[string][]byte) {
	t.Helper()
	sys := filepath.Join(dir, "proc/sys")
	real := map[string][]byte{}
	for _, top := range []string{"kernel", "fs", "vm", "dev", "user"} {
		for name, data := range keyFiles(t, filepath.Join(sys, top)) {
			real[filepath.Join(top, name)] = data
		}
	}
	net := filepath.Join(dir, "run/net") // a handle on the kernel's own, while the copy is laid over it
	must(t, os.MkdirAll(net, 0o755))
	must(t, syscall.Mount(filepath.Join(sys, "net"), net, "", syscall.MS_BIND|syscall.MS_REC, ""))
	must(t, syscall.Mount("copy", sys, "tmpfs", 0, "mode=0755"))
	rules, err := json.Marshal(load(t, configs.Profiles()...))
	must(t, err)
	for name, data := range real {
		if !bytes.Contains(rules, []byte(strings.ReplaceAll(name, "/", "."))) {
			continue
		}
		writeKey(t, sys, name, data)
	}
	must(t, os.Mkdir(filepath.Join(sys, "net"), 0o755))
	must(t, syscall.Mount(net, filepath.Join(sys, "net"), "", syscall.MS_MOVE, ""))
	must(t, os.Remove(net))
	for name, data := range weak {
		if !strings.HasPrefix(name, "net/") {
			writeKey(t, sys, name, data)
			continue
		}
		// The kernel's own: a parameter that this kernel does not have cannot be planted.
		must(t, ignore(ignore(os.WriteFile(filepath.Join(sys, name), data, 0), fs.ErrNotExist), fs.ErrPermission))
	}
}

func writeKey(t *testing.T, sys, name string, data []byte) {
	t.Helper()
	p := filepath.Join(sys, name)
	must(t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(t, os.WriteFile(p, data, 0o644))
}

// liveSnapshot describes the files of the live root, its kernel values and its mounts. With times it shows every write.
func liveSnapshot(t *testing.T, times bool) map[string]string {
	t.Helper()
	out := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		list, err := os.ReadDir(dir)
		must(t, err)
		for _, d := range list {
			p := filepath.Join(dir, d.Name())
			if p == "/proc" || p == "/run/backstay" || strings.HasPrefix(p, "/run/Test") {
				continue
			}
			out[p] = describeFile(t, p, times)
			if d.IsDir() {
				walk(p)
			}
		}
	}
	walk("/")
	for name, data := range keyFiles(t, "/proc/sys") {
		switch {
		case strings.HasPrefix(name, "kernel/random/"), strings.HasPrefix(name, "fs/"), strings.HasSuffix(name, "_status"), strings.HasSuffix(name, "stable_secret"):
			if !strings.HasPrefix(name, "fs/protected") && !strings.HasPrefix(name, "fs/suid") {
				continue
			}
		}
		out["/proc/sys/"+name] = string(bytes.TrimSpace(data))
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 6 {
			out["mount "+f[4]] = strings.Join(f[5:], " ")
		}
	}
	return out
}

func describeFile(t *testing.T, p string, times bool) string {
	t.Helper()
	in, err := os.Lstat(p)
	must(t, err)
	st := in.Sys().(*syscall.Stat_t)
	s := fmt.Sprintf("%v %d:%d %x", in.Mode(), st.Uid, st.Gid, st.Rdev)
	switch {
	case in.Mode().IsRegular():
		data, err := os.ReadFile(p)
		must(t, err)
		s += fmt.Sprintf(" %d %x", len(data), sha256.Sum256(data))
	case in.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(p)
		must(t, err)
		s += " -> " + to
	}
	buf := make([]byte, 64)
	if n, err := syscall.Getxattr(p, "security.capability", buf); err == nil && in.Mode().IsRegular() {
		s += fmt.Sprintf(" caps %x", buf[:n])
	}
	if times && !in.IsDir() {
		s += " " + in.ModTime().Format(time.RFC3339Nano)
	}
	return s
}
