// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func automatic() []string { return []string{"check", "download", "install", "reboot"} }

func TestLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "line")
	for word, want := range map[string]update.Line{"": update.LineFree, "free\n": update.LineFree, " metered ": update.LineMetered, "offline": update.LineOffline,
		"roaming": update.LineMetered, strings.Repeat("free ", 1000): update.LineMetered} {
		put(t, path, word)
		if got := line(config.Update{Line: "file", LineFile: path}); got != want {
			t.Errorf("%.20q is %s, want %s", word, got, want)
		}
		if got := line(config.Update{Line: "offline", LineFile: path}); got != update.LineOffline {
			t.Errorf("set in the configuration: %s", got)
		}
	}
	if got := line(config.Update{Line: "file", LineFile: path + "x"}); got != update.LineFree {
		t.Errorf("without a file: %s", got)
	}
	local := false
	p, err := newPolicy(config.Update{Line: "offline", Automatic: automatic(), Zone: "UTC"}, func() bool { return local })
	if err != nil {
		t.Fatal(err)
	}
	ask := func() bool { return p.Ask(t.Context(), update.Question{Step: update.StepCheck}).Allowed }
	if ask() {
		t.Error("an offline device asks its servers")
	}
	if local = true; !ask() {
		t.Error("an offline device does not look into a directory")
	}
}

func TestConditions(t *testing.T) {
	dir := t.TempDir()
	battery, calls := filepath.Join(dir, "capacity"), filepath.Join(dir, "calls")
	program := func(code string) config.Condition {
		return config.Condition{Name: "idle", Argv: []string{"/bin/sh", "-c", "echo x >>" + calls + "; exit " + code}, Timeout: config.Duration(10 * time.Second)}
	}
	file := config.Condition{Name: "battery", File: battery, Min: 30}
	for _, c := range []struct {
		capacity string
		x        config.Condition
		want     string // part of the reason, "" when it holds
	}{
		{"30\n", file, ""}, {"100", file, ""}, {"29", file, "holds 29, at least 30"}, {"full", file, "no whole number"}, {"", file, "no whole number"},
		{"30", program("0"), ""}, {"30", program("3"), "exit status 3"},
		{"30", config.Condition{Name: "away", Argv: []string{filepath.Join(dir, "nothing")}, Timeout: config.Duration(time.Second)}, "no such file"},
	} {
		put(t, battery, c.capacity)
		p, err := newPolicy(config.Update{Automatic: automatic(), Line: "free", Conditions: []config.Condition{c.x}}, func() bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		q := update.Question{Step: update.StepInstall, Release: update.Release{SHA256: [32]byte{1}}}
		d := p.Ask(t.Context(), q)
		if d.Allowed != (c.want == "") || !d.Allowed && !strings.Contains(d.Reasons[0].Why, c.want) {
			t.Errorf("%s with %q: %+v", c.x.Name, c.capacity, d)
		}
		q.Peek = true
		if again := p.Ask(t.Context(), q); again.Allowed != d.Allowed {
			t.Errorf("shown is %+v", again)
		}
	}
	if b, _ := os.ReadFile(calls); string(b) != "x\nx\n" {
		t.Errorf("the programs were run %d times", len(b)/2)
	}
	missing := fileCondition(config.Condition{File: filepath.Join(dir, "none")})
	if missing(t.Context(), false) == nil {
		t.Error("a file that is away holds")
	}
	fifo := filepath.Join(dir, "fifo")
	if err := mkfifo(fifo); err == nil && fileCondition(config.Condition{File: fifo})(t.Context(), false) == nil {
		t.Error("a pipe holds")
	}
}

func TestConsent(t *testing.T) {
	dir := t.TempDir()
	path, args := filepath.Join(dir, "consent"), filepath.Join(dir, "args")
	r := update.Release{Path: "p", Version: "3.0", Class: "security", SHA256: [32]byte{1}}
	for word, want := range map[string]update.Answer{"": update.AnswerNone, "approve 3.0\n": update.AnswerApprove, "reject 3.0": update.AnswerReject,
		"approve 2.0": update.AnswerNone, "approve": update.AnswerNone, "APPROVE 3.0": update.AnswerNone, "now 3.0": update.AnswerNone} {
		put(t, path, word)
		if got, _ := (&consent{file: path}).ask(t.Context(), r, false); got != want {
			t.Errorf("%q is %q, want %q", word, got, want)
		}
	}
	for code, want := range map[string]update.Answer{"0": update.AnswerApprove, "1": update.AnswerReject, "2": update.AnswerNone} {
		c := &consent{argv: []string{"/bin/sh", "-c", `echo "$@" >` + args + "; exit " + code, "sh"}}
		if got, _ := c.ask(t.Context(), r, true); got != update.AnswerNone {
			t.Errorf("a look runs the program: %q", got)
		}
		for range 3 {
			if got, by := c.ask(t.Context(), r, false); got != want || by == "" {
				t.Errorf("exit code %s is %q, want %q", code, got, want)
			}
		}
		if got, _ := c.ask(t.Context(), update.Release{Path: "other"}, true); got != update.AnswerNone {
			t.Errorf("an answer about another release counts: %q", got)
		}
		if b, _ := os.ReadFile(args); string(b) != "3.0 security\n" {
			t.Errorf("arguments %q", b)
		}
	}
	// The file decides before the program.
	put(t, path, "reject 3.0")
	if got, _ := (&consent{file: path, argv: []string{"/bin/true"}}).ask(context.Background(), r, false); got != update.AnswerReject {
		t.Errorf("%q", got)
	}
}

func TestNewPolicy(t *testing.T) {
	p, err := newPolicy(config.Update{Automatic: []string{"check", "reboot"}, Windows: []string{"Mon 10:00-11:00"}, WindowSteps: []string{"install"}, Zone: "+02:00",
		Line: "free", SecurityOnly: true, Metered: "never"}, func() bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Manual) != 2 || p.Manual[0] != update.StepDownload || p.Manual[1] != update.StepInstall || len(p.Windows) != 1 || !p.SecurityOnly || p.Metered != "never" {
		t.Errorf("policy %+v", p)
	}
	for _, c := range []config.Update{{Windows: []string{"x"}}, {Zone: "x"}} {
		if _, err := newPolicy(c, nil); err == nil {
			t.Errorf("%+v is a policy", c)
		}
	}
}
