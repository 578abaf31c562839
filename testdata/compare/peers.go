// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	_ "embed"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// peers.tsv says which defects a finding of another tool speaks of: tool, finding, the ends of the defects' ids. A finding
// counts for all of them, when the tool has it on the planted root and not on the clean one.
//
//go:embed peers.tsv
var peersTable string

func scorePeer(kind, tool, results string, defects []planted) error {
	bad, err := peerFindings(tool, filepath.Join(results, kind+".planted."+tool))
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Printf("| %s | %s | did not run | | | | | |\n", kind, tool)
		return nil
	}
	if err != nil {
		return err
	}
	clean, err := peerFindings(tool, filepath.Join(results, kind+".clean."+tool))
	if err != nil {
		return err
	}
	found := map[string]bool{}
	var unknown []string
	for _, f := range bad {
		if slices.Contains(clean, f) {
			continue
		}
		ids := attributed(tool, f)
		if len(ids) == 0 {
			unknown = append(unknown, f)
		}
		for _, p := range defects {
			if slices.ContainsFunc(ids, func(id string) bool { return strings.HasSuffix(p.ID, id) }) {
				found[p.ID] = true
			}
		}
	}
	row(kind, tool, len(found), len(defects), len(clean), results)
	section(kind, tool+" has on the planted root only, attributed to no defect", unknown)
	return nil
}

func attributed(tool, finding string) []string {
	var out []string
	for line := range strings.Lines(peersTable) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) == 3 && f[0] == tool && strings.Contains(finding, f[1]) {
			out = append(out, strings.Fields(f[2])...)
		}
	}
	return out
}

// peerFindings lists what a tool complains about.
func peerFindings(tool, name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	if tool == "oscap" {
		return oscapFailures(f)
	}
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		switch {
		case tool == "lynis" && (strings.HasPrefix(line, "warning[]=") || strings.HasPrefix(line, "suggestion[]=")):
			out = append(out, line)
		case tool == "khc" && strings.Contains(line, "FAIL: "):
			if name := strings.Fields(line)[0]; !strings.HasPrefix(name, "[") {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

func oscapFailures(f *os.File) ([]string, error) {
	var out []string
	rule := ""
	d := xml.NewDecoder(f)
	for {
		t, err := d.Token()
		if err != nil {
			break
		}
		e, ok := t.(xml.StartElement)
		if !ok {
			continue
		}
		switch e.Name.Local {
		case "rule-result":
			for _, a := range e.Attr {
				if a.Name.Local == "idref" {
					rule = strings.TrimPrefix(a.Value, "xccdf_org.ssgproject.content_rule_")
				}
			}
		case "result":
			var v string
			if d.DecodeElement(&v, &e) == nil && v == "fail" {
				out = append(out, rule)
			}
		}
	}
	return out, nil
}
