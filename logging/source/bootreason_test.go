// SPDX-License-Identifier: Apache-2.0

package source

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

func TestBootIsRecordedOnce(t *testing.T) {
	root := tree(t, map[string]string{
		"proc/sys/kernel/osrelease": "6.6.30\n", "proc/cmdline": "root=/dev/mmcblk0p2 luks.key=topsecret\n",
		"sys/class/watchdog/watchdog0/bootstatus": "0\n", "sys/class/watchdog/watchdog1/bootstatus": "32\n",
	})
	env := testEnv(t, root)
	boot := func(id string, kill bool) []logging.Event {
		t.Helper()
		env.BootID = id
		w := observe(t, bootKind(), env)
		for env.State.(*memory).saves == 0 || !strings.Contains(string(env.State.(*memory).get("boot")), "running") {
			time.Sleep(time.Millisecond)
		}
		running := env.State.(*memory).get("boot")
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		if kill {
			_ = env.State.Save("boot", running)
		}
		return w.of("boot")
	}
	got := boot("one", false)
	if len(got) != 1 || attr(t, got[0], "run_before") != "unknown" || attr(t, got[0], "kernel") != "6.6.30" || attr(t, got[0], "reset_reason") != "watchdog" {
		t.Fatalf("%+v", got)
	}
	if s := attr(t, got[0], "cmdline_sha256"); s != sumOf("root=/dev/mmcblk0p2 luks.key=topsecret\n") {
		t.Error(s)
	}
	if got := boot("one", false); len(got) != 0 {
		t.Errorf("the agent started again: %+v", got)
	}
	write(t, root+"/sys/class/watchdog/watchdog1/bootstatus", "0\n")
	if got = boot("two", true); len(got) != 1 || attr(t, got[0], "run_before") != "ended in order" || attr(t, got[0], "run_before_boot") != "one" || got[0].Severity != logging.SeverityDefault {
		t.Errorf("%+v", got)
	}
	if got = boot("three", false); len(got) != 1 || attr(t, got[0], "run_before") != "cut off" || got[0].Severity != logging.SeverityMedium {
		t.Errorf("%+v", got)
	}
}

func (m *memory) get(name string) []byte { b, _ := m.Load(name); return b }

func TestResetReason(t *testing.T) {
	for _, c := range []struct {
		files          map[string]string
		reason, teller string
	}{
		{nil, "", ""},
		{map[string]string{"sys/class/watchdog/watchdog0/bootstatus": "0x21\n"}, "overheat, watchdog", "watchdog"},
		{map[string]string{"sys/class/watchdog/watchdog0/bootstatus": "0\n", "proc/cmdline": "a=b bootreason=Power-On x"}, "power-on", "command line"},
		{map[string]string{"proc/device-tree/chosen/reset-reason": "POR\x00"}, "por", "reset-reason"},
		{map[string]string{"proc/device-tree/chosen/reset-reason": "\x01\x02\x03\x04"}, "", ""},
		{map[string]string{"sys/devices/platform/ahb/fffffe00.rstc/power_on_reason": "software reset\n"}, "software reset", "power_on_reason"},
		{map[string]string{"proc/cmdline": "bootreason=" + strings.Repeat("x", 1000)}, strings.Repeat("x", maxBootText), "command line"},
		{map[string]string{"sys/class/watchdog/watchdog0/bootstatus": "many"}, "", ""},
	} {
		reason, teller := resetReason(testEnv(t, tree(t, c.files)))
		if reason != c.reason || teller != c.teller {
			t.Errorf("%v: %q from %q, want %q from %q", c.files, reason, teller, c.reason, c.teller)
		}
	}
}

func FuzzBootMark(f *testing.F) {
	f.Add(bootMark{bootID: "x", ended: true, at: "2026-11-25T00:00:00Z"}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parseBootMark(b)
		if !ok {
			return
		}
		if again, ok := parseBootMark(m.encode()); !ok || again != m {
			t.Errorf("%+v, %+v", m, again)
		}
	})
}

func FuzzBootText(f *testing.F) {
	f.Add([]byte("power-on\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := printable(b); len(s) > maxBootText {
			t.Errorf("%d bytes", len(s))
		}
		_ = bootStatus(string(b))
	})
}

// The real files of this machine.
func TestBootOfThisMachine(t *testing.T) {
	env := testEnv(t, "/")
	w := observe(t, bootKind(), env)
	e := w.eventually(t, "boot", nil)
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if k := attr(t, e, "kernel"); k != unix.ByteSliceToString(u.Release[:]) && os.Getenv("BACKSTAY_TEST_EMULATED") == "" {
		t.Errorf("kernel %q, want %q", k, unix.ByteSliceToString(u.Release[:]))
	}
	t.Logf("%+v", e.Attrs)
}
