// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
	"github.com/backstay/backstay/testdata/testneed"
	"github.com/backstay/backstay/update"
)

func TestClockIsNeverBehindItsFloor(t *testing.T) {
	release := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	synctest.Test(t, func(t *testing.T) { // the bubble's clock starts in the year 2000
		c := NewClock(release)
		c.synced = func() bool { return true }
		if now, q := c.Read(); now.Before(release) || q != logging.QualityNone {
			t.Fatalf("before any metadata: %s, %s", now, q)
		}
		signed := release.Add(48 * time.Hour)
		c.Raise(signed)
		c.Raise(release) // an older one changes nothing
		time.Sleep(time.Hour)
		if now, q := c.Read(); !now.Equal(signed.Add(time.Hour)) || q != logging.QualitySigned || !c.Late() {
			t.Fatalf("an hour after signed metadata: %s, %s", now, q)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := NewClock(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC))
		c.synced = func() bool { return false }
		if now, q := c.Read(); !now.Equal(time.Now().Round(0).UTC()) || q != logging.QualityRTC || c.Late() {
			t.Fatalf("clock ahead of the floor: %s, %s", now, q)
		}
	})
}

// kept is a log in memory.
type kept struct{ events []logging.Event }

func (k *kept) Append(_ context.Context, e ...logging.Event) error {
	k.events = append(k.events, e...)
	return nil
}

func TestEventsBeforeTheLogAreNotLost(t *testing.T) {
	r := &recorder{clock: NewClock(time.Time{}), logger: slog.New(slog.DiscardHandler), bootID: "b1", device: "cam", firmware: "1.0.0"}
	r.emit("identity.born")
	var log kept
	r.start(&log)
	r.emit("agent.start", slog.String("version", "x"))
	if len(log.events) != 2 || log.events[0].Code != "identity.born" || log.events[1].Code != "agent.start" {
		t.Fatalf("log has %+v", log.events)
	}
	if e := log.events[0]; e.BootID != "b1" || e.Device != "cam" || e.Firmware != "1.0.0" || e.Time.IsZero() || e.Monotonic == 0 {
		t.Fatalf("not stamped: %+v", e)
	}
}

