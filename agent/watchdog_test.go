// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/testneed"
)

func TestTrialWithoutItsWatchdog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "watchdog")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", file, file + ".none"} {
		var said bytes.Buffer
		tried := false
		err := watchdog{path: path, logger: slog.New(slog.NewTextHandler(&said, nil))}.guard(func(context.Context) error {
			tried = true
			return nil
		})(t.Context())
		if err != nil || !tried {
			t.Errorf("%q: %v, tried %v", path, err, tried)
		}
		if got := strings.Contains(said.String(), "without the watchdog"); got != (path != "") {
			t.Errorf("%q: log %q", path, &said)
		}
	}
}

// TestWatchdogOfTheKernel runs trials under the kernel's watchdog in software, which only says that it would have restarted the
// machine: a good trial longer than its time, a bad one, and one that gets stuck. It runs in the guest of testdata/guest.
func TestWatchdogOfTheKernel(t *testing.T) {
	if !testneed.Guest() {
		t.Skip("it would restart this machine: run testdata/guest/run.sh mipsel ./agent -test.run=Watchdog")
	}
	f, err := os.Open("/lib/modules/softdog.ko")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "soft_noboot=1", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatal(err)
	}
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer kmsg.Close()
	bitten := func() bool {
		b := make([]byte, 8192)
		for {
			n, err := unix.Read(int(kmsg.Fd()), b)
			if err != nil {
				return false
			}
			if bytes.Contains(b[:n], []byte("Triggered - Reboot ignored")) {
				return true
			}
		}
	}
	w := watchdog{path: "/dev/watchdog", logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), timeout: 3, grace: 2 * time.Second}
	run := func(trial func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		return w.guard(trial)(ctx)
	}
	if err := run(func(context.Context) error { time.Sleep(7 * time.Second); return nil }); err != nil || bitten() {
		t.Fatalf("a good trial longer than the watchdog's time: %v", err)
	}
	time.Sleep(5 * time.Second)
	if bitten() {
		t.Fatal("the watchdog was not stopped after a good trial")
	}
	if err := run(func(context.Context) error { return errors.New("no link") }); err == nil {
		t.Fatal("a bad trial passed")
	}
	for end := time.Now().Add(40 * time.Second); !bitten(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a device that does not restart after a bad trial is not restarted")
		}
	}
}
