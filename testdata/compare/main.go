// SPDX-License-Identifier: Apache-2.0

// Command compare judges scanners on the roots of mkroots.sh: which planted defects they report, and what they report on the
// clean twin. run.sh calls it; it is not part of any binary that ships.
//
//	compare scan ROOT PROFILE...        our engine on ROOT as an image; the report on standard output
//	compare score KIND DIR ...          one row of the table for each tool whose results are in DIR
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/backstay/backstay/configs"
)

func main() {
	err := errors.New("usage: compare scan ROOT PROFILE... | compare score KIND ROOTS RESULTS")
	switch {
	case len(os.Args) >= 4 && os.Args[1] == "scan":
		err = scan(os.Args[2], os.Args[3:])
	case len(os.Args) == 5 && os.Args[1] == "score":
		err = score(os.Args[2], os.Args[3], os.Args[4])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func scan(dir string, profiles []string) error {
	p, err := configs.Load(profiles...)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	e := configs.Engine{Root: root, Policy: p, Now: time.Now}
	r, err := e.Check(context.Background())
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// planted is a line of the list that mkroots.sh writes.
type planted struct {
	Kind, ID, Path, Description string
	Rules, Match                []string
}

func readList(name string) ([]planted, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []planted
	for s := bufio.NewScanner(f); s.Scan(); {
		var p planted
		if err := json.Unmarshal(s.Bytes(), &p); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(p.Match) == 0 {
			p.Match = []string{p.Path}
		}
		out = append(out, p)
	}
	return out, nil
}

// covers reports whether a finding of our engine is attributable to p: its rule is one of those that count, and its evidence
// names what was planted.
func (p planted) covers(f configs.Finding) bool {
	if f.Result != configs.Fail || !slices.ContainsFunc(p.Rules, func(g string) bool { ok, _ := path.Match(g, f.Rule); return ok }) {
		return false
	}
	for _, e := range f.Evidence {
		text := strings.Join([]string{e.Subject, e.Where, e.Observed}, "\n")
		if slices.ContainsFunc(p.Match, func(m string) bool { return strings.Contains(text, m) }) {
			return true
		}
	}
	return false
}

func readReport(name string) (configs.Report, error) {
	var r configs.Report
	data, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	return r, err
}

// score prints one row for each tool, then what was missed and what was said about the clean twin.
func score(kind, roots, results string) error {
	list, err := readList(filepath.Join(roots, kind+".json"))
	if err != nil {
		return err
	}
	defects := slices.DeleteFunc(slices.Clone(list), func(p planted) bool { return p.Kind != "defect" })
	bad, err := readReport(filepath.Join(results, kind+".planted.backstay"))
	if err != nil {
		return err
	}
	clean, err := readReport(filepath.Join(results, kind+".clean.backstay"))
	if err != nil {
		return err
	}
	var missed []string
	for _, p := range defects {
		if !slices.ContainsFunc(bad.Findings, p.covers) {
			missed = append(missed, fmt.Sprintf("%s %s: %s", p.ID, p.Path, p.Description))
		}
	}
	var falses, unknown []string
	for _, f := range clean.Findings {
		switch f.Result {
		case configs.Fail:
			falses = append(falses, f.Rule+": "+about(f))
		case configs.Unknown:
			unknown = append(unknown, f.Rule+": "+f.Reason)
		}
	}
	row(kind, "backstay", len(defects)-len(missed), len(defects), len(falses), results)
	for _, tool := range []string{"lynis", "oscap", "khc"} {
		if err := scorePeer(kind, tool, results, defects); err != nil {
			return err
		}
	}
	for what, lines := range map[string][]string{"missed by backstay": missed, "backstay on the clean twin": falses, "unknown to backstay on the clean twin": unknown} {
		section(kind, what, lines)
	}
	return nil
}

func about(f configs.Finding) string {
	if len(f.Evidence) == 0 {
		return f.Reason
	}
	e := f.Evidence[0]
	return fmt.Sprintf("%s %s: %s, want %s", e.Where, e.Subject, e.Observed, e.Expected)
}

func section(kind, what string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(os.Stderr, "\n%s, %s: %d\n", kind, what, len(lines))
	for _, l := range lines {
		fmt.Fprintln(os.Stderr, "  "+l)
	}
}

func row(kind, tool string, found, all, falses int, results string) {
	wall, cpu, rss := cost(filepath.Join(results, kind+".planted."+tool+".time"))
	fmt.Printf("| %s | %s | %d | %d | %d | %s | %s | %s |\n", kind, tool, found, all-found, falses, wall, cpu, rss)
}

// cost reads what /usr/bin/time -f '%e %U %S %M' wrote.
func cost(name string) (wall, cpu, rss string) {
	data, err := os.ReadFile(name)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	var w, user, system, kb float64
	if n, _ := fmt.Sscan(lines[len(lines)-1], &w, &user, &system, &kb); err != nil || n != 4 {
		return "?", "?", "?"
	}
	return fmt.Sprintf("%.1f s", w), fmt.Sprintf("%.1f s", user+system), fmt.Sprintf("%.1f MB", kb/1024)
}