func TestBootID(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cmdline")
	if err := os.WriteFile(file, []byte("quiet backstay.slot=A backstay.boot=seven\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if id := bootID(file); id != "seven" {
		t.Fatalf("boot id %q", id)
	}
	if id := bootID(file + ".absent"); len(id) < 32 {
		t.Fatalf("the kernel's boot id is %q", id)
	}
}

func TestHealthWaitsForAServiceAndGivesUpWithItsReason(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	late := filepath.Join(t.TempDir(), "ready")
	second := config.Duration(time.Second)
	connected := false
	h := health{connected: func() bool { return connected }, checks: []config.Health{
		{Kind: "tcp", Addr: l.Addr().String(), Timeout: second},
		{Name: "service", Kind: "file", Path: late, Timeout: second},
	}}
	go func() {
		time.Sleep(50 * time.Millisecond)
		os.WriteFile(late, nil, 0o600) //nolint:errcheck // the check fails then
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.run(ctx); err != nil {
		t.Fatalf("a service that came late: %v", err)
	}
	h.checks = []config.Health{{Name: "broker", Kind: "mqtt", Timeout: second}}
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if err := h.run(short); err == nil || !strings.Contains(err.Error(), "health check broker: the audit broker is not connected") {
		t.Fatalf("a broker that is away: %v", err)
	}
	connected = true
	if err := h.run(ctx); err != nil {
		t.Fatalf("a broker that is there: %v", err)
	}
}

// TestHealthOfThisMachine asks each kind that looks at the machine itself for something it has and something it has not.
func TestHealthOfThisMachine(t *testing.T) {
	testneed.Native(t) // the program that runs is the emulator
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	level := filepath.Join(t.TempDir(), "level")
	if err := os.WriteFile(level, []byte("-7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var h health
	for _, c := range []struct {
		check config.Health
		wrong string
	}{
		{config.Health{Kind: "process", Path: me}, ""},
		{config.Health{Kind: "process", Path: level}, "no process runs " + level},
		{config.Health{Kind: "process", Path: level + ".none"}, "no such file"},
		{config.Health{Kind: "mount", Path: "/proc/"}, ""},
		{config.Health{Kind: "mount", Path: "/proc/self"}, "nothing is mounted at /proc/self"},
		{config.Health{Kind: "metric", Path: level, Min: -7, Max: -7}, ""},
		{config.Health{Kind: "metric", Path: level, Min: -6, Max: 3}, "holds -7, good is -6 to 3"},
		{config.Health{Kind: "metric", Path: level, Min: -9, Max: -8}, "holds -7, good is -9 to -8"},
		{config.Health{Kind: "metric", Path: me, Max: 1}, "no whole number"},
		{config.Health{Kind: "metric", Path: level + ".none"}, "no such file"},
	} {
		c.check.Timeout = config.Duration(time.Second)
		err := h.once(t.Context(), c.check)
		if c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s %s: %v, want %q", c.check.Kind, c.check.Path, err, c.wrong)
		}
	}
}

func TestNotifyAndWatchdog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	newNotifier().send("READY=1")
	buf := make([]byte, 64)
	l.SetReadDeadline(time.Now().Add(5 * time.Second)) //nolint:errcheck // the read fails then
	if n, err := l.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{{"", "", 0}, {"20000000", "", 10 * time.Second}, {"20000000", "1", 0}, {"-5", "", 0}, {"x", "", 0}} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		if got := watchdogPeriod(); got != c.want {
			t.Errorf("WATCHDOG_USEC=%q WATCHDOG_PID=%q: %s, want %s", c.usec, c.pid, got, c.want)
		}
	}
}

func TestGateOpensOnce(t *testing.T) {
	g := newGate()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if g.wait(ctx) {
		t.Fatal("passed a closed gate")
	}
	g.open()
	g.open()
	if !g.wait(t.Context()) {
		t.Fatal("an open gate did not let through")
	}
}

func TestAFloorThatWasWrittenMustBeThere(t *testing.T) {
	if provisioned(update.Job{}) {
		t.Error("a new device has a floor to miss")
	}
	for _, job := range []update.Job{
		{Images: map[update.SlotID]update.Image{"A": {}}}, {History: []update.Outcome{{Result: update.Committed}}},
	} {
		if !provisioned(job) {
			t.Errorf("%+v is a new device", job)
		}
	}
}

// hangup is a broker that answers Connect with an error.
type hangup struct {
	ship.Transport
	err error
}

func (h hangup) Connect(context.Context, ship.Message) (<-chan struct{}, error) { return nil, h.err }

func TestTheBrokersAnswerIsNoted(t *testing.T) {
	var told []error
	refused := errors.New("remote error: tls: bad certificate")
	for _, err := range []error{refused, nil} {
		n := noted{hangup{err: err}, func(err error) { told = append(told, err) }}
		n.Connect(t.Context(), ship.Message{}) //nolint:errcheck // what is told counts
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	noted{hangup{err: context.Canceled}, func(err error) { told = append(told, err) }}.Connect(ctx, ship.Message{}) //nolint:errcheck // as above
	if len(told) != 2 || told[0] != refused || told[1] != nil {
		t.Errorf("told %v", told)
	}
}

func TestEveryEventSaysWhyAndHidesPersons(t *testing.T) {
	r := &recorder{clock: NewClock(time.Now()), bootID: "b", hwAddr: "02:00:00:00:00:01", config: "config/0123", private: []string{"room"}}
	e := r.stamp(logging.NewEvent("exec", slog.String("source", "exec"), slog.String("room", "4711"), slog.String("subject", "alice")))
	if e.Rule != "source/exec" || e.Policy != "config/0123" || e.HWAddr == "" || e.BootID != "b" || e.Monotonic == 0 {
		t.Errorf("%+v", e)
	}
	if room, _ := e.Attr("room"); room == "4711" || e.Subject == "alice" || len(e.Side) != 2 {
		t.Errorf("personal values in the event: %+v", e)
	}
	if again := r.stamp(e); len(again.Side) != 2 || again.Subject != e.Subject {
		t.Errorf("stamped twice: %+v", again)
	}
	if e := r.stamp(logging.NewEvent("config.drift", slog.String("source", "x"), slog.String("rule", "r"), slog.String("policy", "p"))); e.Rule != "r" || e.Policy != "p" {
		t.Errorf("a rule of a policy was replaced: %+v", e)
	}
}
