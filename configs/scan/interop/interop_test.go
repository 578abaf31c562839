// SPDX-License-Identifier: Apache-2.0

// Package interop holds the reports and the published schema against other people's readers and validators.
package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/scan"
	"github.com/backstay/backstay/testdata/plantroot"
	"github.com/joshdk/go-junit"
	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
	"github.com/xeipuuv/gojsonschema"
)

// result is a report with everything in it: open, waived and known problems, unknown rules, notes, names that need escaping.
func result(t *testing.T) scan.Result {
	t.Helper()
	dir := t.TempDir()
	if _, err := plantroot.Plant(dir); err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(dir, "usr/bin/a b:c%d\x01<&é")
	if err := os.WriteFile(odd, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(odd, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	p, err := configs.Load("base")
	if err != nil {
		t.Fatal(err)
	}
	p.Waivers = []configs.Waiver{{Rule: "account.weak-hash", Reason: "gone in <spring>", By: "me", Expires: now.AddDate(0, 1, 0)}}
	s, err := scan.Open(context.Background(), dir, nil, scan.Options{AssumeRoot: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Notes = append(s.Notes, "a note")
	r, err := scan.Run(context.Background(), s, p, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Report.Findings {
		if f := &r.Report.Findings[i]; f.Rule == "mount.tmp" {
			f.Result, f.Reason, f.Evidence = configs.Unknown, "cannot tell", nil
		}
	}
	r = scan.NewResult(s, p, r.Report)
	b := r.Baseline(scan.Baseline{})
	b.Known = append(b.Known[:3], scan.KnownFinding{Rule: "gone.rule", Fingerprint: "00"})
	r.Accept(b)
	r.Judge("low")
	return r
}

// sarifSchema is the schema of the standard (2.1.0 with errata 01), as go-sarif carries it.
func sarifSchema(t *testing.T) gojsonschema.JSONLoader {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/owenrumney/go-sarif/v3").Output()
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "pkg/report/v210/sarif/schema.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(src), "`")
	text, _, ok := strings.Cut(text, "`")
	if !ok || !strings.Contains(text, "sarif/v2.1.0/errata01") {
		t.Fatal("go-sarif keeps its schema elsewhere")
	}
	return gojsonschema.NewStringLoader(text)
}

func validate(t *testing.T, s *gojsonschema.Schema, doc []byte) []string {
	t.Helper()
	r, err := s.Validate(gojsonschema.NewBytesLoader(doc))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range r.Errors() {
		out = append(out, e.String())
	}
	return out
}

func compile(t *testing.T, l gojsonschema.JSONLoader) *gojsonschema.Schema {
	t.Helper()
	s, err := gojsonschema.NewSchema(l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSARIFIsValid(t *testing.T) {
	r := result(t)
	var b bytes.Buffer
	if err := r.WriteSARIF(&b, "1.2.3"); err != nil {
		t.Fatal(err)
	}
	s := compile(t, sarifSchema(t))
	if errs := validate(t, s, b.Bytes()); len(errs) > 0 {
		t.Errorf("SARIF: %s", strings.Join(errs, "\n"))
	}
	if errs := validate(t, s, bytes.Replace(b.Bytes(), []byte(`"ruleId"`), []byte(`"ruleID"`), 1)); len(errs) == 0 {
		t.Error("the schema lets everything pass")
	}
	log, err := sarif.FromBytes(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	run := log.Runs[0]
	suppressed := 0
	for _, res := range run.Results {
		if *run.Tool.Driver.Rules[res.RuleIndex].ID != *res.RuleID {
			t.Errorf("result of %s points at rule %d", *res.RuleID, res.RuleIndex)
		}
		if len(res.Suppressions) > 0 {
			suppressed++
		}
		uri := *res.Locations[0].PhysicalLocation.ArtifactLocation.URI
		if strings.HasPrefix(uri, "/") || strings.ContainsAny(uri, " <\x01") {
			t.Errorf("%s is at %q", *res.RuleID, uri)
		}
	}
	if len(run.Results) != len(r.Problems) || suppressed < 4 {
		t.Errorf("%d results of %d problems, %d suppressed", len(run.Results), len(r.Problems), suppressed)
	}
}

func TestJUnitIsRead(t *testing.T) {
	r := result(t)
	var b bytes.Buffer
	if err := r.WriteJUnit(&b); err != nil {
		t.Fatal(err)
	}
	suites, err := junit.Ingest(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	got := map[junit.Status]int{}
	tests := 0
	for _, s := range suites {
		tests += len(s.Tests)
		for _, c := range s.Tests {
			got[c.Status]++
		}
	}
	if tests != len(r.Report.Findings) || got[junit.StatusError] != 1 || got[junit.StatusFailed] < 10 || got[junit.StatusSkipped] < 1 {
		t.Errorf("%d tests of %d rules, %v", tests, len(r.Report.Findings), got)
	}
}

func TestPolicySchema(t *testing.T) {
	var b bytes.Buffer
	if err := scan.WritePolicySchema(&b); err != nil {
		t.Fatal(err)
	}
	s := compile(t, gojsonschema.NewBytesLoader(b.Bytes()))
	docs, err := filepath.Glob("../../baseline/*.json")
	if err != nil || len(docs) == 0 {
		t.Fatal(err)
	}
	sets, _ := filepath.Glob("../../baseline/rules/*.json")
	for _, name := range append(docs, sets...) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if errs := validate(t, s, data); len(errs) > 0 {
			t.Errorf("%s: %s", name, strings.Join(errs, "\n"))
		}
	}
	rule := `{"id": "a.b", "title": "T", "why": "W", "severity": "low", "kind": "file-absent", "target": "/x"}`
	good := `{"schema": 1, "id": "x", "serial": 1, "rules": [` + rule + `], "waivers": [{"rule": "a.b", "reason": "r", "by": "b", "expires": "2030-01-01T00:00:00Z"}]}`
	if errs := validate(t, s, []byte(good)); len(errs) > 0 {
		t.Errorf("a good policy: %q", errs)
	}
	for _, bad := range []struct{ old, new string }{
		{`"schema": 1`, `"schema": 2`}, {`"serial": 1`, `"serial": -1`}, {`"serial": 1`, `"serial": 9007199254740992`}, {`"serial": 1,`, ``},
		{`"id": "x"`, `"name": "x"`}, {`"low"`, `"bad"`}, {`"kind": "file-absent"`, `"kind": "file-abscent"`}, {`"kind": "file-absent"`, `"kind": "file-absent", "all": []`},
		{`"kind": "file-absent", `, ``}, {`"target": "/x"`, `"target": "/x", "want": {"alsoo": []}`}, {`"target": "/x"`, `"target": "/x", "want": {"also": "y"}`},
		{`"target": "/x"`, `"target": "/x", "mode": "on"`}, {`"target": "/x"`, `"target": "/x", "fix": "always"`}, {`, "expires": "2030-01-01T00:00:00Z"`, ``},
		{`"target": "/x"`, `"target": "/x", "applies": {"os": "debian"}`},
	} {
		doc := strings.Replace(good, bad.old, bad.new, 1)
		if errs := validate(t, s, []byte(doc)); len(errs) == 0 {
			t.Errorf("the schema accepts %s", doc)
		}
		if _, err := configs.ParsePolicy([]byte(doc)); err == nil {
			t.Errorf("the linter accepts %s", doc)
		}
	}
	if !json.Valid([]byte(good)) {
		t.Error("bad sample")
	}
}
