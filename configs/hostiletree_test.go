// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/testdata/testneed"
)

// The hard bounds of a check, whatever the tree: far above what it needs on an idle machine, far below what would hurt.
const (
	hostileTime = 60 * time.Second // on a machine that does other things too
	hostileCPU  = 12 * time.Second
	hostileRSS  = 64 << 20 // of the whole test process
)

// variants are the things that can be where a rule looks for a file. Each is put in place of every file of the planted tree.
var variants = map[string]func(p, out string) error{
	"fifo":      func(p, _ string) error { return syscall.Mkfifo(p, 0o666) },
	"directory": func(p, _ string) error { return os.Mkdir(p, 0o777) },
	"loop":      func(p, _ string) error { return os.Symlink(filepath.Base(p), p) },
	"sparse": func(p, _ string) error {
		f, err := os.Create(p)
		if err != nil {
			return err
		}
		return errors.Join(f.Truncate(10<<30), f.Close())
	},
	"socket": func(p, _ string) error { // bind takes short names only
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@", Net: "unix"})
		if err == nil {
			l.Close()
		}
		return syscall.Mknod(p, syscall.S_IFSOCK|0o777, 0)
	},
	"link out, absolute": func(p, out string) error { return os.Symlink(filepath.Join(out, "bait"), p) },
	"link out, relative": func(p, out string) error {
		rel, err := filepath.Rel(filepath.Dir(p), filepath.Join(out, "bait"))
		return errors.Join(err, os.Symlink(rel, p))
	},
	"device": func(p, _ string) error { return syscall.Mknod(p, syscall.S_IFCHR|0o666, 1<<8|5) }, // zero
	"noise": func(p, _ string) error {
		return os.WriteFile(p, []byte(strings.Repeat("\x00\xff\x1b[2J'\"`$(\\\r\n{#;", 20_000)), 0o666)
	},
	"one line": func(p, _ string) error { return os.WriteFile(p, []byte(strings.Repeat("a:", 400_000)), 0o666) },
	"includes itself": func(p, _ string) error {
		return os.WriteFile(p, []byte(strings.Repeat("Include /etc/*\ninclude /etc/*\n. "+"/etc/init.d/S90app\n@includedir /etc\nsource /etc/*\n", 200)), 0o777)
	},
}

// bait is what a link out of the root leads to: what nobody may read. If any finding shows it, the root was left.
const bait = "bait-4f1d"

func TestHostileInPlaceOfEveryFile(t *testing.T) {
	testneed.Native(t)
	for name, put := range variants {
		t.Run(name, func(t *testing.T) {
			if name == "device" && os.Getuid() != 0 {
				t.Skip("device nodes need root")
			}
			out := t.TempDir()
			must(t, os.WriteFile(filepath.Join(out, "bait"), []byte(bait+"::0:0::/:/bin/sh\n"), 0o666))
			before := snapshot(t, out)
			dir, _ := plant(t)
			replaced := replaceAll(t, dir, func(p string) error { return put(p, out) })
			e := engine(t, dir, load(t, configs.Profiles()...))
			ctx, cancel := context.WithTimeout(context.Background(), hostileTime)
			defer cancel()
			began := cpuTime(t)
			r, err := e.Check(ctx)
			must(t, err)
			if d := cpuTime(t) - began; d > hostileCPU {
				t.Errorf("the check took %v of a processor", d)
			}
			for _, f := range r.Findings {
				if f.Took > 500_000 {
					t.Logf("%s took %d ms", f.Rule, f.Took/1000)
				}
				noPassOn(t, name, f, replaced)
				printableFinding(t, f)
			}
			if !slices.Contains(readable, name) || os.Getenv("BACKSTAY_LONG") != "" { // a hundred files of a megabyte, several times
				_, err = e.Apply(ctx, fixableIDs(e.Policy), false)
				must(t, err)
			}
			sameTree(t, before, snapshot(t, out), "outside the root")
		})
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// readable are the variants that are files whose bytes a rule may judge.
var readable = []string{"noise", "one line", "includes itself"}

// noPassOn fails when a rule passes on the word of something that cannot be read.
func noPassOn(t *testing.T, variant string, f configs.Finding, replaced map[string]bool) {
	t.Helper()
	if f.Result != configs.Pass || slices.Contains(readable, variant) {
		return
	}
	for _, p := range f.Inspected {
		p, _, aside := strings.Cut(p, " (") // "(absent)", "(a device)": looked at, not read
		if replaced[p] && !aside && !statRules[f.Rule] {
			t.Errorf("%s passes on %s, which is a %s: %s", f.Rule, p, variant, f.Reason)
		}
	}
}

// statRules judge what a file is, not what is in it.
var statRules = map[string]bool{"file.start-scripts": true, "file.cron": true}

// printableFinding fails on a finding that could steer a terminal or is not UTF-8.
func printableFinding(t *testing.T, f configs.Finding) {
	t.Helper()
	text := []string{f.Reason, f.Expected, f.Observed, f.Implementation}
	text = append(text, f.Inspected...)
	for _, e := range f.Evidence {
		text = append(text, e.Subject, e.Where, e.Observed, e.Expected)
	}
	for _, s := range text {
		if strings.Contains(s, bait) {
			t.Errorf("%s shows what is outside the root: %q", f.Rule, s)
		}
		if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
			t.Errorf("%s says %q", f.Rule, s)
		}
		if len(s) > 4<<10 {
			t.Errorf("%s says %d bytes in one field", f.Rule, len(s))
		}
	}
}

// replaceAll puts something else in place of every file below dir, but for those that say which system it is, and returns
// their names in the root.
func replaceAll(t *testing.T, dir string, put func(p string) error) map[string]bool {
	t.Helper()
	done := map[string]bool{}
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "os-release" {
			return err
		}
		done[strings.TrimPrefix(p, dir)] = true
		return errors.Join(os.Remove(p), put(p))
	}))
	return done
}

