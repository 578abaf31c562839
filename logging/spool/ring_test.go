// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// records decodes everything the log has.
func records(t testing.TB, l *spool.Log) (out []logging.Record) {
	t.Helper()
	for leaf, err := range l.From(t.Context(), l.State().Pruned) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := logging.DecodeLeaf(leaf.Body)
		if err != nil && !leaf.Shed() {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func attr(t testing.TB, r logging.Record, name string) int {
	t.Helper()
	s, ok := r.Attr(name)
	n, err := strconv.Atoi(s)
	if !ok || err != nil {
		t.Errorf("%s has no number %s: %q", r.Code, name, s)
	}
	return n
}

// A store that cannot be written loses events only beyond a bound, and counts each. When it works again, the first record
// says that it failed, then comes what was lost, then what waited, in order, and the last record says how many.
func TestEventsWaitWhileWritingFails(t *testing.T) {
	eachStore(t, func(t *testing.T) {
		b := newBench(t)
		fail := false
		l, err := spool.OpenWithFuse(b.cfg, func(e spool.Effect) (bool, error) {
			if fail {
				return false, syscall.EROFS
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		fail = true
		retry := 0
		for i := range 1100 {
			if errors.Is(l.Append(t.Context(), ordinary(i)), logging.ErrRetry) {
				retry++
			}
		}
		s := l.State()
		if s.Pending+int(s.Lost) != 1100 || s.Pending < 300 || retry != int(s.Lost) {
			t.Errorf("state = %+v, %d times ErrRetry", s, retry)
		}
		if !strings.Contains(s.Failed, "read-only") || s.FailedSince.IsZero() {
			t.Errorf("state = %+v", s)
		}
		// A critical event takes the place of the oldest ordinary one, which is counted.
		if err := l.Append(t.Context(), critical(7)); err == nil {
			t.Error("no error while the store fails")
		}
		if now := l.State(); now.Pending+int(now.Lost) != 1101 || now.Lost <= s.Lost {
			t.Errorf("state = %+v, before %+v", now, s)
		}
		s = l.State()
		fail = false
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := records(t, l)[1:]
		if n := len(got); n != s.Pending+3 || got[0].Code != "audit.failed" || got[1].Code != "log.gap" || got[n-2].Code != "update.installed" || got[n-1].Code != "audit.restored" {
			t.Fatalf("%d records, %s, %s ... %s, %s", n, got[0].Code, got[1].Code, got[n-2].Code, got[n-1].Code)
		}
		if n := attr(t, got[1], "count"); n != int(s.Lost) {
			t.Errorf("log.gap counts %d, lost were %d", n, s.Lost)
		}
		last := got[len(got)-1]
		if attr(t, last, "count") != s.Pending || attr(t, last, "lost") != int(s.Lost) || attr(t, last, "lost_critical") != 0 {
			t.Errorf("audit.restored = %+v", last)
		}
		for i, r := range got[2 : len(got)-2] {
			if i > 0 && number(t, r) != number(t, got[i+1])+1 {
				t.Errorf("event %d comes after %d", number(t, r), number(t, got[i+1]))
			}
		}
		if now := l.State(); now.Failed != "" || now.Lost != 0 || now.Pending != 0 {
			t.Errorf("state = %+v", now)
		}
		report, err := l.Verify(t.Context())
		if err != nil || len(report.Gaps) != 1 || report.Gaps[0].Code != "log.gap" {
			t.Errorf("gaps = %+v, %v", report.Gaps, err)
		}
	})
}

func number(t testing.TB, r logging.Record) int {
	t.Helper()
	_, rest, _ := strings.Cut(r.Message, "number ")
	digits, _, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The memory for waiting events is bounded whatever is in them.
func TestRingIsBounded(t *testing.T) {
	b := newBench(t)
	fail := false
	l, err := spool.OpenWithFuse(b.cfg, func(e spool.Effect) (bool, error) { return !fail, map[bool]error{true: syscall.EIO}[fail] })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fail = true
	huge := strings.Repeat("x", 1<<20)
	for range 100 {
		e := critical(0)
		e.Message, e.Subject = huge, huge
		for range 100 {
			e.Attrs = append(e.Attrs, logging.Attr{Name: "n", Value: huge})
		}
		l.Append(t.Context(), e)
	}
	s := l.State()
	if s.Pending < 1 || s.Pending > 4 || s.Pending+int(s.Lost) != 100 {
		t.Errorf("state = %+v", s)
	}
	fail = false
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range records(t, l) {
		if r.Code == "update.installed" && !r.Truncated {
			t.Error("a record does not say that it was cut")
		}
	}
}

// mountFlash mounts a small file system.
func mountFlash(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount: %v (needs CAP_SYS_ADMIN)", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// Flash that is full of something else: events wait, and go into the log in order as soon as there is room.
func TestDiskFull(t *testing.T) {
	eachStore(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Dir = filepath.Join(mountFlash(t), "audit")
		l := b.open()
		ballast := filepath.Join(filepath.Dir(b.cfg.Dir), "ballast")
		if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		var err error
		sent := 0
		for ; err == nil && sent < 200; sent++ {
			err = l.Append(t.Context(), critical(sent))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("error = %v", err)
		}
		for range 5 {
			l.Append(t.Context(), critical(sent))
			sent++
		}
		if s := l.State(); s.Pending != 6 || s.Failed == "" || s.Lost != 0 {
			t.Errorf("state = %+v", s)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(t.Context(), critical(sent)); err != nil {
			t.Fatal(err)
		}
		l = b.reopen(l)
		n := 0
		for _, r := range records(t, l) {
			if r.Code == "update.installed" {
				if r.Message != critical(n).Message {
					t.Errorf("event %d is %q", n, r.Message)
				}
				n++
			}
		}
		if n != sent+1 || codes(t, l)["audit.restored"] != 1 || l.State().Origin.Epoch != 1 {
			t.Errorf("%d of %d events, %v", n, sent+1, codes(t, l))
		}
		if _, err := l.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Flash that comes up read-only: the log begins in memory, and continues the old one when flash can be written.
func TestReadOnlyAtStart(t *testing.T) {
	eachStore(t, func(t *testing.T) {
		b := newBench(t)
		flash := mountFlash(t)
		b.cfg.Dir = filepath.Join(flash, "audit")
		l := b.open()
		fillLog(t, l, 20)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		remount := func(flags uintptr) {
			t.Helper()
			if err := unix.Mount("tmpfs", flash, "tmpfs", unix.MS_REMOUNT|flags, "size=1m"); err != nil {
				t.Fatal(err)
			}
		}
		remount(unix.MS_RDONLY)
		l = b.open()
		if err := l.Append(t.Context(), critical(0)); !errors.Is(err, syscall.EROFS) {
			t.Errorf("error = %v", err)
		}
		if s := l.State(); !strings.Contains(s.Failed, "read-only") || s.Pending != 1 {
			t.Errorf("state = %+v", s)
		}
		remount(0)
		if err := l.Append(t.Context(), critical(1)); err != nil {
			t.Fatal(err)
		}
		n := codes(t, l)
		if s := l.State(); s.Origin.Epoch != 1 || n["net.listen"] != 20 || n["update.installed"] != 2 || n["audit.failed"] != 1 || n["audit.restored"] != 1 {
			t.Errorf("state = %+v, records %v", s, n)
		}
	})
}

// Critical events that waited when the power went are found where they were also written, once.
func TestLastResort(t *testing.T) {
	eachStore(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.LastResort = filepath.Join(t.TempDir(), "pmsg0")
		b.cfg.Remains = filepath.Join(t.TempDir(), "pmsg-ramoops-0")
		if err := os.WriteFile(b.cfg.LastResort, []byte("\x00\xffgarbage without an end"), 0o600); err != nil {
			t.Fatal(err)
		}
		fail := false
		l, err := spool.OpenWithFuse(b.cfg, func(e spool.Effect) (bool, error) { return !fail, map[bool]error{true: syscall.EIO}[fail] })
		if err != nil {
			t.Fatal(err)
		}
		fail = true
		l.Append(t.Context(), critical(0)) // comes back with the store
		fail = false
		if err := l.Append(t.Context(), critical(1)); err != nil {
			t.Fatal(err)
		}
		fail = true
		l.Append(t.Context(), critical(2)) // does not
		l.Append(t.Context(), ordinary(3))
		l.Append(t.Context(), critical(4))
		l.Close()
		reset := func() {
			t.Helper()
			data, err := os.ReadFile(b.cfg.LastResort)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(b.cfg.Remains, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		reset()
		l = b.open()
		got := records(t, l)
		var texts []string
		for _, r := range got {
			if r.Code == "update.installed" {
				texts = append(texts, strings.TrimPrefix(r.Message, "installed release "))
			}
		}
		if strings.Join(texts, " ") != "1.0.0 1.0.1 1.0.2 1.0.4" {
			t.Errorf("events = %v", texts)
		}
		if n := codes(t, l)["audit.restored"]; n != 2 {
			t.Errorf("%d audit.restored records", n)
		}
		if _, err := os.Stat(b.cfg.Remains); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the remains are still there: %v", err)
		}
		// Another device's, and lines that were changed, count for nothing.
		data, err := os.ReadFile(b.cfg.LastResort)
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.ReplaceAll(data, []byte("installed release"), []byte("installed nothing"))
		if err := os.WriteFile(b.cfg.Remains, data, 0o600); err != nil {
			t.Fatal(err)
		}
		before := l.Size()
		l = b.reopen(l)
		if l.Size() != before {
			t.Errorf("%d records were taken from what was changed", l.Size()-before)
		}
	})
}

func FuzzRemains(f *testing.F) {
	f.Add([]byte("x backstay-audit 00000000 {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) { spool.ParseRemains(data, "device") })
}
