// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// trimEvery is how often the agent gives back pages of its program that nothing has used for a while.
const trimEvery = 15 * time.Minute

// collectAt is how much of the live memory may be garbage, in per cent, before it is collected. The agent makes little, so the
// runtime's 100 % costs memory and saves nothing that could be measured.
const collectAt = 50

// small makes the runtime and the kernel keep as little of this process in memory as its work allows.
func small() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	trim()
}

// settle keeps the agent small. The start needs memory for parsing, the first look of every source and the check of the log,
// and code that does not run again for hours; the runtime would keep the first for minutes and the kernel the second until
// somebody else asks for it, on a device that has little. The same holds after every full check and every look for updates.
func settle(ctx context.Context) {
	trim()
	for wait := 2 * time.Second; ; wait = trimEvery {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			debug.FreeOSMemory()
			trim()
		}
	}
}

// lean tells emit, and gives back what the check of metadata needed before a download begins, and what the download needed when
// it is done.
func lean(emit func(string, ...slog.Attr)) func(string, ...slog.Attr) {
	return func(code string, attrs ...slog.Attr) {
		emit(code, attrs...)
		if code == "update.available" || code == "update.installed" {
			debug.FreeOSMemory()
			trim()
		}
	}
}

// trim asks the kernel to drop the pages of the program and its constants. The kernel reads and maps sixteen and more at a time
// around each that is touched, so after the start nearly all of the file is resident. What is needed comes back from the file,
// then one page at a time: that costs a tenth of a second once, and saves most of the program. MADV_PAGEOUT (Linux 5.4) never
// loses what was changed, whatever the linker put into the mapping; an older kernel refuses it and nothing happens.
func trim() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if from, to, ok := programPart(lines.Text(), program); ok {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_RANDOM)
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_PAGEOUT)
		}
	}
}

// programPart reads one line of /proc/PID/maps, and reports whether it is a part of the program that is never written.
func programPart(line, program string) (from, to uintptr, ok bool) {
	f := strings.SplitN(line, " ", 6)
	if len(f) < 6 || strings.TrimLeft(f[5], " ") != program || strings.Contains(f[1], "w") {
		return 0, 0, false
	}
	low, high, _ := strings.Cut(f[0], "-")
	a, err1 := strconv.ParseUint(low, 16, strconv.IntSize)
	b, err2 := strconv.ParseUint(high, 16, strconv.IntSize)
	return uintptr(a), uintptr(b), err1 == nil && err2 == nil && a < b
}
