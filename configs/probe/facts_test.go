// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/configs/probe"
)

// counted counts what a check asks of a tree, and can stand for one that is far larger than the disk.
type counted struct {
	probe.Tree
	lists, stats int
	endless      string // a directory with as many entries as somebody cares to read
	attr         func(name string) ([]byte, error)
}

func (c *counted) Names(name string) iter.Seq2[string, error] {
	c.lists++
	if name != c.endless {
		return c.Tree.Names(name)
	}
	return func(yield func(string, error) bool) {
		for i := 0; yield("file-"+strconv.Itoa(i), nil); i++ {
		}
	}
}

func (c *counted) Lstat(name string) (fs.FileInfo, error) {
	c.stats++
	if c.endless != "" && strings.HasPrefix(name, c.endless+"/file-") {
		in, err := c.Tree.Lstat("some")
		return in, err
	}
	return c.Tree.Lstat(name)
}

func (c *counted) Attr(name, attr string) ([]byte, error) {
	if c.attr == nil {
		return nil, unix.ENODATA
	}
	return c.attr(name)
}

func count(t testing.TB, dir string) *counted {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return &counted{Tree: probe.DirTree(root)}
}

func TestRulesAboutTheTreeShareOneWalk(t *testing.T) {
	dir := tree(t, files{"bin/a": "a", "etc/ssh/ssh_host_rsa_key": strings.Repeat("k", 40), "usr/bin/x": "x", "usr/lib/y": "y"})
	must(t, os.Chmod(filepath.Join(dir, "usr/bin/x"), 0o755|fs.ModeSetuid))
	c := count(t, dir)
	h := probe.NewImage(c)
	ctx := context.Background()
	newCheck(t, "setuid", "/", "").Check(ctx, h)
	lists := c.lists
	if lists != 7 {
		t.Errorf("the first rule lists %d directories, want all 7 once", lists)
	}
	for _, v := range []probe.Verdict{
		newCheck(t, "setuid", "/", "").Check(ctx, h), newCheck(t, "setuid", "/usr", "").Check(ctx, h),
		newCheck(t, "secret", "/etc", `{"find":["ssh-host-key"]}`).Check(ctx, h),
	} {
		if v.Result != probe.Fail || len(v.Items) != 1 {
			t.Errorf("%+v", v)
		}
	}
	if v := newCheck(t, "setuid", "/bin", "").Check(ctx, h); v.Result != probe.Pass {
		t.Errorf("below /bin: %+v", v)
	}
	if c.lists != lists {
		t.Errorf("further rules list %d more directories", c.lists-lists)
	}
}

// After a change only the entry that changed is looked at again, and it is.
func TestFactsFollowChanges(t *testing.T) {
	dir := tree(t, files{"bin/a": "a", "bin/b": "b", "bin/c": "c"})
	ctx := context.Background()
	set := func(name string, m fs.FileMode) { must(t, os.Chmod(filepath.Join(dir, name), m)) }
	set("bin/a", 0o755|fs.ModeSetuid)
	set("bin/b", 0o755|fs.ModeSetgid)
	h := host(t, dir)
	c := newCheck(t, "setuid", "/", "")
	plan, err := c.Fix(ctx, h, func(s string) bool { return s == "/bin/a" })
	must(t, err)
	if len(plan) != 1 {
		t.Fatalf("plan %v", plan)
	}
	dry := host(t, dir)
	c.Check(ctx, dry)
	dry.Pretend(plan[0])
	for name, h := range map[string]*probe.Host{"pretended": dry, "applied": h} {
		if name == "applied" {
			must(t, h.Apply(ctx, plan[0]))
		}
		if got := brief(c.Check(ctx, h)); !strings.HasPrefix(got, "fail; /bin/b mode 2755") || strings.Contains(got, "/bin/a") {
			t.Errorf("%s: %s", name, got)
		}
	}
	set("bin/c", 0o755|fs.ModeSetuid) // by somebody else: this run has seen it
	if got := brief(c.Check(ctx, h)); strings.Contains(got, "/bin/c") {
		t.Errorf("the checks of one run do not agree: %s", got)
	}
	h.Forget("/bin/c")
	if got := brief(c.Check(ctx, h)); !strings.Contains(got, "/bin/c mode 4755") {
		t.Errorf("after it is forgotten: %s", got)
	}
}

