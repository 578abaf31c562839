// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/backstay/backstay/configs"
)

// JUnit has no standard; these are the elements and attributes that Jenkins' and GitLab's readers agree on. A rule is a test
// case: it fails with open problems, is an error when it could not be judged, and is skipped when it does not apply or its
// problems are accepted.

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Time     string      `xml:"time,attr"`
	Stamp    string      `xml:"timestamp,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string     `xml:"name,attr"`
	Class   string     `xml:"classname,attr"`
	Time    string     `xml:"time,attr"`
	Skipped *junitText `xml:"skipped"`
	Error   *junitText `xml:"error"`
	Failure *junitText `xml:"failure"`
	Out     string     `xml:"system-out,omitempty"`
}

type junitText struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes the report as JUnit XML, a suite for each area.
func (r *Result) WriteJUnit(w io.Writer) error {
	out := junitSuites{Name: "backstay scan " + r.Image}
	var times []int64
	for _, f := range r.Report.Findings {
		area, _, _ := strings.Cut(f.Rule, ".")
		i := 0
		for i < len(out.Suites) && out.Suites[i].Name != area {
			i++
		}
		if i == len(out.Suites) {
			out.Suites = append(out.Suites, junitSuite{Name: area, Stamp: r.Report.Started.UTC().Format("2006-01-02T15:04:05")})
			times = append(times, 0)
		}
		s := &out.Suites[i]
		c := r.junitCase(f)
		s.Cases = append(s.Cases, c)
		s.Tests++
		times[i] += f.Took
		s.Time = seconds(times[i])
		switch {
		case c.Failure != nil:
			s.Failures++
		case c.Error != nil:
			s.Errors++
		case c.Skipped != nil:
			s.Skipped++
		}
	}
	for _, s := range out.Suites {
		out.Tests, out.Failures, out.Errors = out.Tests+s.Tests, out.Failures+s.Failures, out.Errors+s.Errors
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(out); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func seconds(micros int64) string {
	return fmt.Sprintf("%.3f", (time.Duration(micros) * time.Microsecond).Seconds())
}

func (r *Result) junitCase(f configs.Finding) junitCase {
	c := junitCase{Name: f.Rule, Class: "backstay." + f.Rule, Time: seconds(f.Took)}
	var open, accepted []string
	for _, p := range r.Problems {
		switch {
		case p.Rule != f.Rule:
		case p.State == StateOpen:
			open = append(open, p.Line1())
		default:
			accepted = append(accepted, fmt.Sprintf("%s: %s (%s)", p.State, p.Line1(), p.Why))
		}
	}
	rule, _ := r.Policy.Rule(f.Rule)
	switch {
	case len(open) > 0 && f.Result == configs.Unknown:
		c.Error = &junitText{Message: "could not be judged: " + f.Reason, Type: "unknown", Text: strings.Join(open, "\n")}
	case len(open) > 0:
		c.Failure = &junitText{Message: fmt.Sprintf("%s: %s", rule.Title, open[0]), Type: string(f.Severity),
			Text: strings.Join(open, "\n") + "\n\nwhy: " + rule.Why + "\nfix: " + fixHint(rule)}
	case len(accepted) > 0:
		c.Skipped = &junitText{Message: strings.Join(accepted, "; ")}
	case f.Result == configs.NotApplicable:
		c.Skipped = &junitText{Message: f.Reason}
	default:
		c.Out = or(f.Reason, string(f.Result)) + "\ninspected: " + strings.Join(f.Inspected, ", ")
	}
	return c
}
