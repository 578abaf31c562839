// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/testneed"
)

// stormRate is how many programs a second the device has to bear.
const stormRate = 5000

// TestStormHelper is not a test: it is the process that starts programs. The kernel opens each as a program, finds that it is
// none, and lets the process go on, so that one process can start thousands in a second.
func TestStormHelper(t *testing.T) {
	dir, found := os.LookupEnv("BACKSTAY_TEST_STORM")
	if !found {
		t.Skip("the helper of the storm")
	}
	files, _ := filepath.Glob(dir + "/*")
	seconds, _ := strconv.Atoi(os.Getenv("BACKSTAY_TEST_SECONDS"))
	began, n := time.Now(), 0
	for end := began.Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
		for range stormRate / 100 {
			_ = unix.Exec(files[n%len(files)], []string{"x"}, nil)
			n++
		}
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / stormRate)))
	}
	fmt.Printf("started %d\n", n)
}

// storm runs a storm over many programs in dir, and returns how many starts there were, and what this process used meanwhile.
func storm(t *testing.T, dir string, programs, seconds int) (n int, used, during time.Duration) {
	t.Helper()
	for i := range programs {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("p", i)), []byte{0}, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestStormHelper$", "-test.v")
	cmd.Env = append(os.Environ(), "BACKSTAY_TEST_STORM="+dir, fmt.Sprint("BACKSTAY_TEST_SECONDS=", seconds))
	before, began := cpu(), time.Now()
	out, err := cmd.CombinedOutput()
	used, during = cpu()-before, time.Since(began)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, after, _ := strings.Cut(string(out), "started ")
	n, err = strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return n, used, during
}

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
	seconds := 2
	if os.Getenv("BACKSTAY_LONG") == "1" {
		seconds = 10
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
			n, used, during := storm(t, dir, c.programs, seconds)
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
			if used > during/2 {
				t.Errorf("the source used %s of CPU in %s", used, during)
			}
		})
	}
}