// A tree with very many files: what was not seen whole is unknown, and memory does not grow with it.
func TestHostileNumberOfFiles(t *testing.T) {
	testneed.Native(t)
	n := 100_000
	if os.Getenv("BACKSTAY_LONG") != "" {
		n = 1_000_000
	}
	if inChild(t) {
		return
	}
	dir, _ := plant(t)
	crowd := filepath.Join(dir, "usr/share/crowd")
	for i := range n {
		if i%10_000 == 0 {
			must(t, os.MkdirAll(filepath.Join(crowd, fmt.Sprint(i/10_000)), 0o755))
		}
		must(t, syscall.Mknod(filepath.Join(crowd, fmt.Sprint(i/10_000), fmt.Sprintf("f\x1b%d", i)), syscall.S_IFREG|0o644, 0))
	}
	c := measure(t, dir)
	t.Logf("%d files: %v, peak RSS %d MiB", n, c.took.Round(time.Millisecond), c.rss>>20)
	if n > 400_000 && len(c.report.with("file.setuid", configs.Unknown)) == 0 {
		t.Error("file.setuid judges a tree that it did not see whole")
	}
}

// Directories deeper than the bound, with a defect at the bottom.
func TestHostileDepth(t *testing.T) {
	testneed.Native(t)
	if inChild(t) {
		return
	}
	dir, _ := plant(t)
	must(t, os.Remove(filepath.Join(dir, "usr/bin/helper"))) // the planted setuid program: here only the deep one is left
	home, err := os.Getwd()
	must(t, err)
	at := filepath.Join(dir, "usr/share")
	must(t, os.MkdirAll(at, 0o755))
	must(t, os.Chdir(at))
	defer os.Chdir(home)
	for range 1200 { // longer than the longest path of the kernel: each step from where it stands
		must(t, os.Mkdir("dddd", 0o755))
		must(t, os.Chdir("dddd"))
	}
	must(t, os.WriteFile("su", nil, 0o755))
	must(t, os.Chmod("su", 0o755|os.ModeSetuid))
	must(t, os.Chdir(home))
	c := measure(t, dir)
	if len(c.report.with("file.setuid", configs.Pass)) > 0 {
		t.Error("file.setuid passes on a tree that is deeper than it looks")
	}
	must(t, exec.Command("rm", "-rf", at).Run()) // deeper than t.TempDir can remove
}

// Files that grow as fast as they are read.
func TestHostileGrowth(t *testing.T) {
	testneed.Native(t)
	if inChild(t) {
		return
	}
	dir, _ := plant(t)
	stop, stopped := make(chan bool), make(chan bool)
	var grow []*os.File
	for _, name := range []string{"etc/passwd", "etc/inittab", "etc/sysctl.conf", "www/server.key", "usr/bin/app"} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		defer f.Close()
		grow = append(grow, f)
	}
	go func() {
		defer close(stopped)
		line := []byte(strings.Repeat("x:x:1:1:::\n", 400))
		for size := 0; size < 256<<20; size += len(line) {
			select {
			case <-stop:
				return
			default:
				for _, f := range grow {
					f.Write(line)
				}
			}
		}
	}()
	c := measure(t, dir)
	close(stop)
	<-stopped
	t.Logf("files that grow: %v, peak RSS %d MiB", c.took.Round(time.Millisecond), c.rss>>20)
}

type cost struct {
	report found
	took   time.Duration
	rss    int64
}

// found are the results of a child: rule and result.
type found map[string]configs.Result

func (f found) with(rule string, r configs.Result) []string {
	if f[rule] == r {
		return []string{rule}
	}
	return nil
}

const childVar = "BACKSTAY_TEST_CHECK"

// inChild checks a tree in a process of its own, which is the same test run again, so that its peak memory can be told.
func inChild(t *testing.T) bool {
	t.Helper()
	dir := os.Getenv(childVar)
	if dir == "" {
		return false
	}
	out := found{}
	for _, f := range check(t, engine(t, dir, load(t, configs.Profiles()...))).Findings {
		out[f.Rule] = f.Result
		printableFinding(t, f)
	}
	text, err := json.Marshal(out)
	must(t, err)
	// What wait4 reports is at least what the parent had, because the child begins in the parent's memory.
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	fmt.Printf("\nresults %s\n%s", text, status)
	return true
}

func measure(t *testing.T, dir string) cost {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*hostileTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), childVar+"="+dir)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	c := cost{took: time.Since(began), report: found{}}
	if err != nil {
		t.Fatalf("the check ended with %v after %v:\n%s", err, c.took, out)
	}
	for line := range strings.Lines(string(out)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Sscan(kb, &c.rss)
			c.rss <<= 10
		}
		if text, ok := strings.CutPrefix(line, "results "); ok {
			must(t, json.Unmarshal([]byte(text), &c.report))
		}
	}
	if len(c.report) == 0 || c.rss == 0 {
		t.Fatalf("no results:\n%s", out)
	}
	if c.took > hostileTime {
		t.Errorf("the check took %v", c.took)
	}
	if c.rss > hostileRSS {
		t.Errorf("the check needed %d MiB", c.rss>>20)
	}
	return c
}
