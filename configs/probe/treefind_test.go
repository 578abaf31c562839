// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/configs/probe"
)

func TestTreeFindsModes(t *testing.T) {
	dir := tree(t, files{"etc/passwd": "root:x:0:0::/:\napp:x:7:7::/:\n", "etc/group": "root:x:0:\napp:x:7:\n", "usr/bin/a": "#!a", "usr/lib/b": "b", "srv/c": "c", "srv/link": "-> c", "tmp/d": "d", "dev/e": "e", "proc/f": "f", "opt/drop/x": "x", "opt/sticky/x": "x"})
	set := func(name string, m fs.FileMode) { must(t, os.Chmod(filepath.Join(dir, name), m)) }
	for _, n := range []string{"usr/bin/a", "srv/c", "tmp/d", "dev/e", "proc/f"} {
		set(n, 0o777)
	}
	set("opt/drop", 0o777)
	set("opt/sticky", 0o777|fs.ModeSticky)
	set("tmp", 0o777|fs.ModeSticky)
	must(t, unix.Mkfifo(filepath.Join(dir, "srv/fifo"), 0o666))
	ctx := context.Background()
	for name, c := range map[string]struct{ target, want, result string }{
		"everywhere":       {"/", `{"find":"world-writable","skip":["/tmp"]}`, "fail; /srv/c mode 0777; /usr/bin/a mode 0777"},
		"of the product":   {"/etc", `{"find":"world-writable","also":["/usr","/nowhere"]}`, "fail; /usr/bin/a mode 0777"},
		"allowed":          {"/usr", `{"find":"world-writable","allow":["/usr/bin/a"]}`, "pass"},
		"nothing there":    {"/nowhere", `{"find":"world-writable"}`, "not-applicable"},
		"not sticky":       {"/", `{"find":"not-sticky"}`, "fail; /opt/drop mode 0777"},
		"all owners known": {"/usr", `{"find":"unowned"}`, "pass"},
	} {
		h := host(t, dir)
		check := newCheck(t, "tree", c.target, c.want)
		v := check.Check(ctx, h)
		if got := brief(v); got != c.result {
			t.Errorf("%s: %s %s, want %s", name, got, v.Reason, c.result)
		}
		plan, err := check.Fix(ctx, h, func(string) bool { return true })
		must(t, err)
		if len(plan) != len(v.Items) {
			t.Errorf("%s: plans %v for %d items", name, plan, len(v.Items))
		}
		for _, p := range plan {
			must(t, h.Apply(ctx, p))
		}
		if v := check.Check(ctx, h); v.Result == probe.Fail {
			t.Errorf("%s: after the fix %s", name, brief(v))
		}
		if again, _ := check.Fix(ctx, h, func(string) bool { return true }); len(again) > 0 {
			t.Errorf("%s: a second fix plans %v", name, again)
		}
		for _, p := range plan {
			must(t, h.Apply(ctx, p.Inverse()))
		}
	}
}

func TestTreeFindsOwnersAndDevices(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("making device nodes and giving files away needs root")
	}
	dir := tree(t, files{"etc/passwd": "root:x:0:0::/:\napp:x:7:7::/:\n", "etc/group": "root:x:0:\napp:x:7:\n", "srv/known": "k", "srv/ghost": "g", "srv/group": "g", "var/named/dev/log": "", "dev/x": ""})
	must(t, os.Chown(filepath.Join(dir, "srv/known"), 7, 7))
	must(t, os.Chown(filepath.Join(dir, "srv/ghost"), 1000, 7))
	must(t, os.Chown(filepath.Join(dir, "srv/group"), 7, 1000))
	node := func(name string, kind uint32, major, minor uint32) {
		if err := unix.Mknod(filepath.Join(dir, name), kind|0o600, int(unix.Mkdev(major, minor))); err != nil {
			t.Skip(err)
		}
	}
	node("srv/mem", unix.S_IFCHR, 1, 1)
	node("var/flash", unix.S_IFBLK, 31, 0)
	node("var/named/dev/null", unix.S_IFCHR, 1, 3)
	node("var/named/dev/urandom", unix.S_IFCHR, 1, 9)
	node("var/named/dev/mem", unix.S_IFCHR, 1, 1)
	node("srv/null", unix.S_IFCHR, 1, 3)
	node("srv/whiteout", unix.S_IFCHR, 0, 0)
	node("dev/mem", unix.S_IFCHR, 1, 1)
	ctx := context.Background()
	for what, want := range map[string]string{
		"unowned": "fail; /srv/ghost owner 1000, group 7; /srv/group owner 7, group 1000",
		"device":  "fail; /srv/mem character device 1:1, mode 0600; /srv/null character device 1:3, mode 0600; /var/flash block device 31:0, mode 0600; /var/named/dev/mem character device 1:1, mode 0600",
	} {
		if got := brief(newCheck(t, "tree", "/", `{"find":"`+what+`"}`).Check(ctx, host(t, dir))); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	h := host(t, dir)
	c := newCheck(t, "tree", "/", `{"find":"unowned"}`)
	c.Check(ctx, h)
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/:\napp:x:7:7::/:\nu:x:1000:7::/:\n"), 0o644))
	h.Forget("/etc/passwd")
	if got := brief(c.Check(ctx, h)); strings.Contains(got, "ghost") {
		t.Errorf("with a new account: %s", got)
	}
	must(t, os.Remove(filepath.Join(dir, "etc/passwd")))
	if got := brief(c.Check(ctx, host(t, dir))); got != "not-applicable" {
		t.Errorf("without accounts: %s", got)
	}
}

