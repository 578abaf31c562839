// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// processCrash is a program that the kernel says it ended.
type processCrash struct {
	reason, comm string
	pid          uint64
}

// processCrashes are the words of the kernel, on the architectures we know, and what they mean. The name and number of the
// process stand before them.
var processCrashes = [...]struct{ words, reason string }{
	{"]: segfault at ", "segfault"}, // x86, s390
	{"]: segfault (", "segfault"},   // powerpc
	{"]: unhandled signal ", "signal"},
	{"]: unhandled exception: ", "exception"},            // arm64
	{": unhandled page fault (", "segfault"},             // arm
	{"] general protection", "general protection"},       // x86
	{"] trap ", "trap"},                                  // x86
	{": potentially unexpected fatal signal ", "signal"}, // print-fatal-signals
	{"]: bad frame in ", "bad signal frame"},             // powerpc, arm64
	{" for invalid read access from", "segfault"},        // mips
	{" for invalid write access to", "segfault"},         // mips
	{"Killed process ", "out of memory"},
}

// parseProcessCrash tells whether a message of the kernel is about a program that crashed. The name in it is of the program's
// choice, at most 15 bytes.
func parseProcessCrash(text string) (c processCrash, ok bool) {
	at := -1
	words := ""
	for _, k := range processCrashes {
		if at = strings.Index(text, k.words); at >= 0 {
			c.reason, words = k.reason, k.words
			break
		}
	}
	if at < 0 {
		return processCrash{}, false
	}
	if c.reason == "out of memory" {
		if !strings.Contains(text[:at], "ut of memory") { // of the machine, or of a memory cgroup
			return processCrash{}, false
		}
		pid, rest, _ := strings.Cut(text[at+len(words):], " ")
		c.pid, _ = decimal(pid, 1<<31)
		if name, _, found := strings.Cut(strings.TrimPrefix(rest, "("), ")"); found {
			c.comm = name
		}
		return c.limited(), true
	}
	who := strings.TrimPrefix(text[:at], "traps: ")
	if words[0] == ']' {
		open := strings.LastIndexByte(who, '[')
		if open < 0 {
			return processCrash{}, false
		}
		if c.pid, ok = decimal(who[open+1:], 1<<31); !ok {
			return processCrash{}, false
		}
		who = who[:open]
	}
	c.comm = who
	if _, name, mips := strings.Cut(who, "sending SIGSEGV to "); mips {
		c.comm = name
	}
	return c.limited(), true
}

func (c processCrash) limited() processCrash {
	c.comm = c.comm[:min(len(c.comm), 64)] // 15 bytes, which the kernel may escape
	return c
}

func (c processCrash) attrs(text string) []slog.Attr {
	attrs := []slog.Attr{slog.String("message", text), slog.String("reason", c.reason)}
	if c.comm != "" {
		attrs = append(attrs, slog.String("comm", c.comm))
	}
	if c.pid != 0 {
		attrs = append(attrs, slog.Uint64("pid", c.pid))
	}
	return attrs
}

// crashBegins are the words with which the kernel reports a crash of its own, or a state it should not be in.
var crashBegins = [...]struct{ words, reason string }{
	{"Kernel panic - not syncing", "panic"},
	{"kernel BUG at ", "bug"},
	{"watchdog: BUG: ", "lockup"},
	{"BUG: ", "bug"},
	{"Internal error: ", "oops"},
	{"Oops", "oops"},
	{"Unable to handle kernel ", "oops"},
	{"Unhandled fault: ", "oops"},
	{"general protection fault", "oops"},
	{"double fault: ", "oops"},
	{"UBSAN: ", "undefined behaviour"},
	{"rcu: INFO: rcu_", "stall"},
	{"------------[ cut here ]", ""}, // what it is follows
}

// kernelCrash gathers the lines of one crash, some of which have a level that is not worth a record each.
type kernelCrash struct {
	open   bool
	reason string
	lines  []string
	count  int
	began  time.Time
}

// take reports whether the line belongs to a crash.
func (c *kernelCrash) take(text string, sink *Sink) bool {
	reason, begins := crashReason(text, c.open)
	switch {
	case begins && (!c.open || c.reason != "" && reason == ""): // another one
		c.end(sink)
		*c = kernelCrash{open: true, reason: reason, began: time.Now(), lines: c.lines[:0]}
	case !c.open:
		return false
	case begins && (c.reason == "" || c.reason == "warning" || reason == "panic"):
		c.reason = reason // the worse one
	}
	if c.count++; len(c.lines) < crashLines && text != "" {
		c.lines = append(c.lines, text[:min(len(text), crashLine)])
	}
	if strings.HasPrefix(text, "---[ end ") || c.count >= crashMax || time.Since(c.began) > crashLongest {
		c.end(sink)
	}
	return true
}

func crashReason(text string, open bool) (reason string, begins bool) {
	if strings.Contains(text, " invoked oom-killer: ") {
		return "warning", true
	}
	if open && strings.HasPrefix(text, "WARNING: ") { // anybody may warn; the kernel's own kind cuts here first
		return "warning", true
	}
	for _, k := range crashBegins {
		if strings.HasPrefix(text, k.words) {
			return k.reason, true
		}
	}
	return "", false
}

// end records the crash that is open.
func (c *kernelCrash) end(sink *Sink) {
	if !c.open {
		return
	}
	c.open = false
	code, message := "crash", "the kernel crashed or is in a state it should not be in"
	attrs := []slog.Attr{slog.String("reason", c.reason), slog.Int("lines", c.count)}
	if c.reason == "warning" || c.reason == "" {
		code, message = "kernel.message", "the kernel is in a state it should not be in"
		attrs = append(attrs, slog.String("severity", "medium"))
	}
	attrs = append(attrs, slog.String("message", message))
	for i, line := range c.lines {
		attrs = append(attrs, slog.String(fmt.Sprintf("line.%d", i+1), line))
	}
	sink.Event(code, attrs...)
}
