// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"github.com/backstay/backstay/update"
)

// maxBootOutput bounds what is kept of what the maker's program for a boot loader prints, in bytes.
const maxBootOutput = 4 << 10

// bootCommand runs the maker's program for a boot loader: without a shell, with an environment of its own and no input, and
// for at most limit; then it is killed with all it started.
func bootCommand(argv []string, limit time.Duration) func(args ...string) (string, error) {
	return func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		cmd := exec.CommandContext(ctx, argv[0], append(argv[1:len(argv):len(argv)], args...)...)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = time.Second
		var out, said capped
		cmd.Stdout, cmd.Stderr = &out, &said
		err := cmd.Run()
		switch {
		case ctx.Err() != nil:
			return "", fmt.Errorf("%s took longer than %s", argv[0], limit)
		case errors.Is(err, exec.ErrNotFound) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EACCES):
			return "", fmt.Errorf("run %s: %w: %w", argv[0], update.ErrSetup, err)
		case err != nil:
			return "", fmt.Errorf("run %s: %w: %.200s", argv[0], err, said.b.String())
		case out.over:
			return "", fmt.Errorf("run %s: it printed more than %d bytes", argv[0], maxBootOutput)
		}
		return out.b.String(), nil
	}
}

// capped keeps the beginning of what is written to it.
type capped struct {
	b    bytes.Buffer
	over bool
}

func (c *capped) Write(p []byte) (int, error) {
	room := max(0, maxBootOutput-c.b.Len())
	c.over = c.over || len(p) > room
	c.b.Write(p[:min(room, len(p))])
	return len(p), nil
}
