// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The budgets, and why these numbers.
const (
	// Boards with 16 MiB of NOR flash keep two root file systems of 7 MiB, compressed about 1:3.5: an agent of 8 MiB takes
	// 2.3 MiB of one. The four libraries the product is made of, without anything of ours, are 7.2 MB on arm.
	budgetARM = 10 << 20
	// MIPS code is about an eighth larger than ARM code.
	budgetMIPS = 11 << 20
	// On a board with 64 MiB of memory the agent may hold a quarter while idle. Most of it is the binary's own pages, which the
	// kernel may drop. Measured on a native 32-bit build: an emulator adds its own 20 MiB.
	budgetIdleRSS = 16 << 20
)

// TestSizeBudget builds the device binary as it is released and compares what it costs with the budget.
func TestSizeBudget(t *testing.T) {
	dir := t.TempDir()
	for _, b := range []struct {
		name   string
		env    []string
		budget int64
	}{
		{"arm v7", []string{"GOARCH=arm", "GOARM=7"}, budgetARM},
		{"mipsle softfloat", []string{"GOARCH=mipsle", "GOMIPS=softfloat"}, budgetMIPS},
	} {
		out := filepath.Join(dir, "backstay")
		build(t, out, "", b.env...)
		fi, err := os.Stat(out)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%-18s %9d bytes of flash, budget %9d", b.name, fi.Size(), b.budget)
		if fi.Size() > b.budget {
			t.Errorf("%s is %d bytes over its budget", b.name, fi.Size()-b.budget)
		}
	}
	rss := idleRSS(t, dir)
	t.Logf("%-18s %9d bytes resident when idle, budget %9d", "32-bit x86", rss, int64(budgetIdleRSS))
	if rss > budgetIdleRSS {
		t.Errorf("idle memory is %d bytes over its budget", rss-budgetIdleRSS)
	}
}

// TestLinkerDropsUnusedMethods fails when something linked uses reflection by method name: the linker then keeps every exported
// method of every type, a third of the binary.
func TestLinkerDropsUnusedMethods(t *testing.T) {
	dump := build(t, filepath.Join(t.TempDir(), "backstay"), "-dumpdep", "GOARCH=arm", "GOARM=7")
	if !bytes.Contains(dump, []byte("main.main")) {
		t.Fatal("the linker printed no dependencies")
	}
	for line := range bytes.Lines(dump) {
		if bytes.Contains(line, []byte("<ReflectMethod>")) {
			t.Errorf("uses reflection by method name: %s", line)
		}
	}
}

func build(t *testing.T, out, ldflags string, env ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= "+ldflags, "-o", out, ".")
	cmd.Env = append(os.Environ(), append([]string{"GOOS=linux", "CGO_ENABLED=0", "GOFIPS140=v1.0.0"}, env...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("build %v: %v\n%s", env, err, stderr.Bytes())
	}
	return stderr.Bytes()
}

// idleRSS starts the agent as a native 32-bit program with a configuration that gives it nothing to do, and returns what it holds
// once it has settled, in bytes.
func idleRSS(t *testing.T, dir string) int64 {
	t.Helper()
	bin := filepath.Join(dir, "backstay-386")
	build(t, bin, "", "GOARCH=386")
	conf := filepath.Join(dir, "config.json")
	text := fmt.Sprintf(`{"state_dir": %q, "run_dir": %q, "product": {"name": "size", "compatible": "size-v1"}, "baseline": {"profiles": []}}`,
		filepath.Join(dir, "state"), filepath.Join(dir, "run"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "run", "--config", conf)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill() //nolint:errcheck // it is gone then
		cmd.Wait()         //nolint:errcheck // killed
	}()
	// Settled: it answers, and three readings in a row agree within 2 %.
	var last int64
	for same, end := 0, time.Now().Add(20*time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "run/control.sock")); err != nil {
			continue
		}
		now := residentBytes(t, cmd.Process.Pid)
		if now > 0 && abs(now-last) <= now/50 {
			if same++; same == 3 {
				return now
			}
		} else {
			same = 0
		}
		last = now
	}
	t.Fatalf("the agent did not settle:\n%s", stderr.Bytes())
	return 0
}

func residentBytes(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if kb, ok := strings.CutPrefix(s.Text(), "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(kb, "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	return 0
}

func abs(n int64) int64 { return max(n, -n) }
