// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/testneed"
)

// TestClockStepOfTheKernel sets the clock to what it shows: the kernel reports that as any other step, and nobody else on this
// machine notices. What the watcher believes the clock to be is moved instead.
func TestClockStepOfTheKernel(t *testing.T) {
	testneed.Native(t)
	c, err := openClock(t.Context(), testEnv(t, "/"))
	if err != nil {
		t.Fatal(err)
	}
	const step = 90 * time.Minute
	c.(*clockWatcher).base += step // so that the clock seems to have been set back
	w := runWatcher(t, c)
	time.Sleep(50 * time.Millisecond)
	if n := len(w.of("time.step")); n != 0 {
		t.Fatalf("%d steps before the clock was set", n)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &ts); err != nil {
		t.Fatal(err)
	}
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); errors.Is(err, unix.EPERM) {
		t.Skip("set clock:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	e := w.eventually(t, "time.step", nil)
	d, err := time.ParseDuration(attr(t, e, "step"))
	if err != nil || (d+step).Abs() > time.Second || e.Severity.String() != "medium" {
		t.Errorf("step %s, %v: %+v", d, err, e)
	}
	from, err1 := time.Parse(time.RFC3339, attr(t, e, "from"))
	to, err2 := time.Parse(time.RFC3339, attr(t, e, "to"))
	if err1 != nil || err2 != nil || (from.Sub(to)-step).Abs() > time.Second || time.Since(to).Abs() > 10*time.Second {
		t.Errorf("from %s to %s", from, to)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(w.of("time.step")); n != 1 {
		t.Errorf("%d steps, want 1", n)
	}
}

func TestClockSteps(t *testing.T) {
	var rec recorded
	var wall, boot time.Duration
	wall, boot = 1e9*time.Second, 1000*time.Second
	c := &clockWatcher{sys: clockSystem{wall: func() (time.Duration, error) { return wall, nil }, boot: func() (time.Duration, error) { return boot, nil }}}
	c.base = wall - boot
	sink := testSink(&rec)
	move := func(passed, step time.Duration) {
		boot += passed
		wall += passed + step
		if err := c.step(sink); err != nil {
			t.Fatal(err)
		}
	}
	move(time.Hour, 100*time.Millisecond)
	move(time.Hour, 300*time.Millisecond)
	if len(rec.list) != 0 {
		t.Fatalf("small steps: %+v", rec.list)
	}
	move(time.Hour, 200*time.Millisecond) // together they count
	move(time.Hour, -time.Hour)
	move(time.Hour, 0)
	if len(rec.list) != 2 || attr(t, rec.list[0], "step") != "600ms" || attr(t, rec.list[1], "step") != "-1h0m0s" {
		t.Errorf("%+v", rec.list)
	}
}

func TestClockSynchronisation(t *testing.T) {
	var rec recorded
	var now adjustment
	c := &clockWatcher{sys: clockSystem{adjust: func() (adjustment, error) { return now, nil }}}
	sink := testSink(&rec)
	for _, a := range []adjustment{{false, 16 * time.Second}, {false, 16 * time.Second}, {true, 5 * time.Millisecond}, {true, 6 * time.Millisecond}, {true, 2 * time.Second}, {false, 0}} {
		now = a
		if err := c.synchronised(sink); err != nil {
			t.Fatal(err)
		}
	}
	got := ""
	for _, e := range rec.list {
		got += e.Code + " " + attr(t, e, "state") + ", "
	}
	if want := "time.unsynced unsynced, time.synced synced, time.unsynced uncertain, time.unsynced unsynced, "; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if _, err := kernelClock().adjust(); err != nil {
		t.Error(err)
	}
}
