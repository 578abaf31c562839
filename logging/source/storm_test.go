// SPDX-License-Identifier: Apache-2.0

package source

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/execstorm"
	"github.com/backstay/backstay/testdata/testneed"
)

func TestStormHelper(t *testing.T) { execstorm.Helper(t) }

func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Thousands of starts a second must neither load the device nor hide the one that matters.
func TestStormOfPrograms(t *testing.T) {
	testneed.Native(t)
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	length := 2 * time.Second
	if os.Getenv("BACKSTAY_LONG") == "1" {
		length = 10 * time.Second
	}
	for _, c := range []struct {
		name, parent string
		programs     int
	}{{"one program", cache, 1}, {"many programs", cache, 3000}, {"many programs in tmp", "/tmp", 3000}} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.MkdirAll(c.parent, 0o755); err != nil {
				t.Skip(err)
			}
			dir, err := os.MkdirTemp(c.parent, "backstay-storm-")
			if err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			w := observe(t, execKind(), testEnv(t, "/"))
			w.sink.limit = newLimiter(execKind().Rate) // before the first event
			evil := filepath.Join(t.TempDir(), "evil")
			sum := program(t, evil)
			if c.parent != "/tmp" {
				timer := time.AfterFunc(time.Second, func() { _ = exec.Command(evil, "0").Run() })
				defer timer.Stop()
			}
			before, began := cpu(), time.Now()
			n := execstorm.Run(t, dir, c.programs, length)
			used, during := cpu()-before, time.Since(began)
			if c.parent != "/tmp" {
				e := w.eventually(t, "exec.writable", is("exe", evil))
				if attr(t, e, "sha256") != sum {
					t.Errorf("%+v", e)
				}
			}
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			t.Logf("%d starts in %s (%.0f/s): %d exec and %d exec.writable events, CPU %s (%.1f %%), heap in use %d KiB",
				n, during.Round(time.Millisecond), float64(n)/during.Seconds(), len(w.of("exec")), len(w.of("exec.writable")), used.Round(time.Millisecond),
				100*used.Seconds()/during.Seconds(), m.HeapInuse>>10)
			t.Logf("suppressed %+v, lost %d (%v, %q)", w.sink.limit.counts, w.sink.loss.count, w.sink.loss.open, w.sink.loss.reason)
			if used > during/2 && !testneed.Guest() { // where every instruction costs forty, the kernel is the storm's equal

				t.Errorf("the source used %s of CPU in %s", used, during)
			}
		})
	}
}
