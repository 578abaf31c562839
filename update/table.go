// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"fmt"
	"strings"
)

//go:generate go run ./internal/lifecycle ../ARCHITECTURE.md

// State names a row of the lifecycle.
type State string

// The states of an update. The empty state of a zero Job is idle.
const (
	Idle        State = "idle"
	Checking    State = "checking"
	Downloading State = "downloading"
	Arming      State = "arming"
	Rebooting   State = "rebooting"
	Trial       State = "trial"
	Committing  State = "committing"
	Reverting   State = "reverting"
	Reporting   State = "reporting"
)

// Row is one state: what is done in it, and where that leads.
//
// The machine saves the job with its new state before it calls Do, so Do may be cut anywhere and is called again: every Do is
// idempotent. Resume is the state in which a job continues that was cut in this one, and there is no other recovery.
//
// A row whose Err is the row itself ends the run; the next run tries again.
type Row struct {
	State  State
	Does   string // for people
	Do     func(*Machine, context.Context, *Job) error
	OK     State
	Err    State
	Resume State
}

// Lifecycle returns the table.
//
// Three entries are not the obvious ones. Arming and rebooting fail into reverting, not reporting: a boot loader that reports
// an error may be armed all the same, and a job cleared then would leave a slot on trial with nobody to judge it. Reverting
// fails into itself: cleared too early, the next download would overwrite the good slot while the bad one runs. Rebooting
// resumes as trial: the power came back, so the reboot has happened.
func Lifecycle() []Row {
	return []Row{
		{Idle, "keep the running slot's boot attempts full", (*Machine).settle, Checking, Idle, Idle},
		{Checking, "choose a verified release; floor and quarantine", (*Machine).choose, Downloading, Idle, Idle},
		{Downloading, "disarm the other slot, stream to it, compare length and SHA-256, read back", (*Machine).download, Arming, Reporting, Downloading},
		{Arming, "floor again; the boot loader tries the slot a few times", (*Machine).arm, Rebooting, Reverting, Arming},
		{Rebooting, "restart", (*Machine).restart, Trial, Reverting, Trial},
		{Trial, "is it the new slot that runs? healthy before the deadline?", (*Machine).try, Committing, Reverting, Trial},
		{Committing, "keep the slot, bar what is below the new floor, then raise the floor", (*Machine).commit, Reporting, Reverting, Committing},
		{Reverting, "keep the old slot, disarm the new one; restart if the new one runs", (*Machine).revert, Reporting, Reverting, Reverting},
		{Reporting, "audit event, history, quarantine of a failed release; clear the job", (*Machine).report, Idle, Idle, Reporting},
	}
}

// row returns the row of a state.
func row(s State) (Row, error) {
	if s == "" {
		s = Idle
	}
	for _, r := range Lifecycle() {
		if r.State == s {
			return r, nil
		}
	}
	return Row{}, fmt.Errorf("read job: no state %q in the lifecycle", s)
}

// Diagram returns the table as Markdown: a Mermaid state diagram, and what each state does.
func Diagram() string {
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> idle\n")
	for _, r := range Lifecycle() {
		fmt.Fprintf(&b, "    %s --> %s: ok\n", r.State, r.OK)
		fmt.Fprintf(&b, "    %s --> %s: error\n", r.State, r.Err)
		if r.Resume != r.State {
			fmt.Fprintf(&b, "    %s --> %s: power loss\n", r.State, r.Resume)
		}
	}
	b.WriteString("```\n\n| state | does | ok | error | after power loss |\n|---|---|---|---|---|\n")
	for _, r := range Lifecycle() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.State, r.Does, r.OK, r.Err, r.Resume)
	}
	return b.String()
}

// The lines between which Illustrate writes.
const (
	diagramBegin = "<!-- lifecycle:begin -->\n"
	diagramEnd   = "<!-- lifecycle:end -->"
)

// Illustrate returns a Markdown page with the diagram between its two marks.
func Illustrate(page string) (string, error) {
	head, rest, ok := strings.Cut(page, diagramBegin)
	_, tail, closed := strings.Cut(rest, diagramEnd)
	if !ok || !closed {
		return "", fmt.Errorf("place diagram: no %q followed by %q", strings.TrimSpace(diagramBegin), diagramEnd)
	}
	return head + diagramBegin + Diagram() + diagramEnd + tail, nil
}
