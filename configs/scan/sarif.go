// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/backstay/backstay/configs"
)

// SARIF 2.1.0, the parts of it that this report has. The names are the standard's.

const (
	sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
	sarifRoot   = "IMAGEROOT" // base of all locations: the top of the image
)

type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool struct {
		Driver sarifDriver `json:"driver"`
	} `json:"tool"`
	Automation  sarifID                  `json:"automationDetails"`
	Invocations []sarifInvocation        `json:"invocations"`
	Bases       map[string]sarifArtifact `json:"originalUriBaseIds"`
	ColumnKind  string                   `json:"columnKind"`
	Results     []sarifResult            `json:"results"`
	Properties  map[string]any           `json:"properties,omitempty"`
}

type sarifID struct {
	ID string `json:"id"`
}

type sarifDriver struct {
	Name    string      `json:"name"`
	Version string      `json:"version,omitempty"`
	Rules   []sarifRule `json:"rules"`
}

type sarifText struct {
	Text     string `json:"text"`
	Markdown string `json:"markdown,omitempty"`
}

type sarifRule struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Short      sarifText      `json:"shortDescription"`
	Full       sarifText      `json:"fullDescription"`
	Help       sarifText      `json:"help"`
	Default    sarifLevel     `json:"defaultConfiguration"`
	Properties map[string]any `json:"properties"`
}

type sarifLevel struct {
	Level string `json:"level"`
}

type sarifInvocation struct {
	Success       bool                `json:"executionSuccessful"`
	Start         string              `json:"startTimeUtc,omitempty"`
	Notifications []sarifNotification `json:"toolExecutionNotifications,omitempty"`
}

type sarifNotification struct {
	Level   string    `json:"level"`
	Message sarifText `json:"message"`
	Rule    *sarifRef `json:"associatedRule,omitempty"`
}

type sarifRef struct {
	ID    string `json:"id"`
	Index int    `json:"index"`
}

type sarifResult struct {
	RuleID       string             `json:"ruleId"`
	RuleIndex    int                `json:"ruleIndex"`
	Kind         string             `json:"kind"`
	Level        string             `json:"level"`
	Message      sarifText          `json:"message"`
	Locations    []sarifLocation    `json:"locations"`
	Prints       map[string]string  `json:"partialFingerprints"`
	Suppressions []sarifSuppression `json:"suppressions"`
	State        string             `json:"baselineState,omitempty"`
	Properties   map[string]any     `json:"properties,omitempty"`
}

type sarifLocation struct {
	Physical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	} `json:"physicalLocation"`
	Logical []sarifLogical `json:"logicalLocations,omitempty"`
}

type sarifLogical struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
}

type sarifArtifact struct {
	URI         string     `json:"uri,omitempty"`
	Base        string     `json:"uriBaseId,omitempty"`
	Description *sarifText `json:"description,omitempty"`
}

type sarifRegion struct {
	StartLine int `json:"startLine"`
}

type sarifSuppression struct {
	Kind          string `json:"kind"`
	Status        string `json:"status"`
	Justification string `json:"justification"`
}

// WriteSARIF writes the report as SARIF. Problems that are waived or known are in it, suppressed, with the reason.
func (r *Result) WriteSARIF(w io.Writer, version string) error {
	run := sarifRun{ColumnKind: "utf16CodeUnits", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "backstayctl", Version: version, Rules: []sarifRule{}}
	run.Automation.ID = "backstay-scan/" + r.Report.Policy
	run.Bases = map[string]sarifArtifact{sarifRoot: {Description: &sarifText{Text: "the top of the root file system in " + printable(r.Image) + " (" + r.Kind + ")"}}}
	run.Properties = map[string]any{"image": r.Image, "kind": r.Kind, "policySerial": r.Report.Serial, "notes": r.Notes}
	inv := sarifInvocation{Success: true, Start: r.Report.Started.UTC().Format(time.RFC3339)}
	index := map[string]int{}
	for i, rule := range r.Policy.Rules {
		index[rule.ID] = i
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRuleOf(rule))
	}
	for _, n := range r.Notes {
		inv.Notifications = append(inv.Notifications, sarifNotification{Level: "note", Message: sarifText{Text: n}})
	}
	for _, p := range r.Problems {
		run.Results = append(run.Results, p.sarif(index[p.Rule], r.Known))
		if p.Result == configs.Unknown {
			inv.Notifications = append(inv.Notifications, sarifNotification{Level: "warning",
				Message: sarifText{Text: p.Rule + " could not be judged: " + p.Observed}, Rule: &sarifRef{p.Rule, index[p.Rule]}})
		}
	}
	run.Invocations = []sarifInvocation{inv}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(sarifLog{sarifSchema, "2.1.0", []sarifRun{run}})
}

func sarifRuleOf(rule configs.Rule) sarifRule {
	help := fmt.Sprintf("%s. %s\n\nFix: %s.", rule.Title, rule.Why, fixHint(rule))
	mark := fmt.Sprintf("**%s.** %s\n\n**Fix:** %s.", rule.Title, rule.Why, fixHint(rule))
	if len(rule.Refs) > 0 {
		help += "\n\nReferences: " + strings.Join(rule.Refs, ", ")
		mark += "\n\n**References:** " + strings.Join(rule.Refs, ", ")
	}
	area, _, _ := strings.Cut(rule.ID, ".")
	return sarifRule{
		ID: rule.ID, Name: camel(rule.ID), Short: sarifText{Text: rule.Title}, Full: sarifText{Text: rule.Why},
		Help: sarifText{Text: help, Markdown: mark}, Default: sarifLevel{level(rule.Severity)},
		Properties: map[string]any{
			"tags":              append([]string{"security", area}, rule.Refs...),
			"precision":         "very-high",
			"problem.severity":  map[string]string{"error": "error", "warning": "warning", "note": "recommendation"}[level(rule.Severity)],
			"security-severity": map[configs.Severity]string{configs.Critical: "9.5", configs.High: "8.0", configs.Medium: "5.5", configs.Low: "3.0"}[rule.Severity],
		},
	}
}

// camel makes a name of an id: ssh.root-login is SshRootLogin.
func camel(id string) string {
	var b strings.Builder
	for w := range strings.FieldsFuncSeq(id, func(r rune) bool { return r == '.' || r == '-' }) {
		b.WriteString(strings.ToUpper(w[:1]) + w[1:])
	}
	return b.String()
}

func level(s configs.Severity) string {
	switch s {
	case configs.Critical, configs.High:
		return "error"
	case configs.Medium:
		return "warning"
	}
	return "note"
}

// sarif makes a result. known says that a file of known findings was laid beside, so that what is not in it is new.
func (p Problem) sarif(index int, known bool) sarifResult {
	out := sarifResult{RuleID: p.Rule, RuleIndex: index, Kind: "fail", Level: level(p.Severity),
		Prints: map[string]string{"backstayProblem/v1": p.Fingerprint}, Suppressions: []sarifSuppression{},
		Properties: map[string]any{"severity": p.Severity, "observed": p.Observed, "expected": p.Expected}}
	out.Message.Text = fmt.Sprintf("%s, wanted: %s", or(p.Observed, "not so"), or(p.Expected, "otherwise"))
	if p.Subject != "" && p.Subject != p.Path {
		out.Message.Text = p.Subject + ": " + out.Message.Text
	}
	if p.Result == configs.Unknown {
		out.Kind, out.Level, out.Message.Text = "open", "none", "not judged: "+p.Observed
	}
	var at sarifLocation
	at.Physical.Artifact = sarifArtifact{URI: uriOf(p.Path), Base: sarifRoot}
	if p.Line > 0 {
		at.Physical.Region = &sarifRegion{p.Line}
	}
	if p.Subject != "" && p.Subject != p.Path {
		at.Logical = []sarifLogical{{p.Subject, "resource"}}
	}
	out.Locations = []sarifLocation{at}
	if p.State != StateOpen {
		out.Suppressions = append(out.Suppressions, sarifSuppression{"external", "accepted", string(p.State) + ": " + or(p.Why, "no reason is given")})
	}
	switch {
	case p.State == StateKnown:
		out.State = "unchanged"
	case known && p.State == StateOpen:
		out.State = "new"
	}
	return out
}

// uriOf is a path relative to the top of the image, as a URI.
func uriOf(p string) string {
	rel := strings.TrimPrefix(p, "/")
	if rel == "" {
		return "."
	}
	u := (&url.URL{Path: rel}).EscapedPath()
	if first, _, _ := strings.Cut(u, "/"); strings.Contains(first, ":") {
		return "./" + u // a colon would make a scheme of the first element
	}
	return u
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
