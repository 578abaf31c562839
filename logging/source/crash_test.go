// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/testdata/testneed"
)

const panicRecord = `Panic#1 Part1
<6>[   12.345678] usb 1-1: new device
<1>[   20.000001] Unable to handle kernel NULL pointer dereference at virtual address 00000000
<1>[   20.000002] Internal error: Oops: 17 [#1] SMP ARM
<4>[   20.000003] CPU: 0 PID: 77 Comm: app Tainted: G           O      6.6.30 #0
<4>[   20.000004] PC is at evil_ioctl+0x1c/0x40 [evil]
<0>[   20.100000] Kernel panic - not syncing: Fatal exception
`

func TestParseCrash(t *testing.T) {
	for _, c := range []struct{ name, text, kind, reason, contains string }{
		{"dmesg-ramoops-0", panicRecord, "dmesg", "Kernel panic - not syncing: Fatal exception", "evil_ioctl"},
		{"dmesg-efi-165", "Oops#1 Part2\n<4>[1.0] something\n", "dmesg", "Oops", "something"},
		{"dmesg-ramoops-1", "Panic#2 Part1\n<0>[9.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n",
			"dmesg", "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "VFS"},
		{"console-ramoops-0", "[1.0] a\n[2.0] reboot: Restarting system\n", "console", "", "Restarting"},
		{"console-ramoops-0", "[1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 23s!\n", "console", "BUG: soft lockup - CPU#0 stuck for 23s!", "stuck"},
		{"pmsg-ramoops-0", "hello", "pmsg", "", "hello"},
		{"", "", "", "", ""},
	} {
		kind, reason, text := parseCrash(c.name, []byte(c.text))
		if kind != c.kind || reason != c.reason || !strings.Contains(text, c.contains) {
			t.Errorf("%s: %q, %q, %q", c.name, kind, reason, text)
		}
	}
	_, reason, text := parseCrash("dmesg-x", []byte(strings.Repeat("Kernel panic - not syncing: "+strings.Repeat("x", 5000)+"\n", 10)))
	if len(reason) > maxMountText || len(text) > crashText {
		t.Errorf("%d bytes of reason, %d of text", len(reason), len(text))
	}
}

func FuzzParseCrash(f *testing.F) {
	f.Add("dmesg-ramoops-0", []byte(panicRecord))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		kind, reason, text := parseCrash(name, b)
		if len(kind) > maxMountText || len(reason) > maxMountText || len(text) > crashText {
			t.Errorf("%d, %d, %d", len(kind), len(reason), len(text))
		}
	})
}

func TestCrashIsReportedOnce(t *testing.T) {
	testneed.Native(t)
	root := tree(t, map[string]string{
		"sys/fs/pstore/dmesg-ramoops-0": panicRecord, "sys/fs/pstore/console-ramoops-0": "[1.0] all well\n",
		"sys/module/pstore/parameters/backend": "ramoops\n",
	})
	env := testEnv(t, root)
	w := observe(t, crashKind(), env)
	e := w.eventually(t, "crash", is("record", "dmesg-ramoops-0"))
	if attr(t, e, "reason") != "Kernel panic - not syncing: Fatal exception" || attr(t, e, "sha256") != sumOf(panicRecord) || !e.Critical() {
		t.Errorf("%+v", e)
	}
	if e = w.eventually(t, "crash", is("record", "console-ramoops-0")); e.Severity.String() != "info" {
		t.Errorf("%+v", e)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	// Moved away by systemd-pstore it is the same crash; the next one is not.
	if err := os.MkdirAll(filepath.Join(root, "var/lib/systemd/pstore/1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, "sys/fs/pstore/dmesg-ramoops-0"), filepath.Join(root, "var/lib/systemd/pstore/1/dmesg.txt")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "sys/fs/pstore/dmesg-ramoops-0"), "Panic#2 Part1\n")
	w = observe(t, crashKind(), env)
	w.eventually(t, "crash", is("reason", "Panic"))
	time.Sleep(100 * time.Millisecond)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if len(w.list) != 1 {
		t.Errorf("%d events, want the new one: %+v", len(w.list), w.list)
	}
	if _, err := os.Stat(filepath.Join(root, "sys/fs/pstore/dmesg-ramoops-0")); err != nil {
		t.Error("the record is gone:", err)
	}
}

func TestCrashBounds(t *testing.T) {
	testneed.Native(t)
	files := map[string]string{"sys/module/pstore/parameters/backend": "ramoops"}
	for i := range 2 * maxCrashes {
		files[fmt.Sprintf("sys/fs/pstore/dmesg-ramoops-%d", i)] = fmt.Sprintf("Panic#%d\n", i) + strings.Repeat("x", 2*maxCrash)
	}
	w := observe(t, crashKind(), testEnv(t, tree(t, files)))
	w.eventually(t, "crash", is("cut", "true"))
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(w.of("crash")); n > maxCrashes || w.sink.loss.times == 0 {
		t.Errorf("%d crashes, loss %d", n, w.sink.loss.times)
	}
}

// The real directory of this machine, whatever is in it.
func TestCrashesOfTheKernel(t *testing.T) {
	testneed.Native(t)
	w := observe(t, crashKind(), testEnv(t, "/"))
	time.Sleep(100 * time.Millisecond)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records", len(w.list))
}
