// SPDX-License-Identifier: Apache-2.0

package update_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// mutation is one mistake: a passage of the source that occurs once, and what somebody might have written instead.
type mutation struct {
	name, file, old, new string
	quick                bool // also in the short run
}

var mutations = []mutation{
	{"floor raised before keep", "rows.go",
		"	if err := m.Boot.Keep(job.Slot); err != nil {\n		return fmt.Errorf(\"keep slot %s: %w\", job.Slot, err)\n	}\n	if job.Release.Floor",
		"	if err := m.Floor.Raise(job.Release.Floor); err != nil {\n		return err\n	}\n	if err := m.Boot.Keep(job.Slot); err != nil {\n		return err\n	}\n	if job.Release.Floor", true},
	{"old image stays a fall-back below the floor", "rows.go", "if job.Release.Floor > job.Back {", "if false {", false},
	{"trial resumes as idle", "table.go", "(*Machine).try, Committing, Reverting, Trial}", "(*Machine).try, Committing, Reverting, Idle}", false},
	{"committing resumes as idle", "table.go", "(*Machine).commit, Reporting, Reverting, Committing}", "(*Machine).commit, Reporting, Reverting, Idle}", false},
	{"reverting resumes as idle", "table.go", "(*Machine).revert, Reporting, Reverting, Reverting}", "(*Machine).revert, Reporting, Reverting, Idle}", false},
	{"reporting resumes as idle", "table.go", "(*Machine).report, Idle, Idle, Reporting}", "(*Machine).report, Idle, Idle, Idle}", false},
	{"half written slot resumes as arming", "table.go", "(*Machine).download, Arming, Reporting, Downloading}", "(*Machine).download, Arming, Reporting, Arming}", false},
	{"arming fails into reporting", "table.go", "(*Machine).arm, Rebooting, Reverting, Arming}", "(*Machine).arm, Rebooting, Reporting, Arming}", false},
	{"reverting fails into reporting", "table.go", "(*Machine).revert, Reporting, Reverting, Reverting}", "(*Machine).revert, Reporting, Reporting, Reverting}", false},
	{"slot not disarmed before it is written", "download.go",
		"	if err := m.Boot.Disarm(job.Slot); err != nil {\n		return fmt.Errorf(\"disarm slot %s: %w\", job.Slot, err)\n	}\n", "", true},
	{"read-back skipped", "download.go", "if sum != job.Release.SHA256 {", "if false && sum != job.Release.SHA256 {", false},
	{"slot not synced at its end", "download.go",
		"	if err := w.Sync(); err != nil {\n		return fmt.Errorf(\"sync slot %s: %w\", job.Slot, err)\n	}\n	if sum", "	if sum", false},
	{"no quarantine", "rows.go", "return m.quarantined(job, r)", "return nil", true},
	{"trial without a health check", "rows.go", "if err := m.Health(trial); err != nil {", "if err := m.Health(trial); false {", false},
	{"effect before the job is saved", "machine.go", "	return m.save(*job)\n}\n\n// do runs", "	m.note(*job)\n	return nil\n}\n\n// do runs", false},
	{"running slot not kept at a start", "rows.go", "if err := m.Boot.Keep(booted); err != nil {", "if err := error(nil); err != nil {", false},
	{"way back below the floor", "rows.go", "return floor > job.Back && job.Release.Counter >= floor, nil", "return floor > job.Back && false, nil", false},
	{"failed slot stays armed", "rows.go",
		"	if err := m.Boot.Disarm(job.Slot); err != nil {\n		return fmt.Errorf(\"disarm slot %s: %w\", job.Slot, err)\n	}\n	if booted", "	if booted", false},
	{"components stay when the image goes back", "rows.go", "if err := m.undo(ctx, job); err != nil {", "if err := error(nil); err != nil {", false},
	{"components not installed before the restart", "download.go", "if err := m.install(ctx, job); err != nil {", "if err := error(nil); err != nil {", false},
}

// TestMutation makes each mistake in a copy of the source, builds these tests against it, and wants them to fail. So the
// power-cut tests are known to see what they are for.
func TestMutation(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command to build the mutants with")
	}
	if host, err := exec.Command(tool, "env", "GOHOSTARCH").Output(); err != nil || strings.TrimSpace(string(host)) != runtime.GOARCH {
		t.Skip("the mutants run where they are built")
	}
	for _, m := range mutations {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			if !m.quick && os.Getenv("BACKSTAY_LONG") != "1" {
				t.Skip("long suite: run `make cut`")
			}
			t.Parallel()
			mutant := m.build(t, tool)
			out, err := exec.Command(mutant, "-test.run", "^TestCut(None|Everywhere|Faults|Components)$").CombinedOutput()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
				t.Fatalf("nobody noticed (%v)\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, "image") || strings.Contains(line, "component") {
					t.Log(strings.TrimSpace(line))
					break
				}
			}
		})
	}
}

// build compiles the tests of this package with the mistake in it.
func (m mutation) build(t *testing.T, tool string) string {
	t.Helper()
	src, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(src), m.old); n != 1 {
		t.Fatalf("%s has this passage %d times, not once; the table of mutations is out of date:\n%s", m.file, n, m.old)
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, m.file)
	if err := os.WriteFile(changed, []byte(strings.Replace(string(src), m.old, m.new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{here: changed}})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	mutant := filepath.Join(dir, "mutant.test")
	if out, err := exec.Command(tool, "test", "-c", "-overlay", list, "-o", mutant, ".").CombinedOutput(); err != nil {
		t.Fatalf("build mutant: %v\n%s", err, out)
	}
	return mutant
}
