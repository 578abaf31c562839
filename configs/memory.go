// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// A program that writes its own value back after each fix would make the engine and it take turns for ever, wearing out
// flash and filling the audit log. More than maxFixes fixes of one rule within fixWindow suspend its fix, longer each time.
const (
	maxFixes  = 3
	fixWindow = 10 * time.Minute
	calmAfter = 48 * time.Hour // without a fix the count of suspensions starts again
)

// pause is how long the nth suspension lasts.
func pause(level int) time.Duration {
	return []time.Duration{time.Hour, 6 * time.Hour, 24 * time.Hour}[min(level, 2)]
}

// memory outlives runs. Times are Unix seconds.
type memory struct {
	Fixes     map[string][]int64    `json:"fixes,omitempty"`
	Suspended map[string]suspension `json:"suspended,omitempty"`
	Reboot    map[string]string     `json:"reboot,omitempty"` // rule -> boot id under which it was fixed
	Seen      map[string]string     `json:"seen,omitempty"`   // rule -> how it stood when it was reported; none is pass
	Trials    map[string]attempts   `json:"trials,omitempty"` // rule -> trials that were taken back
	Held      map[string]int64      `json:"held,omitempty"`   // rule -> until when it is left as a person's undo left it

	dirty bool
}

type suspension struct {
	Until int64 `json:"until"`
	Level int   `json:"level"`
}

// A fix that the device could not confirm is tried again, in case the network was away for another reason, and then parked:
// each try may cost somebody a connection.
const (
	maxTrials = 3
	holdFor   = 24 * time.Hour // a person's undo is left alone that long
)

// attempts are the trials of one rule under one policy that were taken back.
type attempts struct {
	N      int    `json:"n"`
	Next   int64  `json:"next"`
	Serial uint64 `json:"serial"`
}

func (e *Engine) loadMemory() (memory, error) {
	m := memory{
		Fixes: map[string][]int64{}, Suspended: map[string]suspension{}, Reboot: map[string]string{}, Seen: map[string]string{},
		Trials: map[string]attempts{}, Held: map[string]int64{},
	}
	if e.StateDir == "" {
		return m, nil
	}
	dir, err := os.OpenRoot(e.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("open state: %w", err)
	}
	defer dir.Close()
	if err := readState(dir, memoryFile, &m); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	return m, nil
}

// saveMemory writes what concerns rules that the policy still has.
func (e *Engine) saveMemory(m memory) error {
	prune(e.Policy, m.Fixes)
	prune(e.Policy, m.Suspended)
	prune(e.Policy, m.Reboot)
	prune(e.Policy, m.Seen)
	prune(e.Policy, m.Trials)
	prune(e.Policy, m.Held)
	dir, err := e.state()
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := writeState(dir, memoryFile, m); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func prune[V any](p Policy, m map[string]V) {
	for id := range m {
		if _, ok := p.Rule(id); !ok {
			delete(m, id)
		}
	}
}

// remember saves how the rules stood after a check. A check must work where nothing can be written, and beside a run that is
// writing: then the same changes are reported again.
func (r *run) remember() {
	if !r.mem.dirty || r.StateDir == "" {
		return
	}
	unlock, err := r.lock()
	if err != nil {
		return
	}
	defer unlock()
	now, err := r.loadMemory() // another process may have fixed something since
	if err != nil {
		return
	}
	now.Seen = r.mem.Seen
	r.saveMemory(now) //nolint:errcheck // see above
}

// fixed notes a fix made now.
func (m *memory) fixed(rule string, now time.Time) {
	m.dirty = true
	var recent []int64
	for _, t := range m.Fixes[rule] {
		if now.Sub(time.Unix(t, 0)) < fixWindow {
			recent = append(recent, t)
		}
	}
	recent = append(recent, now.Unix())
	s := m.Suspended[rule]
	if s.Until != 0 && now.Sub(time.Unix(s.Until, 0)) > calmAfter {
		s = suspension{}
		delete(m.Suspended, rule)
	}
	if len(recent) > maxFixes {
		m.Suspended[rule] = suspension{Until: now.Add(pause(s.Level)).Unix(), Level: s.Level + 1}
		recent = nil
	}
	m.Fixes[rule] = recent
}

func (m *memory) rebootAfter(rule, bootID string) {
	if bootID != "" {
		m.Reboot[rule], m.dirty = bootID, true
	}
}

// takenBack notes a trial that was not confirmed.
func (m *memory) takenBack(rule string, serial uint64, now time.Time) {
	t := m.Trials[rule]
	if t.Serial != serial {
		t = attempts{Serial: serial}
	}
	t.Next = now.Add(pause(t.N)).Unix()
	t.N++
	m.Trials[rule], m.dirty = t, true
	delete(m.Reboot, rule)
}

// parked says why a trial is not begun now, "" when it is.
func (r *run) parked(rule string) string {
	t := r.mem.Trials[rule]
	next := time.Unix(t.Next, 0)
	switch {
	case t.Serial != r.Policy.Serial || t.N == 0:
		return ""
	case t.N >= maxTrials:
		return fmt.Sprintf("taken back %d times, the device could not prove that it is still managed: name the rule to apply it", t.N)
	case r.Now().Before(next):
		return "taken back, the device could not prove that it is still managed; next try after " + next.UTC().Format(time.RFC3339)
	}
	return ""
}

// held says until when a rule is left alone because a person took its fix back, "" when it is not.
func (r *run) held(rule string) string {
	until := time.Unix(r.mem.Held[rule], 0)
	if !r.Now().Before(until) {
		return ""
	}
	return "a person took the fix back; it is left alone until " + until.UTC().Format(time.RFC3339)
}

// suspended reports until when the fix of a rule rests.
func (r *run) suspended(rule string) (time.Time, bool) {
	until := time.Unix(r.mem.Suspended[rule].Until, 0)
	return until, r.Now().Before(until)
}

// bootID names this boot of the running system; "" for an image.
func (r *run) bootID() string {
	if !r.Live {
		return ""
	}
	data, err := r.host.Read(r.ctx, "/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (r *run) awaitsReboot(rule string) bool {
	want := r.mem.Reboot[rule]
	return want != "" && want == r.bootID()
}
