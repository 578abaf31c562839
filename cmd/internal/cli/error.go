// SPDX-License-Identifier: Apache-2.0

package cli

// How an error is worded, everywhere: `error:` one line in lower case without a full stop; `why:` the fact behind it, if there
// is one; `next:` one line that can be pasted or that names the person to ask. On Stderr, or as one JSON object on Stdout.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// ErrorSchema is the schema of an error in JSON mode.
const ErrorSchema = "backstay.error/1"

// Error is an error that knows how to be shown. Commands return it when they know more than App.Classify can.
type Error struct {
	Exit Exit
	Code string // stable kebab-case name; "" when the exit code says it all
	What string // the `error:` line
	Why  string // the `why:` line; more lines are indented below it
	Next string // the `next:` line
	Err  error

	quiet bool // the output has said it already: only the exit code is left
}

// Quiet makes an error that ends the command with its code and prints nothing: in JSON mode the data has said it, and a second
// object would break whoever parses the first.
func (e *Error) Quiet() *Error {
	c := *e
	c.quiet = true
	return &c
}

func (e *Error) Error() string {
	if e.Why == "" {
		return e.What
	}
	return e.What + ": " + e.Why
}

func (e *Error) Unwrap() error { return e.Err }

// Usagef is a usage error: exit code 2 and, when next is not set by the caller, the command's help as `next:`.
func Usagef(format string, args ...any) *Error {
	return &Error{Exit: ExitUsage, Code: "usage", What: fmt.Sprintf(format, args...)}
}

// Findings ends a command whose check ran and whose answer is bad (exit code 6). The command has printed the findings; what
// says how many, next what to do about them.
func Findings(what, next string) *Error {
	return &Error{Exit: ExitFindings, Code: "findings", What: what, Next: next}
}

// Reboot ends a command that is done and needs a reboot (exit code 4). It is reported as a remark, not as an error.
func Reboot(what, next string) *Error {
	return &Error{Exit: ExitReboot, Code: "reboot", What: what, Next: next}
}

// Coder is implemented by errors of other packages that carry a stable code.
type Coder interface{ ErrorCode() string }

// report shows err and returns the exit code.
func (a *App) report(env *Env, err error) Exit {
	e := a.classify(env, err)
	switch {
	case e.quiet:
	case env.JSON:
		writeErrorJSON(env.Stdout, e)
	default:
		writeErrorText(env.Stderr, e)
	}
	return e.Exit
}

// classify turns any error into one that can be shown.
func (a *App) classify(env *Env, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		c := *e
		if c.Exit == ExitOK {
			c.Exit = ExitFailed
		}
		if c.Exit == ExitUsage && c.Next == "" {
			c.Next = a.typed(env.path) + " --help"
		}
		return &c
	}
	e = &Error{Exit: ExitFailed, What: err.Error(), Err: err}
	if a.Classify != nil {
		e.Exit, e.Why, e.Next = a.Classify(err)
		// A refusal reads "what: why"; do not say the reason twice.
		if e.Why != "" {
			e.What = strings.TrimSuffix(e.What, ": "+e.Why)
		}
	}
	var coder Coder
	if errors.As(err, &coder) {
		e.Code = coder.ErrorCode()
	}
	if e.Exit == ExitOK {
		e.Exit = ExitFailed
	}
	return e
}

func writeErrorText(w io.Writer, e *Error) {
	label := "error: "
	if e.Exit == ExitReboot {
		label = "done:  "
	}
	writeLabelled(w, label, e.What)
	writeLabelled(w, "why:   ", e.Why)
	writeLabelled(w, "next:  ", e.Next)
}

// writeLabelled writes text behind a label; further lines are indented to it.
func writeLabelled(w io.Writer, label, text string) {
	if text == "" {
		return
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		if i > 0 {
			label = strings.Repeat(" ", len(label))
		}
		fmt.Fprintf(w, "%s%s\n", label, clean(line))
	}
}

func writeErrorJSON(w io.Writer, e *Error) {
	b, err := json.MarshalIndent(struct {
		Schema  string `json:"schema"`
		Class   string `json:"class"`
		Code    string `json:"code"`
		Exit    Exit   `json:"exit"`
		Message string `json:"message"`
		Why     string `json:"why"`
		Next    string `json:"next"`
	}{ErrorSchema, e.Exit.Class(), e.Code, e.Exit, e.What, e.Why, e.Next}, "", "  ")
	if err != nil {
		return // strings always marshal
	}
	w.Write(append(b, '\n')) //nolint:errcheck // nothing is left to tell it to
}

// clean makes text safe for a terminal: control characters and bidirectional overrides, which a hostile peer may have put
// into a name, are shown as escapes.
func clean(s string) string {
	if !strings.ContainsFunc(s, unsafeRune) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unsafeRune(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unsafeRune(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar
}

// quote puts typed text into double quotes, cut to a length that keeps the message on a line.
func quote(s string) string {
	if len(s) > 60 {
		s = s[:57] + "..."
	}
	return `"` + clean(s) + `"`
}
