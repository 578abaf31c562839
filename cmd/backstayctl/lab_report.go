// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

// labStep is one step of the story: what must hold, and the work that shows it. What was seen is returned in words.
type labStep struct {
	name string
	must string
	do   func(ctx context.Context) (seen string, err error)
}

// labReport shows the story while it happens and sums it up at the end. Progress goes to standard error, the summary to standard
// output.
type labReport struct {
	env   *cli.Env
	began time.Time
	lines []labLine
	last  map[string]string // what was last shown of a device
	proof string            // what backstayctl audit verify printed
}

type labLine struct {
	Step string  `json:"step"`
	Held bool    `json:"held"`
	Seen string  `json:"seen"`
	At   float64 `json:"at_s"` // seconds since the start when the step ended
}

func (r *labReport) since() float64 { return time.Since(r.began).Seconds() }

func (r *labReport) step(ctx context.Context, s labStep) error {
	fmt.Fprintf(r.env.Stderr, "%5.1f s  %-13s  %s\n", r.since(), s.name, s.must)
	seen, err := s.do(ctx)
	if err != nil {
		r.lines = append(r.lines, labLine{s.name, false, err.Error(), r.since()})
		return fmt.Errorf("lab step %s: %w", s.name, err)
	}
	r.lines = append(r.lines, labLine{s.name, true, seen, r.since()})
	return nil
}

// watch shows what a device does, once per change.
func (r *labReport) watch(device string, s control.Status) {
	text := fmt.Sprintf("firmware %s from slot %s, update %s", s.Firmware.Version, s.Firmware.Slot, s.Update.State)
	if s.Update.Release != nil {
		text += " " + s.Update.Release.Version
	}
	if !s.Identity.Enrolled {
		text += ", not enrolled yet"
	}
	if r.last == nil {
		r.last = map[string]string{}
	}
	if r.last[device] != text {
		r.last[device] = text
		fmt.Fprintf(r.env.Stderr, "%5.1f s      %s: %s\n", r.since(), device, text)
	}
}

func (r *labReport) print() error {
	if r.env.JSON {
		return r.env.PrintJSON("backstay.lab/1", struct {
			Steps   []labLine `json:"steps"`
			Seconds float64   `json:"seconds"`
		}{r.lines, r.since()})
	}
	t := r.env.Table("step", "held", "what was seen")
	for _, l := range r.lines {
		held := "yes"
		if !l.Held {
			held = "NO"
		}
		t.Row(l.Step, held, l.Seen)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(r.env.Stdout, "\n%s\n%d steps in %.1f s\n", r.proof, len(r.lines), r.since())
	return err
}
