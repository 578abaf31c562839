// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
)

// This file is what the update policy asks the device: files that the product writes, and programs that the configuration names.

// Bounds of what is asked. A program's answer is believed for a while: a screen that is asked every few seconds would flicker.
const (
	maxWord     = 256 // bytes of a file that holds a word or a number
	askAgain    = 30 * time.Second
	consentTime = time.Minute // longest time a consent program may take
)

// newPolicy makes the policy that the configuration describes. local reports that a directory is used, which costs nothing.
func newPolicy(c config.Update, local func() bool) (*update.Policy, error) {
	p := &update.Policy{SecurityOnly: c.SecurityOnly, Metered: c.Metered}
	for _, s := range update.Steps() {
		if !slices.Contains(c.Automatic, string(s)) {
			p.Manual = append(p.Manual, s)
		}
	}
	for _, s := range c.WindowSteps {
		p.WindowSteps = append(p.WindowSteps, update.Step(s))
	}
	for _, s := range c.Windows {
		w, err := update.ParseWindow(s)
		if err != nil {
			return nil, fmt.Errorf("update.windows: %w: %w", update.ErrSetup, err)
		}
		p.Windows = append(p.Windows, w)
	}
	var err error
	if p.Zone, err = update.ParseZone(c.Zone); err != nil {
		return nil, fmt.Errorf("update.zone: %w: %w", update.ErrSetup, err)
	}
	p.Line = func() update.Line {
		if local() {
			return update.LineFree
		}
		return line(c)
	}
	for _, x := range c.Conditions {
		check := fileCondition(x)
		if len(x.Argv) > 0 {
			check = programCondition(x)
		}
		p.Conditions = append(p.Conditions, update.Condition{Name: x.Name, Check: check})
	}
	if c.ConsentFile != "" || len(c.ConsentExec) > 0 {
		p.Consent = (&consent{file: c.ConsentFile, argv: c.ConsentExec}).ask
	}
	return p, nil
}

// line is what the connection costs. A word nobody knows counts as metered: it was written to say something.
func line(c config.Update) update.Line {
	if c.Line != "file" {
		return update.Line(c.Line)
	}
	word, err := readWord(c.LineFile)
	switch {
	case err != nil || word == "":
		return update.LineFree
	case word == string(update.LineFree) || word == string(update.LineOffline):
		return update.Line(word)
	}
	return update.LineMetered
}

// readWord reads a short file, without the spaces around what it says.
func readWord(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxWord))
	return strings.TrimSpace(string(b)), err
}

func fileCondition(c config.Condition) func(context.Context, bool) error {
	return func(context.Context, bool) error {
		n, err := readNumber(c.File)
		if err == nil && n < c.Min {
			err = fmt.Errorf("%s holds %d, at least %d is needed", c.File, n, c.Min)
		}
		return err
	}
}

// readNumber reads a file that holds a whole number.
func readNumber(path string) (int, error) {
	word, err := readWord(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(word)
	if err != nil {
		return 0, fmt.Errorf("%s holds %.20q, which is no whole number", path, word)
	}
	return n, nil
}

// programCondition asks a program, and again only after a while.
func programCondition(c config.Condition) func(context.Context, bool) error {
	var mu sync.Mutex
	var at time.Time
	last := errors.New("it was not asked yet")
	return func(ctx context.Context, peek bool) error {
		mu.Lock()
		defer mu.Unlock()
		if peek || time.Since(at) < askAgain {
			return last
		}
		_, last = runProgram(ctx, c.Timeout.Std(), c.Argv)
		at = time.Now()
		return last
	}
}

// runProgram returns the exit code of a program, -1 when it has none.
func runProgram(ctx context.Context, limit time.Duration, argv []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second // a child that keeps the output open must not hold the update
	err := cmd.Run()
	if err == nil {
		return 0, nil
	}
	code := -1
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	}
	return code, fmt.Errorf("%s: %w", argv[0], err)
}

// consent asks the product for what its user said.
type consent struct {
	file string
	argv []string

	mu     sync.Mutex
	at     time.Time
	about  string // the release that the last answer was about
	answer update.Answer
}

// ask implements update.Policy.Consent. The file decides before the program.
func (c *consent) ask(ctx context.Context, r update.Release, peek bool) (update.Answer, string) {
	if c.file != "" {
		word, err := readWord(c.file)
		verb, version, _ := strings.Cut(word, " ")
		if err == nil && version == r.Version {
			switch verb {
			case "approve":
				return update.AnswerApprove, "the file " + c.file
			case "reject":
				return update.AnswerReject, "the file " + c.file
			}
		}
	}
	if len(c.argv) == 0 {
		return update.AnswerNone, ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	about := r.Path
	if !peek && (c.about != about || time.Since(c.at) >= askAgain) {
		code, _ := runProgram(ctx, consentTime, append(slices.Clone(c.argv), r.Version, r.Class))
		c.answer = map[int]update.Answer{0: update.AnswerApprove, 1: update.AnswerReject}[code]
		c.at, c.about = time.Now(), about
	}
	if c.about != about {
		return update.AnswerNone, ""
	}
	return c.answer, "the program " + c.argv[0]
}
