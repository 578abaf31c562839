// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/backstay/backstay/configs/probe"
)

const (
	diffContext = 3       // unchanged lines around a change
	maxDiffWork = 1 << 20 // cells of the comparison table; beyond it the changed middle is shown whole
)

// diffOf shows a change as people read it. Secrets are masked, so the text may go into a log or a terminal.
func diffOf(c probe.Change) string {
	name := quoted(c.Path)
	switch c.Op {
	case probe.Chmod:
		return fmt.Sprintf("mode %s: %s -> %s\n", name, probe.OctalMode(c.OldMode), probe.OctalMode(c.Mode))
	case probe.Unlink:
		return fmt.Sprintf("unlink %s, which says %s\n", name, quoted(string(c.Before)))
	case probe.Symlink:
		return fmt.Sprintf("link %s -> %s\n", name, quoted(string(c.After)))
	case probe.Signal:
		return fmt.Sprintf("signal %s to %s, process %d\n", c.To.Name, quoted(c.To.Exe), c.To.PID)
	case probe.Remount:
		return fmt.Sprintf("mount %s: %s -> %s\n", name, orNone(string(c.Before)), orNone(string(c.After)))
	case probe.Capability:
		return fmt.Sprintf("capabilities %s: %s -> %s\n", name, orNone(probe.CapabilityText(c.Before)), orNone(probe.CapabilityText(c.After)))
	case probe.Create:
		return "--- /dev/null\n+++ " + name + "\n" + hunks(nil, lines(c.After, c.Redact))
	case probe.Remove:
		return "--- " + name + "\n+++ /dev/null\n" + hunks(lines(c.Before, c.Redact), nil)
	default:
		return "--- " + name + "\n+++ " + name + "\n" + hunks(lines(c.Before, c.Redact), lines(c.After, c.Redact))
	}
}

// quoted is a name that can go into one line.
func quoted(s string) string { return strings.Trim(strconv.QuoteToASCII(s), `"`) }
func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// lines splits text; control characters are quoted so that a hostile file cannot drive a terminal.
func lines(data []byte, redact func(string) string) []string {
	var out []string
	for l := range bytes.Lines(data) {
		s := strings.TrimSuffix(string(l), "\n")
		if redact != nil {
			s = redact(s)
		}
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f || r == '\uFFFD' }) {
			s = strings.Trim(strconv.QuoteToASCII(s), `"`)
		}
		out = append(out, s)
	}
	return out
}

// maskLine hides the second field of a line of passwd or shadow form, whatever file it is from.
func maskLine(line string) string { return probe.MaskHash(line) }

type edit struct {
	op   byte // ' ', '-', '+'
	text string
}

// hunks is the body of a unified difference.
func hunks(a, b []string) string {
	edits := compare(a, b)
	var out strings.Builder
	for i := 0; i < len(edits); {
		if edits[i].op == ' ' {
			i++
			continue
		}
		from := max(0, i-diffContext)
		end, same := i, 0
		for end < len(edits) && same <= 2*diffContext {
			if edits[end].op == ' ' {
				same++
			} else {
				same = 0
			}
			end++
		}
		end -= max(0, same-diffContext)
		writeHunk(&out, edits, from, end)
		i = end
	}
	return out.String()
}

func writeHunk(out *strings.Builder, edits []edit, from, end int) {
	oldLine, newLine := 1, 1
	for _, e := range edits[:from] {
		if e.op != '+' {
			oldLine++
		}
		if e.op != '-' {
			newLine++
		}
	}
	olds, news := 0, 0
	for _, e := range edits[from:end] {
		if e.op != '+' {
			olds++
		}
		if e.op != '-' {
			news++
		}
	}
	fmt.Fprintf(out, "@@ -%s +%s @@\n", span(oldLine, olds), span(newLine, news))
	for _, e := range edits[from:end] {
		out.WriteByte(e.op)
		out.WriteString(e.text)
		out.WriteByte('\n')
	}
}

func span(line, n int) string {
	if n == 0 {
		line--
	}
	return fmt.Sprintf("%d,%d", line, n)
}

// compare gives a shortest edit from a to b, by longest common subsequence between the common ends.
func compare(a, b []string) []edit {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	var out []edit
	add := func(op byte, list []string) {
		for _, s := range list {
			out = append(out, edit{op, s})
		}
	}
	add(' ', a[:head])
	out = append(out, middle(a[head:len(a)-tail], b[head:len(b)-tail])...)
	add(' ', a[len(a)-tail:])
	return out
}

func middle(a, b []string) []edit {
	var out []edit
	if len(a) == 0 || len(b) == 0 || int64(len(a))*int64(len(b)) > maxDiffWork {
		for _, s := range a {
			out = append(out, edit{'-', s})
		}
		for _, s := range b {
			out = append(out, edit{'+', s})
		}
		return out
	}
	w := len(b) + 1
	best := make([]int32, (len(a)+1)*w)
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				best[i*w+j] = best[(i+1)*w+j+1] + 1
			} else {
				best[i*w+j] = max(best[(i+1)*w+j], best[i*w+j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, edit{' ', a[i]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && best[(i+1)*w+j] >= best[i*w+j+1]:
			out = append(out, edit{'-', a[i]})
			i++
		default:
			out = append(out, edit{'+', b[j]})
			j++
		}
	}
	return out
}
