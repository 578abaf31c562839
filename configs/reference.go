// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"io"
	"strings"

	"github.com/backstay/backstay/configs/probe"
)

// WriteReference writes the reference page of the built-in profiles and of the kinds of rules, in Markdown.
// docs/baseline.md is its output; a test compares them.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Baseline rules\n\nGenerated from `configs/baseline` by `go test ./configs -run Reference -update`; edit the rules, not this page.\n")
	b.WriteString("\n**fix** is applied whenever fixes are applied; **fix-with-confirm** could lock somebody out and is applied when it is named,\n" +
		"or on trial; **report** is mended in the image or by hand. A rule passes only on evidence that names what was inspected;\n" +
		"where a function is absent the rule does not apply, and says how that is known.\n")
	for _, name := range profileOrder() {
		if err := writeDocument(&b, "Profile "+name, name); err != nil {
			return err
		}
	}
	for _, name := range RuleSets() {
		if err := writeDocument(&b, "Rules: "+name, name); err != nil {
			return err
		}
	}
	writeKinds(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// profileOrder puts base first: the others extend it.
func profileOrder() []string {
	out := []string{"base"}
	for _, name := range Profiles() {
		if name != "base" {
			out = append(out, name)
		}
	}
	return out
}

func writeDocument(b *strings.Builder, heading, name string) error {
	p, err := builtin(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "\n## %s\n\n%s.", heading, p.Title)
	if len(p.Extends) > 0 {
		fmt.Fprintf(b, " Made of %s.", strings.Join(p.Extends, ", "))
	}
	if len(p.Omits) > 0 {
		fmt.Fprintf(b, " Without %s.", strings.Join(p.Omits, ", "))
	}
	b.WriteByte('\n')
	if len(p.Rules) > 0 {
		b.WriteString("\n| rule | severity | fix | references |\n|---|---|---|---|\n")
	}
	for _, r := range p.Rules {
		fmt.Fprintf(b, "| [%s](#%s) | %s | %s | %s |\n", r.ID, anchor(r.ID), r.Severity, fixOf(r), strings.Join(r.Refs, ", "))
	}
	for _, a := range p.Adjust {
		fmt.Fprintf(b, "\n%s is stricter here:%s\n", a.Rule, adjustText(a))
	}
	for _, r := range p.Rules {
		fmt.Fprintf(b, "\n### %s\n\n%s. %s\n\n", r.ID, r.Title, r.Why)
		writeTest(b, r.Test, "")
		if r.Mode != "" {
			fmt.Fprintf(b, "- mode: %s\n", r.Mode)
		}
		if t := appliesText(r.Applies); t != "" {
			fmt.Fprintf(b, "- applies: %s\n", t)
		}
	}
	return nil
}

func adjustText(a Adjust) string {
	var out string
	if a.Mode != "" {
		out += " mode " + string(a.Mode)
	}
	if a.Severity != "" {
		out += " severity " + string(a.Severity)
	}
	if len(a.Want) > 0 {
		out += " want `" + compact(a.Want) + "`"
	}
	return out + "."
}

func fixOf(r Rule) FixClass {
	if r.Fix == "" {
		return FixReport
	}
	return r.Fix
}

func appliesText(a *Applies) string {
	if a == nil {
		return ""
	}
	var parts []string
	if a.Live != nil {
		parts = append(parts, map[bool]string{true: "on a running system", false: "to an image"}[*a.Live])
	}
	if len(a.OS) > 0 {
		parts = append(parts, "to "+strings.Join(a.OS, ", "))
	}
	if len(a.Exists) > 0 {
		parts = append(parts, "where there is "+strings.Join(a.Exists, " or "))
	}
	return strings.Join(parts, ", ")
}

func writeTest(b *strings.Builder, t Test, indent string) {
	list := func(name string, parts []Test) {
		if len(parts) == 0 {
			return
		}
		fmt.Fprintf(b, "%s- %s:\n", indent, name)
		for _, p := range parts {
			writeTest(b, p, indent+"  ")
		}
	}
	if t.Kind != "" {
		fmt.Fprintf(b, "%s- %s `%s`", indent, t.Kind, t.Target)
		if len(t.Want) > 0 {
			fmt.Fprintf(b, " `%s`", compact(t.Want))
		}
		b.WriteByte('\n')
	}
	list("all of", t.All)
	list("any of", t.Any)
	if t.Not != nil {
		list("not", []Test{*t.Not})
	}
}

// compact takes the line breaks out of JSON as it stands in a file.
func compact(raw []byte) string { return strings.Join(strings.Fields(string(raw)), " ") }

func writeKinds(b *strings.Builder) {
	b.WriteString("\n## Kinds\n\nWhat `kind`, `target` and `want` of a rule may be. A rule may combine kinds with `all`, `any` and `not`, three deep.\n")
	for _, k := range probe.Kinds() {
		fmt.Fprintf(b, "\n### kind %s\n\n- target: %s\n- want: %s\n", k.Name, k.Target, codeJSON(k.Want))
		if k.Fix == "" {
			b.WriteString("- fix: none, it only reports\n")
		} else {
			fmt.Fprintf(b, "- fix: %s\n", k.Fix)
		}
	}
}

// codeJSON sets the objects in a description as code.
func codeJSON(s string) string {
	if i := strings.LastIndexByte(s, '}'); i >= 0 && s[0] == '{' {
		return "`" + s[:i+1] + "`" + s[i+1:]
	}
	return s
}

// anchor is the link target that Markdown renderers make of a heading.
func anchor(heading string) string { return strings.ReplaceAll(heading, ".", "") }
