// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// command runs a program to its end and measures it together with all it started.
func command(ctx context.Context, dir string, argv ...string) (sample, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	peak := watch(cmd.Process.Pid)
	err := cmd.Wait()
	s := sample{wall: time.Since(began), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), rss: peak()}
	if err != nil {
		return s, fmt.Errorf("%v: %w\n%s", argv, err, out.Bytes())
	}
	return s, nil
}

// watch follows the peak memory of a process and its descendants; the function it returns ends that and says how much the
// largest of them held. The rusage of a child is of no use: it begins with what its parent held when it forked.
func watch(pid int) func() int64 {
	stop, done := make(chan struct{}), make(chan int64)
	go func() {
		var peak int64
		for {
			peak = max(peak, peakOf(pid))
			select {
			case <-stop:
				done <- peak
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() int64 { close(stop); return <-done }
}

func peakOf(pid int) int64 {
	peak := status(pid, "VmHWM")
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(child); err == nil {
			peak = max(peak, peakOf(n))
		}
	}
	return peak
}

// status reads one number of bytes from /proc/PID/status.
func status(pid int, key string) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// cpuOf is the processor time of a process so far.
func cpuOf(pid int) time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if errors.Join(err1, err2) != nil {
		return 0
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// mappings says which parts of the address space are resident: the largest first, in KiB, with what of it is the process's own.
func mappings(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	rss, own := map[string]int{}, map[string]int{}
	name := ""
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"):
			if name = "anonymous"; len(f) >= 6 {
				name = f[5]
			}
			name = f[1] + " " + name
		case len(f) >= 2 && f[0] == "Rss:":
			n, _ := strconv.Atoi(f[1])
			rss[name] += n
		case len(f) >= 2 && f[0] == "Anonymous:":
			n, _ := strconv.Atoi(f[1])
			own[name] += n
		}
	}
	names := slices.SortedFunc(maps.Keys(rss), func(a, b string) int { return rss[b] - rss[a] })
	var out strings.Builder
	for _, n := range names {
		if rss[n] >= 32 {
			fmt.Fprintf(&out, "  %6d KiB, own %6d KiB  %s\n", rss[n], own[n], n)
		}
	}
	return out.String()
}
