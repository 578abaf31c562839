// SPDX-License-Identifier: Apache-2.0

package testneed

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TPM starts a TPM 2.0 in software over a state directory. name is for tpm.Open; stop takes its power away.
func TPM(t testing.TB, state string) (name string, stop func()) {
	t.Helper()
	program := Program(t, "swtpm", "swtpm")
	dir, err := os.MkdirTemp("", "tpm") // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+state,
		"--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cmd.Process.Kill() //nolint:errcheck // it is gone then
			cmd.Wait()         //nolint:errcheck // killed
			os.RemoveAll(dir)
		}
	}
	t.Cleanup(stop)
	for range 1000 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return "unix:" + socket, stop
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("swtpm does not come up")
	return "", nil
}
