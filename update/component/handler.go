// SPDX-License-Identifier: Apache-2.0

package component

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/update"
)

// handler is a component behind a program of the maker's. docs/components.md is the protocol for who writes one.
type handler struct{ Config }

// Bounds of what a program says.
const (
	maxAnswer = 4096 // bytes on its standard output
	maxNoise  = 2048 // bytes of its standard error that are kept: the last ones
	maxValue  = 256  // bytes of one value
	graceTime = 5 * time.Second
)

// Exit codes of a program, the same as those of the agent's own commands.
const (
	exitRefused = 5
	exitRetry   = 7
)

// An Answer is what a program says about its component.
type Answer struct {
	Version string   // what it runs
	SHA256  [32]byte // what it holds installed
	Digest  bool     // it has said SHA256
}

// ParseAnswer reads lines of "name=value". Names that are not known are skipped, so that a program may say more to people.
func ParseAnswer(b []byte) (Answer, error) {
	var a Answer
	if len(b) > maxAnswer {
		return a, fmt.Errorf("read answer: more than %d bytes", maxAnswer)
	}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		if !ok || (name != "version" && name != "sha256") {
			continue
		}
		if len(value) > maxValue || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return Answer{}, fmt.Errorf("read answer: the value of %s is too long or holds a control character", name)
		}
		switch {
		case name == "version" && a.Version == "":
			a.Version = value
		case name == "sha256" && !a.Digest && len(value) == 64:
			for i := range a.SHA256 {
				n, err := strconv.ParseUint(value[2*i:2*i+2], 16, 8)
				if err != nil {
					return Answer{}, fmt.Errorf("read answer: sha256 is not 64 hexadecimal digits")
				}
				a.SHA256[i] = byte(n)
			}
			a.Digest = true
		default:
			return Answer{}, fmt.Errorf("read answer: %s is there twice or has an impossible value", name)
		}
	}
	return a, nil
}

// run does one operation.
func (h *handler) run(ctx context.Context, op string, c update.Component, in io.Reader) (Answer, error) {
	limit := h.Timeout
	if limit == 0 {
		limit = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Argv[0], append(append([]string{}, h.Argv[1:]...), op)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "BACKSTAY_PROTOCOL=1", "BACKSTAY_COMPONENT=" + c.Name,
		"BACKSTAY_VERSION=" + c.Version, fmt.Sprintf("BACKSTAY_LENGTH=%d", c.Length), fmt.Sprintf("BACKSTAY_SHA256=%x", c.SHA256)}
	cmd.Dir, cmd.Stdin, cmd.WaitDelay = "/", in, graceTime
	out, noise := &head{limit: maxAnswer + 1}, &tail{limit: maxNoise}
	cmd.Stdout, cmd.Stderr = out, noise
	err := cmd.Run()
	if err == nil {
		return ParseAnswer(out.Bytes())
	}
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("it took longer than %s", limit)
	}
	if said := strings.TrimSpace(noise.String()); said != "" {
		err = fmt.Errorf("%w: %s", err, strings.ToValidUTF8(said, "?"))
	}
	err = fmt.Errorf("%s %s: %w", h.Argv[0], op, err)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		switch exit.ExitCode() {
		case exitRefused:
			err = &update.Refusal{Code: "component-refused", What: "component " + c.Name + " " + c.Version, Why: err.Error(), Err: err}
		case exitRetry:
			err = fmt.Errorf("%w: %w", update.ErrRetry, err)
		}
	}
	return Answer{}, err
}

func (h *handler) runs(ctx context.Context, c update.Component) (bool, error) {
	a, err := h.run(ctx, "version", c, nil)
	return a.Version == c.Version, err
}

// install gives the program the bytes, and asks in an operation of its own what it holds.
func (h *handler) install(ctx context.Context, c update.Component, image io.Reader) error {
	in := &exactly{r: image, left: c.Length}
	if _, err := h.run(ctx, "install", c, in); err != nil {
		return errors.Join(err, in.err)
	}
	if in.err != nil {
		return in.err
	}
	a, err := h.run(ctx, "verify", c, nil)
	switch {
	case err != nil:
		return err
	case !a.Digest:
		return fmt.Errorf("%s verify: it does not say sha256", h.Argv[0])
	case a.SHA256 != c.SHA256:
		return wrong(c, update.CodeBadHash, "its SHA-256 is %x, signed is %x", a.SHA256, c.SHA256)
	}
	return nil
}

func (h *handler) activate(ctx context.Context, c update.Component) error {
	if _, err := h.run(ctx, "activate", c, nil); err != nil {
		return err
	}
	runs, err := h.runs(ctx, c)
	if err == nil && !runs {
		err = fmt.Errorf("%s says that another version runs", h.Argv[0])
	}
	return err
}

func (h *handler) rollback(ctx context.Context, c update.Component) error {
	_, err := h.run(ctx, "rollback", c, nil)
	return err
}

// exactly passes on as many bytes as are signed, and keeps what went wrong with them.
type exactly struct {
	r    io.Reader
	left int64
	err  error
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	if e.left -= int64(n); err == io.EOF && e.left > 0 {
		err = fmt.Errorf("it ends %d bytes early: %w", e.left, update.ErrRetry)
	}
	if err != nil && err != io.EOF {
		e.err = err
	}
	return n, err
}

// head keeps the first bytes, and takes the rest.
type head struct {
	bytes.Buffer
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), max(h.limit-h.Len(), 0))])
	return len(p), nil
}

// tail keeps the last bytes.
type tail struct {
	b     []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[max(len(p)-t.limit, 0):]...)
	t.b = t.b[max(len(t.b)-t.limit, 0):]
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }
