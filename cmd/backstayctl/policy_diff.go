// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/probe"
)

// Risks of a change of policy, worst first.
const (
	riskExposes = "exposes"
	riskLockOut = "lock-out"
	riskChanges = "changes"
	riskReports = "reports"
	riskNone    = "-"
)

// policyChange is one thing that is another after a change of policy.
type policyChange struct {
	Risk     string `json:"risk"`
	Severity string `json:"severity"`
	Rule     string `json:"rule"`
	What     string `json:"what"`
	Before   string `json:"before"`
	After    string `json:"after"`
}

func exposing(list []policyChange) (n int) {
	for _, c := range list {
		if c.Risk == riskExposes {
			n++
		}
	}
	return n
}

// comparePolicies lists what changes from one policy in force to the next, worst first.
func comparePolicies(old, now configs.Policy) []policyChange {
	out := []policyChange{}
	for _, r := range now.Rules {
		before, had := old.Rule(r.ID)
		if !had {
			out = append(out, policyChange{enforcedRisk(r, now), string(r.Severity), r.ID, "rule", "", describeRule(r, now)})
			continue
		}
		out = append(out, compareRules(before, r, old, now)...)
	}
	for _, r := range old.Rules {
		if _, has := now.Rule(r.ID); !has {
			out = append(out, policyChange{riskExposes, string(r.Severity), r.ID, "rule", describeRule(r, old), ""})
		}
	}
	out = append(out, compareWaivers(old, now)...)
	order := []string{riskExposes, riskLockOut, riskChanges, riskReports, riskNone}
	severe := []string{"critical", "high", "medium", "low"}
	slices.SortStableFunc(out, func(a, b policyChange) int {
		if d := slices.Index(order, a.Risk) - slices.Index(order, b.Risk); d != 0 {
			return d
		}
		if d := slices.Index(severe, a.Severity) - slices.Index(severe, b.Severity); d != 0 {
			return d
		}
		return strings.Compare(a.Rule, b.Rule)
	})
	return out
}

// mode is the mode in force of a rule.
func mode(r configs.Rule, p configs.Policy) configs.Mode {
	if r.Mode != "" {
		return r.Mode
	}
	if p.Defaults.Mode != "" {
		return p.Defaults.Mode
	}
	return configs.Enforce
}

func modeRank(m configs.Mode) int {
	return slices.Index([]configs.Mode{configs.Off, configs.Audit, configs.Trial, configs.Enforce}, m)
}

// enforcedRisk is what a rule that applies from now on can do.
func enforcedRisk(r configs.Rule, p configs.Policy) string {
	m := mode(r, p)
	switch {
	case m == configs.Off:
		return riskNone
	case m == configs.Audit || r.Fix == "" || r.Fix == configs.FixReport:
		return riskReports
	case r.Fix == configs.FixConfirm:
		return riskLockOut
	}
	return riskChanges
}

func describeRule(r configs.Rule, p configs.Policy) string {
	fix := r.Fix
	if fix == "" {
		fix = configs.FixReport
	}
	return fmt.Sprintf("%s, %s: %s", mode(r, p), fix, r.Title)
}

func compareRules(before, now configs.Rule, oldPolicy, newPolicy configs.Policy) []policyChange {
	var out []policyChange
	add := func(risk, what, from, to string) {
		out = append(out, policyChange{risk, string(now.Severity), now.ID, what, from, to})
	}
	if a, b := mode(before, oldPolicy), mode(now, newPolicy); a != b {
		risk := enforcedRisk(now, newPolicy)
		if modeRank(b) < modeRank(a) {
			risk = riskExposes
		}
		add(risk, "mode", string(a), string(b))
	}
	if before.Severity != now.Severity {
		risk := riskReports
		if severityRank(now.Severity) < severityRank(before.Severity) {
			risk = riskExposes
		}
		add(risk, "severity", string(before.Severity), string(now.Severity))
	}
	if before.Fix != now.Fix {
		add(enforcedRisk(now, newPolicy), "fix", string(before.Fix), string(now.Fix))
	}
	if !bytes.Equal(compactJSON(before.Want), compactJSON(now.Want)) {
		risk := enforcedRisk(now, newPolicy)
		if !atLeastAsStrict(now, before) {
			risk = riskExposes
		}
		add(risk, "want", string(compactJSON(before.Want)), string(compactJSON(now.Want)))
	}
	return out
}

func severityRank(s configs.Severity) int {
	return slices.Index([]configs.Severity{configs.Low, configs.Medium, configs.High, configs.Critical}, s)
}

// atLeastAsStrict is false also where the kind cannot tell.
func atLeastAsStrict(now, before configs.Rule) bool {
	if now.Kind != before.Kind || now.Kind == "" {
		return false
	}
	k, err := probe.Find(now.Kind)
	if err != nil {
		return false
	}
	a, err := k.New(now.Target, now.Want)
	if err != nil {
		return false
	}
	b, err := k.New(before.Target, before.Want)
	if err != nil {
		return false
	}
	t, ok := a.(probe.Tightener)
	return ok && t.Tightens(b) == nil
}

// compareWaivers compares what is accepted, and until when. A waiver lasts no longer than its policy.
func compareWaivers(old, now configs.Policy) []policyChange {
	var out []policyChange
	key := func(w configs.Waiver) string { return w.Rule + "\x00" + strings.Join(w.Match, "\x00") }
	until := func(w configs.Waiver, p configs.Policy) string {
		end := w.Expires
		if !p.Expires.IsZero() && p.Expires.Before(end) {
			end = p.Expires
		}
		what := "all of it"
		if len(w.Match) > 0 {
			what = strings.Join(w.Match, ", ")
		}
		return fmt.Sprintf("%s until %s (%s)", what, end.UTC().Format("2006-01-02"), w.By)
	}
	had := map[string]string{}
	for _, w := range old.Waivers {
		had[key(w)] = until(w, old)
	}
	for _, w := range now.Waivers {
		before, is := had[key(w)]
		delete(had, key(w))
		if after := until(w, now); !is || after != before {
			out = append(out, policyChange{riskExposes, severityOf(now, w.Rule), w.Rule, "waiver", before, after})
		}
	}
	for _, w := range old.Waivers {
		if text, gone := had[key(w)]; gone {
			r, _ := now.Rule(w.Rule)
			out = append(out, policyChange{enforcedRisk(r, now), severityOf(now, w.Rule), w.Rule, "waiver", text, ""})
		}
	}
	return out
}

func severityOf(p configs.Policy, rule string) string {
	r, _ := p.Rule(rule)
	return string(r.Severity)
}

// compactJSON makes two ways to write one value comparable by eye.
func compactJSON(b []byte) []byte { return bytes.Join(bytes.Fields(b), []byte(" ")) }

func printPolicyDiff(env *cli.Env, list []policyChange) error {
	if env.JSON {
		return env.PrintJSON("backstayctl.policy.diff/1", struct {
			Changes []policyChange `json:"changes"`
		}{list})
	}
	if len(list) == 0 {
		fmt.Fprintln(env.Stdout, "nothing changes on the devices")
		return nil
	}
	t := env.Table("risk", "severity", "rule", "what", "before", "after")
	for _, c := range list {
		t.Row(c.Risk, c.Severity, c.Rule, c.What, orDash(c.Before), orDash(c.After))
	}
	return t.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
