// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/backstay/backstay/agent/config"
)

// health is what a new image must pass before it is kept: the checks of the configuration, each tried again until it passes or
// the trial's time is over.
type health struct {
	checks    []config.Health
	connected func() bool                                                    // the audit broker is connected
	worst     func(ctx context.Context, above string) (rule string, _ error) // a failed rule above the severity, or ""
}

// healthRetry is the pause between two attempts at a check that failed: services of the new image are still starting.
const healthRetry = 500 * time.Millisecond

// run passes when every check passed once. When ctx ends first it returns the error of the check that had not.
func (h *health) run(ctx context.Context) error {
	for _, c := range h.checks {
		for {
			err := h.once(ctx, c)
			if err == nil {
				break
			}
			err = fmt.Errorf("health check %s: %w", checkName(c), err)
			select {
			case <-ctx.Done():
				return err
			case <-time.After(healthRetry):
			}
			if ctx.Err() != nil {
				return err
			}
		}
	}
	return nil
}

func checkName(c config.Health) string {
	if c.Name != "" {
		return c.Name
	}
	return c.Kind
}

func (h *health) once(ctx context.Context, c config.Health) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout.Std())
	defer cancel()
	switch c.Kind {
	case "process":
		return processCheck(c.Path)
	case "exec":
		return execCheck(ctx, c.Argv)
	case "file":
		_, err := os.Stat(c.Path)
		return err
	case "mount":
		return mountCheck(c.Path)
	case "metric":
		return metricCheck(c.Path, c.Min, c.Max)
	case "http":
		return httpCheck(ctx, c.URL, c.Status)
	case "tcp":
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.Addr)
		if err != nil {
			return err
		}
		return conn.Close()
	case "mqtt":
		if !h.connected() {
			return errors.New("the audit broker is not connected")
		}
		return nil
	case "baseline":
		rule, err := h.worst(ctx, c.MaxSeverity)
		if err == nil && rule != "" {
			err = fmt.Errorf("rule %s fails and is above severity %s", rule, c.MaxSeverity)
		}
		return err
	}
	return fmt.Errorf("unknown kind %q", c.Kind)
}

// processCheck passes when a process runs the program at path. A script is run by its interpreter: that is a matter for exec.
func processCheck(path string) error {
	want, err := os.Stat(path)
	if err != nil {
		return err
	}
	d, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		if got, err := os.Stat("/proc/" + name + "/exe"); err == nil && os.SameFile(got, want) {
			return nil
		}
	}
	return fmt.Errorf("no process runs %s", path)
}

// mountCheck passes when a file system is mounted at path.
func mountCheck(path string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// 36 35 98:0 /root /mount/point options ... (proc(5)); a space in a name is written as \040
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && unescape.Replace(fields[4]) == filepath.Clean(path) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return fmt.Errorf("nothing is mounted at %s", path)
}

// unescape undoes what the kernel does to names in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// metricCheck passes when the whole number in a file, such as a temperature or a level, is from low to high.
func metricCheck(path string, low, high int) error {
	n, err := readNumber(path)
	if err == nil && (n < low || n > high) {
		err = fmt.Errorf("%s holds %d, good is %d to %d", path, n, low, high)
	}
	return err
}

func execCheck(ctx context.Context, argv []string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second // a child that keeps the output open must not hold the trial
	return cmd.Run()
}

func httpCheck(ctx context.Context, url string, status int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// The check asks a service of the device itself, by loopback as a rule: no proxy from the environment.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != status {
		return fmt.Errorf("status %d, want %d", resp.StatusCode, status)
	}
	return nil
}