func TestTreeFindsCapabilities(t *testing.T) {
	dir := tree(t, files{"bin/ping": "#!ping", "bin/nmap": "#!x", "bin/plain": "#!y"})
	everything := append([]byte{1, 0, 0, 2}, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 1, 0, 0, 0, 0, 0, 0)
	for name, v := range map[string][]byte{"bin/ping": netRaw, "bin/nmap": everything} {
		if err := unix.Setxattr(filepath.Join(dir, name), "security.capability", v, 0); err != nil {
			t.Skipf("a capability cannot be set here: %v", err)
		}
	}
	ctx := context.Background()
	check := newCheck(t, "tree", "/", `{"find":"capability","allow":["/bin/ping net_raw net_admin","/bin/nmap net_raw"]}`)
	h := host(t, dir)
	v := check.Check(ctx, h)
	if got := brief(v); !strings.HasPrefix(got, "fail; /bin/nmap capabilities chown,dac_override,") || !strings.HasSuffix(got, "checkpoint_restore") || len(v.Items) != 1 {
		t.Errorf("%s", got)
	}
	plan, err := check.Fix(ctx, h, func(string) bool { return true })
	must(t, err)
	dry := host(t, dir)
	check.Check(ctx, dry)
	dry.Pretend(plan[0])
	if v := check.Check(ctx, dry); v.Result != probe.Pass || !dry.Holds(ctx, plan[0]) {
		t.Errorf("pretended: %s", brief(v))
	}
	if !h.Ready(ctx, plan[0]) || h.Holds(ctx, plan[0]) {
		t.Error("the plan is not ready")
	}
	must(t, h.Apply(ctx, plan[0]))
	if v := check.Check(ctx, h); v.Result != probe.Pass {
		t.Errorf("applied: %s", brief(v))
	}
	if err := h.Apply(ctx, plan[0]); err == nil {
		t.Error("the plan is carried out twice")
	}
	must(t, h.Apply(ctx, plan[0].Inverse()))
	buf := make([]byte, 64)
	n, err := unix.Getxattr(filepath.Join(dir, "bin/nmap"), "security.capability", buf)
	if err != nil || string(buf[:n]) != string(everything) {
		t.Errorf("the inverse left %x, %v", buf[:n], err)
	}
}

func TestCapabilityNames(t *testing.T) {
	for attr, want := range map[string]string{string(netRaw): "net_raw", "": "", "short": "unreadable", "\x00\x00\x00\x01\x00\x10\x00\x00\x00\x00\x00\x00": "net_admin",
		"\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\xe8\x03\x00\x00": "net_raw,63"} {
		if got := probe.CapabilityText([]byte(attr)); got != want {
			t.Errorf("%x is %s, want %s", attr, got, want)
		}
	}
}

// An image of a kind that keeps no attributes leaves the question open.
func TestNoAttributesIsUnknown(t *testing.T) {
	c := count(t, tree(t, files{"bin/a": "#!a"}))
	h := probe.NewImage(struct{ probe.Tree }{c.Tree})
	if v := newCheck(t, "tree", "/", `{"find":"capability"}`).Check(context.Background(), h); v.Result != probe.Unknown {
		t.Error(brief(v))
	}
}
