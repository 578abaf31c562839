// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/logging/client"
	"github.com/backstay/backstay/testdata/execstorm"
	"github.com/backstay/backstay/testdata/testneed"
)

// The cost of watching, in bytes and in per cent of one processor.
const (
	// A machine that runs other tests is never idle, and the tables of the sources fill.
	budgetWatching = budgetIdle + 4<<20
	// In the storm events are made, encoded and written up to the rate of the sources, and the collector of garbage has work.
	budgetStorm = budgetIdle + 24<<20
)

func TestStormHelper(t *testing.T) { execstorm.Helper(t) }

// TestExecStorm runs the agent with every source on, first with nothing to do, then while programs start as fast as this
// machine can start them, and while ten times as many are opened to be started. It says what that costs. Critical events of
// another program keep coming, and all of them have to be in the log.
func TestExecStorm(t *testing.T) {
	testneed.Native(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root: fanotify, the proc connector and the kernel's audit do")
	}
	busybox := testneed.Program(t, "busybox", "busybox-static")
	idle, storm := 3*time.Second, 3*time.Second
	if os.Getenv("BACKSTAY_LONG") == "1" {
		idle, storm = time.Minute, 30*time.Second
	}
	a := startWatcher(t)
	time.Sleep(2 * time.Second) // the first look at everything
	cpu := a.cpu(t)
	time.Sleep(idle)
	quiet, memory := a.cpu(t)-cpu, residentBytes(t, a.pid)
	t.Logf("nothing to do: %.1f MB resident, %.2f %% of a processor", float64(memory)/1e6, 100*quiet.Seconds()/idle.Seconds())
	if memory > budgetWatching {
		t.Errorf("%d bytes resident with all sources, at most %d", memory, budgetWatching)
	}

	written := a.during(t, "programs that run", storm, func() int { return forkStorm(busybox, storm) })
	dir := t.TempDir()
	written += a.during(t, "programs that are opened", storm, func() int { return execstorm.Run(t, dir, 3000, storm) })
	a.account(t, written)
}

// during lets a storm rage, and returns how many critical events the agent took meanwhile.
func (w *watcher) during(t *testing.T, what string, length time.Duration, rage func() int) int {
	t.Helper()
	cpu := w.cpu(t)
	starts := make(chan int, 1)
	go func() { starts <- rage() }()
	written, peak := w.writeCritical(t, length)
	n := <-starts
	used := w.cpu(t) - cpu
	t.Logf("storm of %s: %d in %v (%.0f a second): %.1f MB resident at most, %.0f %% of a processor; %d critical events written",
		what, n, length, float64(n)/length.Seconds(), float64(peak)/1e6, 100*used.Seconds()/length.Seconds(), written)
	if peak > budgetStorm {
		t.Errorf("%d bytes resident in the storm of %s, at most %d", peak, what, budgetStorm)
	}
	return written
}

// forkStorm starts programs for a time, four at once, each when the one before has ended. A start costs what the kernel takes
// for it: a new process shares memory with its parent until it has its own.
func forkStorm(program string, length time.Duration) int {
	var count atomic.Int64
	var workers sync.WaitGroup
	end := time.Now().Add(length)
	for range 4 {
		workers.Go(func() {
			for time.Now().Before(end) {
				p, err := os.StartProcess(program, []string{program, "true"}, &os.ProcAttr{})
				if err != nil {
					return
				}
				if _, err := p.Wait(); err == nil {
					count.Add(1)
				}
			}
		})
	}
	workers.Wait()
	return int(count.Load())
}

// watcher is a running agent with every source on.
type watcher struct {
	pid int
	dir string
	api *control.Client
}

func startWatcher(t *testing.T) *watcher {
	t.Helper()
	dir := t.TempDir()
	agent := filepath.Join(dir, "backstay")
	build(t, agent, "")
	conf := filepath.Join(dir, "config.json")
	text := fmt.Sprintf(`{"state_dir": %q, "run_dir": %q, "product": {"name": "storm", "compatible": "storm-v1"}, "baseline": {"profiles": []}}`,
		filepath.Join(dir, "state"), filepath.Join(dir, "run"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(agent, "run", "--config", conf)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it is gone then
		cmd.Wait()         //nolint:errcheck // killed
	})
	w := &watcher{pid: cmd.Process.Pid, dir: dir, api: &control.Client{Socket: filepath.Join(dir, "run/control.sock")}}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var s control.Status
		if err := w.api.Call(t.Context(), control.MethodStatus, nil, &s); err == nil {
			for _, src := range s.Audit.Sources {
				t.Logf("source %s: %s: %s", src.Name, src.State, src.Detail)
			}
			return w
		}
	}
	t.Fatalf("the agent does not answer:\n%s", stderr.Bytes())
	return nil
}

// cpu is the processor time of the agent, user and system.
func (w *watcher) cpu(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// writeCritical writes one critical event after the other, some a second, and returns how many the agent took, and the most it
// held meanwhile.
func (w *watcher) writeCritical(t *testing.T, during time.Duration) (written int, peak int64) {
	t.Helper()
	log := client.New(filepath.Join(w.dir, "run/audit.sock"))
	defer log.Close()
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(600 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := log.Write(ctx, client.Event{Code: "storm.alarm", Severity: "critical", Message: "smoke", Durable: true})
		cancel()
		if err != nil {
			t.Errorf("critical event %d: %v", written, err)
		} else {
			written++
		}
		peak = max(peak, residentBytes(t, w.pid))
	}
	return written, peak
}

// account looks into the log: every critical event is there, and the storm is. Starts of one program are told once and then
// counted, so the number of records says nothing.
func (w *watcher) account(t *testing.T, written int) {
	t.Helper()
	alarms, recorded := w.count(t)
	t.Logf("in the log: %d critical events, %d records of programs", alarms, recorded)
	if alarms != written {
		t.Errorf("%d critical events in the log, %d were acknowledged", alarms, written)
	}
	if recorded == 0 {
		t.Error("the storm was not noticed")
	}
}

func (w *watcher) count(t *testing.T) (alarms, recorded int) {
	t.Helper()
	from := uint64(0)
	for {
		var tail control.Tail
		if err := w.api.Call(t.Context(), control.MethodAuditTail, control.TailParams{From: from, Limit: control.MaxTail}, &tail); err != nil {
			t.Fatal(err)
		}
		for _, r := range tail.Items {
			from = r.Last + 1
			switch r.Code {
			case "app.storm.alarm":
				alarms++
			case "exec", "exec.writable", "log.suppressed":
				recorded++
			}
		}
		if len(tail.Items) == 0 || from >= tail.Size {
			return alarms, recorded
		}
	}
}
