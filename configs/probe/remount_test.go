// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/configs/probe"
)

const mountinfo = `22 1 179:2 / / ro,relatime shared:1 - ext4 /dev/root ro
23 22 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:5 - proc proc rw
24 22 0:22 / /tmp rw,relatime - tmpfs tmpfs rw,size=1024k
25 24 0:23 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw
26 22 0:24 / /my\040data rw,nosuid shared:7 master:1 - ext4 /dev/mmcblk0p3 rw
`

// runningHost is a host whose /proc is made of files, as on a running system.
func runningHost(t testing.TB, dir string) *probe.Host {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return probe.NewHost(root, true)
}

func TestMountOfARunningSystem(t *testing.T) {
	for name, c := range map[string]struct{ mounts, fstab, target, want, result string }{
		"the last mount counts": {mountinfo, "", "/tmp", `{"options":["nosuid","nodev"]}`, "pass"},
		"missing":               {mountinfo, "", "/tmp", `{"options":["noexec"]}`, "fail; /proc/self/mountinfo:4 rw,nosuid,nodev,rw"},
		"no mount":              {mountinfo, "", "/run", `{"options":["nosuid"]}`, "fail; /proc/self/mountinfo no mount of its own"},
		"no mount, allowed":     {mountinfo, "", "/run", `{"options":["nosuid"],"if_mounted":true}`, "not-applicable"},
		"a name with a space":   {mountinfo, "", "/my data", `{"options":["nosuid"]}`, "pass"},
		"fstab disagrees":       {mountinfo, "t /tmp tmpfs nosuid 0 0\n", "/tmp", `{"options":["nosuid","nodev"]}`, "fail; /etc/fstab:1 nosuid"},
		"hidepid as a number":   {strings.Replace(mountinfo, "proc proc rw", "proc proc rw,hidepid=2", 1), "", "/proc", `{"options":["hidepid=2"]}`, "pass"},
		"hidepid as a word":     {strings.Replace(mountinfo, "proc proc rw", "proc proc rw,gid=3,hidepid=invisible", 1), "", "/proc", `{"options":["hidepid=2"]}`, "pass"},
		"hidepid is less":       {strings.Replace(mountinfo, "proc proc rw", "proc proc rw,hidepid=noaccess", 1), "", "/proc", `{"options":["hidepid=2"]}`, "fail"},
		"hidepid is off":        {mountinfo, "", "/proc", `{"options":["hidepid=2"]}`, "fail"},
		"no table":              {"", "", "/tmp", `{"options":["nosuid"]}`, "unknown"},
	} {
		f := files{"tmp/x": "", "run/x": "", "my data/x": "", "proc/x": ""}
		if c.mounts != "" {
			f["proc/self/mountinfo"] = c.mounts
		}
		if c.fstab != "" {
			f["etc/fstab"] = c.fstab
		}
		v := newCheck(t, "mount", c.target, c.want).Check(context.Background(), runningHost(t, tree(t, f)))
		if got := brief(v); !strings.HasPrefix(got, c.result) {
			t.Errorf("%s: %s %s, want %s", name, got, v.Reason, c.result)
		}
	}
}

// The options of a mount are set and restored on a running system, in a mount name space of this test's own: by the new
// call, and by the old one, which has to give again whatever it must not clear.
func TestRemount(t *testing.T) {
	if os.Getenv("BACKSTAY_REMOUNT") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestRemount$", "-test.v")
		cmd.Env = append(os.Environ(), "BACKSTAY_REMOUNT="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || strings.Contains(string(out), "operation not permitted") || os.Getuid() != 0 {
			t.Skip("a mount name space of its own needs root, and a kernel that is not emulated")
		}
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir := os.Getenv("BACKSTAY_REMOUNT")
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("none", dir, "tmpfs", unix.MS_NOATIME, "size=1m"))
	proc := filepath.Join(dir, "proc")
	must(t, os.Mkdir(proc, 0o755))
	must(t, unix.Mount("proc", proc, "proc", unix.MS_NOSUID, ""))
	h := runningHost(t, "/")
	ctx := context.Background()
	line := func(at string) string {
		data, err := os.ReadFile("/proc/self/mountinfo")
		must(t, err)
		for l := range strings.Lines(string(data)) {
			if f := strings.Fields(l); f[4] == at {
				return strings.Join(f[5:], " ")
			}
		}
		return ""
	}
	for _, c := range []struct{ at, options, has string }{
		{dir, `{"options":["nosuid","nodev","noexec"]}`, "rw,nosuid,nodev,noexec,noatime"}, {proc, `{"options":["nodev","hidepid=2"]}`, "hidepid=invisible"},
	} {
		before := line(c.at)
		check := newCheck(t, "mount", c.at, c.options)
		if v := check.Check(ctx, h); v.Result != probe.Fail {
			t.Fatalf("%s: %s", c.at, brief(v))
		}
		plan, err := check.Fix(ctx, h, func(string) bool { return true })
		must(t, err)
		dry := runningHost(t, "/")
		for _, p := range plan {
			dry.Pretend(p)
		}
		if v := check.Check(ctx, dry); v.Result != probe.Pass {
			t.Errorf("%s pretended: %s", c.at, brief(v))
		}
		for _, p := range plan {
			if !h.Ready(ctx, p) || h.Holds(ctx, p) {
				t.Errorf("%s: not ready: %s -> %s", c.at, p.Before, p.After)
			}
			must(t, h.Apply(ctx, p))
		}
		if v := check.Check(ctx, h); v.Result != probe.Pass || !strings.Contains(line(c.at), c.has) {
			t.Errorf("%s: %s, %s", c.at, brief(v), line(c.at))
		}
		if again, _ := check.Fix(ctx, h, func(string) bool { return true }); len(again) > 0 {
			t.Errorf("%s: a second fix plans %v", c.at, again)
		}
		for _, p := range plan {
			if err := h.Apply(ctx, p); err == nil {
				t.Errorf("%s: a plan from another state is carried out", c.at)
			}
			must(t, h.Apply(ctx, p.Inverse()))
		}
		if after := line(c.at); after != before {
			t.Errorf("%s: the inverse left %q, was %q", c.at, after, before)
		}
	}
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	must(t, probe.RemountOld(int(f.Fd()), []string{"rw", "noatime"}, unix.MS_NOSUID))
	must(t, probe.RemountOld(int(f.Fd()), strings.Split(strings.Fields(line(dir))[0], ","), unix.MS_NOEXEC))
	if got := strings.Split(strings.Fields(line(dir))[0], ","); !slices.Equal(got, []string{"rw", "nosuid", "noexec", "noatime"}) {
		t.Errorf("the old call left %q", got)
	}
}
