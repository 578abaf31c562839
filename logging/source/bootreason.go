// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/logging"
)

func bootKind() Kind {
	return Kind{
		Name: "boot", Sees: "each start of the system: its kernel, why it restarted, and whether the run before ended in order",
		Rate: logging.Rate{Per: 1, Burst: 4}, Open: openBoot,
	}
}

// bootWatcher records a boot once. It leaves a mark while it runs and takes it away when it is told to stop: a mark that is
// found at the next boot says that the run before was cut off. That the agent asks for a restart is the update's own record
// ("reboot"), so there is none here.
type bootWatcher struct {
	env    *Env
	last   bootMark
	reason string // why the system restarted, "" when nothing tells
	teller string // what told
}

// bootMark is what is kept: the boot, and whether the agent was told to stop.
type bootMark struct {
	bootID string
	ended  bool
	at     string // when it was
}

const (
	maxBootText = 128
	maxBootID   = 64
)

func parseBootMark(b []byte) (m bootMark, ok bool) {
	f := strings.Split(string(b), "\n")
	if len(f) != 4 || f[0] != "1" || f[1] == "" || len(f[1]) > maxBootID || f[2] != "running" && f[2] != "ended" {
		return m, false
	}
	return bootMark{bootID: f[1], ended: f[2] == "ended", at: cut(f[3])}, true
}

func (m bootMark) encode() []byte {
	state := "running"
	if m.ended {
		state = "ended"
	}
	return []byte("1\n" + m.bootID + "\n" + state + "\n" + m.at)
}

func openBoot(_ context.Context, env *Env) (Watcher, error) {
	if env.BootID == "" || len(env.BootID) > maxBootID || strings.ContainsAny(env.BootID, "\n") {
		return nil, fmt.Errorf("one boot cannot be told from the next: no boot id: %w", ErrUnavailable)
	}
	b, err := env.State.Load("boot")
	if err != nil {
		return nil, fmt.Errorf("open boot: %w", err)
	}
	w := &bootWatcher{env: env}
	w.last, _ = parseBootMark(b)
	w.reason, w.teller = resetReason(env)
	return w, nil
}

// Covers implements Watcher.
func (w *bootWatcher) Covers() string {
	if w.teller == "" {
		return "that the system started, and whether the run before ended in order; nothing here tells why it restarted"
	}
	return "that the system started, whether the run before ended in order, and why it restarted, from " + w.teller
}

// Close implements Watcher.
func (w *bootWatcher) Close() error { return nil }

// Run implements Watcher.
func (w *bootWatcher) Run(ctx context.Context, sink *Sink) error {
	if w.last.bootID != w.env.BootID {
		sink.Event("boot", w.attrs()...)
	}
	if err := w.mark(false); err != nil {
		return err
	}
	<-ctx.Done()
	return w.mark(true)
}

func (w *bootWatcher) mark(ended bool) error {
	m := bootMark{bootID: w.env.BootID, ended: ended, at: w.env.Now().UTC().Format(time.RFC3339)}
	if err := w.env.State.Save("boot", m.encode()); err != nil {
		return fmt.Errorf("keep mark of this boot: %w", err)
	}
	w.last = m
	return nil
}

func (w *bootWatcher) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("message", "the system started")}
	if s := shortText(w.env.Path("/proc/sys/kernel/osrelease")); s != "" {
		attrs = append(attrs, slog.String("kernel", s))
	}
	if s := shortText(w.env.Path("/proc/sys/kernel/version")); s != "" {
		attrs = append(attrs, slog.String("kernel_build", s))
	}
	// The command line may hold a key of an encrypted disk: only that it is another one is recorded.
	if b, _, err := readBounded(w.env.Path("/proc/cmdline"), 64<<10); err == nil {
		sum := sha256.Sum256(b)
		attrs = append(attrs, slog.String("cmdline_sha256", hex.EncodeToString(sum[:])))
	}
	grave := false
	if w.reason != "" {
		attrs = append(attrs, slog.String("reset_reason", w.reason), slog.String("reset_reason_from", w.teller))
		grave = slices.ContainsFunc([]string{"watchdog", "overheat", "voltage"}, func(s string) bool { return strings.Contains(w.reason, s) })
	}
	switch {
	case w.last.bootID == "":
		attrs = append(attrs, slog.String("run_before", "unknown"))
	case w.last.ended:
		attrs = append(attrs, slog.String("run_before", "ended in order"), slog.String("run_before_boot", w.last.bootID), slog.String("run_before_until", w.last.at))
	default:
		attrs = append(attrs, slog.String("run_before", "cut off"), slog.String("run_before_boot", w.last.bootID), slog.String("run_before_since", w.last.at))
		grave = true
	}
	if grave {
		attrs = append(attrs, slog.String("severity", "medium"))
	}
	return attrs
}

// shortText reads one line of printable text, "" when it is not that.
func shortText(name string) string {
	b, _, err := readBounded(name, maxBootText)
	if err != nil {
		return ""
	}
	return printable(b)
}

// printable returns a text up to its first line end or zero byte, "" when it has anything but printable ASCII.
func printable(b []byte) string {
	s, _, _ := strings.Cut(string(b[:min(len(b), maxBootText)]), "\n")
	s, _, _ = strings.Cut(s, "\x00")
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return strings.TrimSpace(s)
}

// reasonFiles are where drivers and boot loaders leave why the system restarted, as text.
var reasonFiles = [...]string{
	"/proc/device-tree/chosen/reset-reason", "/proc/device-tree/chosen/reset-cause", "/proc/device-tree/chosen/boot-reason",
	"/sys/devices/platform/*/power_on_reason", "/sys/devices/platform/*/*/power_on_reason", "/sys/devices/platform/*/*/*/power_on_reason",
	"/sys/devices/platform/*/reset_reason", "/sys/devices/platform/*/*/reset_reason",
}

// reasonWords are what boot loaders put on the kernel's command line.
var reasonWords = [...]string{"bootreason=", "androidboot.bootreason=", "reset_cause=", "reset_reason=", "bootcause="}

// resetReason finds out why the system restarted, and who says so. A watchdog's word counts most: it is the hardware's.
func resetReason(env *Env) (reason, teller string) {
	dogs, _ := filepath.Glob(env.Path("/sys/class/watchdog/*/bootstatus"))
	for _, name := range dogs[:min(len(dogs), 8)] {
		if s := bootStatus(shortText(name)); s != "" {
			return s, "watchdog"
		}
	}
	for _, pattern := range reasonFiles {
		names, _ := filepath.Glob(env.Path(pattern))
		for _, name := range names[:min(len(names), 8)] {
			if s := shortText(name); s != "" {
				return strings.ToLower(s), filepath.Base(name)
			}
		}
	}
	b, _, err := readBounded(env.Path("/proc/cmdline"), 64<<10)
	if err != nil {
		return "", ""
	}
	for word := range strings.FieldsSeq(string(b)) {
		for _, key := range reasonWords {
			if v, ok := strings.CutPrefix(word, key); ok {
				if s := printable([]byte(v)); s != "" {
					return strings.ToLower(s), "command line"
				}
			}
		}
	}
	return "", ""
}

// bootStatus reads the flags of a watchdog, as in linux/watchdog.h.
func bootStatus(s string) string {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return ""
	}
	var out []string
	for i, name := range [...]string{"overheat", "fan failure", "external relay 1", "external relay 2", "voltage too low", "watchdog", "voltage too high"} {
		if n&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return strings.Join(out, ", ")
}
