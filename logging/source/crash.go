// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/backstay/backstay/logging"
)

// Bounds of what is read.
const (
	pstoreDir   = "/sys/fs/pstore"
	maxCrashes  = 32       // records looked at in one start
	maxCrash    = 64 << 10 // bytes of one record
	pstoreLines = 12       // in the event
	crashText   = 480
	maxTold     = 128 // records remembered as reported
	crashWait   = 2 * time.Second
	crashTries  = 5
)

func crashKind() Kind {
	return Kind{
		Name: "crash", Sees: "what the kernel kept of its last crash (pstore)",
		Rate: logging.Rate{Per: 1, Burst: maxCrashes}, Open: openCrash,
	}
}

// crashWatcher reports each record of pstore once. It never removes one: that is for whoever examines the device, or for
// systemd-pstore, which moves them to a directory that is looked at too.
type crashWatcher struct {
	env  *Env
	told []string // digests of records that were reported, oldest first
}

// archives are where records are moved to.
var archives = [...]string{pstoreDir, "/var/lib/systemd/pstore"}

func openCrash(_ context.Context, env *Env) (Watcher, error) {
	if _, err := os.Stat(env.Path(pstoreDir)); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("kernel without CONFIG_PSTORE: %w", ErrUnavailable)
	}
	if _, err := os.ReadDir(env.Path(pstoreDir)); errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("no right to read %s: %w", pstoreDir, ErrUnavailable)
	}
	if records, _ := recordsIn(env.Path(pstoreDir)); len(records) == 0 && pstoreBackend(env) == "" {
		return nil, fmt.Errorf("pstore has no memory to keep records in (no ramoops, EFI or ERST): %w", ErrUnavailable)
	}
	b, err := env.State.Load("crash")
	if err != nil {
		return nil, fmt.Errorf("open crashes: %w", err)
	}
	c := &crashWatcher{env: env}
	for s := range strings.FieldsSeq(string(b)) {
		if len(s) == digestText && len(c.told) < maxTold {
			c.told = append(c.told, s)
		}
	}
	return c, nil
}

// digestText is the length of a remembered digest.
const digestText = 16

// pstoreBackend names the driver that keeps records, "" when there is none.
func pstoreBackend(env *Env) string {
	b, _ := os.ReadFile(env.Path("/sys/module/pstore/parameters/backend"))
	if s := strings.TrimSpace(string(b)); s != "(null)" {
		return cut(s)
	}
	return ""
}

// Covers implements Watcher.
func (c *crashWatcher) Covers() string {
	return "records of the kernel's last crashes, kept by " + pstoreBackend(c.env)
}

// Close implements Watcher.
func (c *crashWatcher) Close() error { return nil }

// Run implements Watcher. Records appear when the kernel starts; the file system may be mounted, and the store loaded, a little
// later than the agent starts.
func (c *crashWatcher) Run(ctx context.Context, sink *Sink) error {
	for try := 0; ; try++ {
		if err := c.report(sink); err != nil {
			return err
		}
		if try == crashTries {
			<-ctx.Done()
			return nil
		}
		if !sleep(ctx, crashWait<<try) {
			return nil
		}
	}
}

// report records what was not reported yet.
func (c *crashWatcher) report(sink *Sink) error {
	told := len(c.told)
	left := maxCrashes
	for _, dir := range archives {
		names, err := recordsIn(c.env.Path(dir))
		if err != nil {
			return err
		}
		for _, name := range names {
			if left--; left < 0 {
				sink.Lost(0, "more crash records than are looked at")
				break
			}
			b, whole, err := readBounded(name, maxCrash)
			if err != nil || len(b) == 0 {
				continue
			}
			sum := sha256.Sum256(b)
			id := hex.EncodeToString(sum[:])
			if slices.Contains(c.told, id[:digestText]) {
				continue
			}
			c.told = append(c.told, id[:digestText])
			sink.Event("crash", crashAttrs(filepath.Base(name), b, id, whole)...)
		}
	}
	if len(c.told) == told {
		return nil
	}
	c.told = c.told[max(0, len(c.told)-maxTold):]
	if err := c.env.State.Save("crash", []byte(strings.Join(c.told, "\n"))); err != nil {
		return fmt.Errorf("keep reported crashes: %w", err)
	}
	return nil
}

// recordsIn lists the records in a directory and one below: systemd-pstore makes a directory for each crash.
func recordsIn(dir string) ([]string, error) {
	var out []string
	list, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read crashes: %w", err)
	}
	for _, e := range list {
		name := filepath.Join(dir, e.Name())
		if e.Type().IsRegular() {
			out = append(out, name)
			continue
		}
		below, _ := os.ReadDir(name)
		for _, b := range below[:min(len(below), maxCrashes)] {
			if b.Type().IsRegular() {
				out = append(out, filepath.Join(name, b.Name()))
			}
		}
		if len(out) > 4*maxCrashes {
			break
		}
	}
	return out, nil
}

func crashAttrs(name string, b []byte, sum string, whole bool) []slog.Attr {
	kind, reason, text := parseCrash(name, b)
	message := "the kernel crashed"
	switch kind {
	case "console":
		message = "what the kernel printed before the last restart was kept"
	case "pmsg":
		message = "what programs kept before the last restart"
	}
	attrs := []slog.Attr{slog.String("message", message), slog.String("record", cut(name)), slog.String("kind", kind), slog.String("sha256", sum), slog.Int("size", len(b))}
	if reason != "" {
		attrs = append(attrs, slog.String("reason", reason))
	} else if kind != "dmesg" {
		// Such a record is there after every warm restart.
		attrs = append(attrs, slog.String("severity", "info"), slog.String("outcome", "success"))
	}
	if !whole {
		attrs = append(attrs, slog.Bool("cut", true))
	}
	return append(attrs, slog.String("text", text))
}

// crashMarks are how the kernel begins to tell why it crashed.
var crashMarks = [...]string{
	"Kernel panic - not syncing: ", "Unable to handle kernel ", "BUG: ", "kernel BUG at ", "Internal error: ", "Oops: ", "general protection fault",
	"watchdog: BUG: ", "Out of memory and no killable processes",
}

// parseCrash tells what a record is from its name and content: "dmesg-ramoops-0", whose first line is "Panic#1 Part1".
func parseCrash(name string, b []byte) (kind, reason, text string) {
	kind, _, _ = strings.Cut(name, "-")
	kind = cut(kind)
	var lines []string
	from := -1
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		for _, mark := range crashMarks {
			if i := strings.Index(line, mark); i >= 0 {
				if reason == "" {
					from = len(lines)
				}
				// A panic is the last word, and it names the cause of the others.
				if reason == "" || strings.HasPrefix(mark, "Kernel panic") {
					reason = cut(line[i:])
				}
				break
			}
		}
		lines = append(lines, line)
		if len(lines) > 4096 {
			break
		}
	}
	if from < 0 { // the end says most
		from = max(0, len(lines)-pstoreLines)
		if kind == "dmesg" && len(lines) > 0 {
			reason, _, _ = strings.Cut(lines[0], "#") // "Panic", "Oops"
			reason = cut(reason)
		}
	}
	text = strings.Join(lines[from:min(from+pstoreLines, len(lines))], "\n")
	return kind, reason, text[:min(len(text), crashText)]
}
