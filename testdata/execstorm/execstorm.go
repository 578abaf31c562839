// SPDX-License-Identifier: Apache-2.0

// Package execstorm starts thousands of programs a second, for the tests of what watches them.
//
// A start that is a process of its own takes a machine milliseconds. A file that may be executed and is no program takes
// microseconds: the kernel opens it for execution, tells who watches, finds no format that fits and lets the caller go on.
package execstorm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Rate is how many starts there are in a second, if the machine is able to.
const Rate = 5000

// Names in the environment of the helper.
const (
	envDir  = "BACKSTAY_TEST_STORM"
	envTime = "BACKSTAY_TEST_STORM_TIME"
)

// Run starts programs files of dir, which it makes, for a time, from a process of its own, and returns how many starts there
// were. That process is the test itself, which must have a test named TestStormHelper that calls Helper.
func Run(t *testing.T, dir string, programs int, during time.Duration) int {
	t.Helper()
	for i := range programs {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("p", i)), []byte{0}, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestStormHelper$", "-test.v")
	cmd.Env = append(os.Environ(), envDir+"="+dir, envTime+"="+during.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, after, _ := strings.Cut(string(out), "started ")
	n, err := strconv.Atoi(strings.Fields(after + " none")[0])
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return n
}

// Helper is the process that starts programs.
func Helper(t *testing.T) {
	dir, found := os.LookupEnv(envDir)
	if !found {
		t.Skip("the helper of the storm")
	}
	files, _ := filepath.Glob(dir + "/*")
	during, _ := time.ParseDuration(os.Getenv(envTime))
	began, n := time.Now(), 0
	for end := began.Add(during); len(files) > 0 && time.Now().Before(end); {
		for range Rate / 100 {
			_ = unix.Exec(files[n%len(files)], []string{"x"}, nil) // it is no program: the call returns
			n++
		}
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / Rate)))
	}
	fmt.Printf("started %d\n", n)
}
