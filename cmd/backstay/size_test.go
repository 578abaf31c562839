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

	"github.com/backstay/backstay/testdata/testneed"
)

// The budgets, and why these numbers.
const (
	// Boards with 16 MiB of NOR flash keep two root file systems of 7 MiB, compressed about 1:3.5: an agent of 13.5 MiB takes
	// 3.9 MiB of one, a little more than half. That is the most such a board can give. The four libraries the product is made of,
	// without anything of ours, are 7.2 MB on arm; the rules, what inspects and what mends for them are 2.3 MB; every boot loader,
	// raw flash and deltas are 0.8 MB.
	budgetARM = 13<<20 + 1<<19
	// MIPS code is about a seventh larger than ARM code.
	budgetMIPS = 15<<20 + 1<<19
	// amd64 is built only to have the agent's memory without an emulator.
	budgetAMD64 = 14<<20 + 1<<19
	// On a board with 64 MiB of memory the agent may hold a quarter while every source of the audit log is open. Two thirds of
	// that are the binary's own pages, which the kernel may drop; 4.7 MB were the agent's own when this was written, 2.8 MB of
	// them without sources.
	budgetIdle = 16 << 20
	// Under an emulator we count what the agent holds more than a program that only sleeps. The emulator keeps its translation
	// of all the code that ran beside the code itself, about as much again.
	budgetEmulated = 2*budgetIdle + 2<<20
)

// TestSizeBudget builds the device binary as it is released and compares what it costs with the budget.
func TestSizeBudget(t *testing.T) {
	if os.Getenv("BACKSTAY_TEST_EMULATED") != "" {
		t.Skip("builds programs; runs on the build machine only")
	}
	for _, b := range []struct {
		name         string
		emulator     []string
		env          []string
		budget, idle int64
	}{
		{"arm v7", []string{"qemu-arm-static", "-cpu", "cortex-a7"}, []string{"GOARCH=arm", "GOARM=7"}, budgetARM, budgetEmulated},
		{"mipsle softfloat", []string{"qemu-mipsel-static", "-cpu", "24Kc"}, []string{"GOARCH=mipsle", "GOMIPS=softfloat"}, budgetMIPS, budgetEmulated},
		{"amd64", nil, []string{"GOARCH=amd64"}, budgetAMD64, budgetIdle},
	} {
		dir := t.TempDir()
		out := filepath.Join(dir, "backstay")
		build(t, out, "", b.env...)
		fi, err := os.Stat(out)
		if err != nil {
			t.Fatal(err)
		}
		how := "native"
		if b.emulator != nil {
			how = "emulated"
			b.emulator[0] = testneed.Program(t, b.emulator[0], "qemu-user-static")
		}
		idle := idleMemory(t, dir, out, b.env, b.emulator)
		t.Logf("%-16s flash %8d bytes of %d, memory when idle %8d bytes of %d (%s)", b.name, fi.Size(), b.budget, idle, b.idle, how)
		if fi.Size() > b.budget {
			t.Errorf("%s is %d bytes over its budget", b.name, fi.Size()-b.budget)
		}
		if idle > b.idle {
			t.Errorf("%s holds %d bytes more than its budget when idle", b.name, idle-b.idle)
		}
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
	cmd := exec.Command("go", "build", "-tags", "nethttpomithttp2", "-gcflags=github.com/backstay/backstay/...=-l", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= "+ldflags, "-o", out, ".")
	cmd.Env = append(os.Environ(), append([]string{"GOOS=linux", "CGO_ENABLED=0", "GOFIPS140=v1.0.0"}, env...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("build %v: %v\n%s", env, err, stderr.Bytes())
	}
	return stderr.Bytes()
}

// idleMemory returns what an agent with nothing to do holds, in bytes; under an emulator, what it holds more than a program that
// only sleeps.
func idleMemory(t *testing.T, dir, agent string, env, emulator []string) int64 {
	t.Helper()
	var base int64
	if emulator != nil {
		source, sleeper := filepath.Join(dir, "sleep.go"), filepath.Join(dir, "sleep")
		if err := os.WriteFile(source, []byte("package main\nimport \"time\"\nfunc main() { time.Sleep(time.Hour) }\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", "build", "-o", sleeper, source)
		cmd.Env = append(os.Environ(), append([]string{"GOOS=linux", "CGO_ENABLED=0"}, env...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build sleeper: %v\n%s", err, out)
		}
		base = settled(t, "", append(emulator, sleeper))
	}
	conf := filepath.Join(dir, "config.json")
	text := fmt.Sprintf(`{"state_dir": %q, "run_dir": %q, "product": {"name": "size", "compatible": "size-v1"}, "baseline": {"profiles": []}}`,
		filepath.Join(dir, "state"), filepath.Join(dir, "run"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return settled(t, filepath.Join(dir, "run/control.sock"), append(emulator, agent, "run", "--config", conf)) - base
}

// settled starts a program, waits until the file is there, and returns its resident memory once three readings in a row agree
// within 2 %.
func settled(t *testing.T, until string, argv []string) int64 {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill() //nolint:errcheck // it is gone then
		cmd.Wait()         //nolint:errcheck // killed
	}()
	var last int64
	for same, end := 0, time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		if _, err := os.Stat(until); until != "" && err != nil {
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
	t.Fatalf("%v did not settle:\n%s", argv, stderr.Bytes())
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