// A tree without end makes every rule about it unknown, soon and in little memory, and what was found before is kept.
func TestEndlessTreeIsUnknown(t *testing.T) {
	dir := tree(t, files{"some": strings.Repeat("k", 40), "usr/x": "x"})
	c := count(t, dir)
	c.endless = "usr"
	const limit = 30_000
	h := probe.NewImage(c)
	probe.LimitWalk(h, limit)
	ctx := context.Background()
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	for _, v := range []probe.Verdict{newCheck(t, "setuid", "/", "").Check(ctx, h), newCheck(t, "secret", "/", `{"find":["ssh-host-key"]}`).Check(ctx, h)} {
		if v.Result != probe.Unknown || !strings.Contains(v.Reason, "more than 30000 entries") {
			t.Errorf("%+v", v)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&m1)
	if kib := (int64(m1.HeapAlloc) - int64(m0.HeapAlloc)) >> 10; kib > 1<<10 {
		t.Errorf("%d KiB stay in memory", kib)
	}
	// Every entry a defect: still bounded.
	must(t, os.Chmod(filepath.Join(dir, "some"), 0o755|fs.ModeSetuid))
	h = probe.NewImage(c)
	probe.LimitWalk(h, limit)
	v := newCheck(t, "setuid", "/", "").Check(ctx, h)
	if v.Result != probe.Fail || len(v.Items) != probe.MaxItems || v.More != 4096-probe.MaxItems {
		t.Errorf("%s, %d items and %d more", v.Result, len(v.Items), v.More)
	}
	runtime.ReadMemStats(&m1)
	if kib := (int64(m1.HeapAlloc) - int64(m0.HeapAlloc)) >> 10; kib > 16<<10 {
		t.Errorf("%d KiB are in memory", kib)
	}
}

func TestCapabilityAttribute(t *testing.T) {
	dir := tree(t, files{"bin/ping": "#!ping", "bin/other": "#!x"})
	if err := unix.Setxattr(filepath.Join(dir, "bin/ping"), "security.capability", netRaw, 0); err != nil {
		t.Skipf("a capability cannot be set here: %v", err)
	}
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	for name, tr := range map[string]probe.Tree{"bin/ping": probe.DirTree(root), "ping": probe.SubTree(t, root, "bin")} {
		attrs := tr.(interface {
			Attr(name, attr string) ([]byte, error)
		})
		if v, err := attrs.Attr(name, "security.capability"); err != nil || string(v) != string(netRaw) {
			t.Errorf("%s: %x %v", name, v, err)
		}
		if _, err := attrs.Attr(filepath.Join(filepath.Dir(name), "other"), "security.capability"); !errors.Is(err, unix.ENODATA) {
			t.Errorf("%s: a file without one: %v", name, err)
		}
	}
}

// netRaw is the attribute of a program with cap_net_raw=ep.
var netRaw = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// BenchmarkTreeRules runs the rules that look at every file, on the root of a whole system: BACKSTAY_ROOT=DIR.
func BenchmarkTreeRules(b *testing.B) {
	dir := os.Getenv("BACKSTAY_ROOT")
	if dir == "" {
		b.Skip("set BACKSTAY_ROOT to the root of a system, for example one made with mmdebstrap")
	}
	ctx := context.Background()
	checks := []probe.Check{newCheck(b, "setuid", "/", ""), newCheck(b, "secret", "/", `{"find":["ssh-host-key"]}`)}
	b.ReportAllocs()
	for b.Loop() {
		h := host(b, dir)
		for _, c := range checks {
			c.Check(ctx, h)
		}
	}
}
