// SPDX-License-Identifier: Apache-2.0

package cli

// What can be wrong about a typed line. Every message names the thing typed, and `next:` is a line that can be pasted: the
// corrected one when we know it, otherwise the command's synopsis.

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// parse parses args into fs and words what is wrong with them.
func (a *App) parse(fs *flag.FlagSet, path, args []string) ([]string, error) {
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	err := fs.Parse(args)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return fs.Args(), err
	}
	e := &Error{Exit: ExitUsage, Code: "bad-flag", What: err.Error(), Next: a.typed(path) + " --help", Err: err}
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		e.Code, e.What = "unknown-flag", "unknown flag --"+name
		if owner := a.flagOwner(name); path == nil && owner != "" {
			e.Why = "--" + name + " is a flag of a command and goes after its name"
			e.Next = owner + " --" + name
		} else if near := Nearest(name, flagNames(fs)); near != "" {
			e.Why = "the nearest flag is --" + near
		}
	} else if name, ok := strings.CutPrefix(err.Error(), "flag needs an argument: -"); ok {
		e.Code, e.What = "missing-value", "flag --"+name+" needs a value"
	}
	return nil, e
}

// flagOwner names the first command that has a flag of that name; "" when there is none.
func (a *App) flagOwner(name string) string {
	owner := ""
	a.walk(func(path []string, cmd *Command) {
		if owner == "" && cmd.Flags != nil {
			fs := flag.NewFlagSet("", flag.ContinueOnError)
			cmd.Flags(fs)
			if fs.Lookup(name) != nil {
				owner = a.typed(path)
			}
		}
	})
	return owner
}

// walk visits every action of the table in order.
func (a *App) walk(visit func(path []string, cmd *Command)) {
	var level func(path []string, cmds []*Command)
	level = func(path []string, cmds []*Command) {
		for _, c := range cmds {
			p := append(path[:len(path):len(path)], c.Name)
			if c.Sub == nil {
				visit(p, c)
			}
			level(p, c.Sub)
		}
	}
	level(nil, a.Commands)
}

func flagNames(fs *flag.FlagSet) []string {
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return names
}

// checkOrder finds a flag behind an argument, where the flag package takes it for an argument, and puts the line together
// again in the right order. The corrected line is offered only when it needs no shell quoting.
func (a *App) checkOrder(fs *flag.FlagSet, path, args, rest []string) error {
	if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
		return nil // said on purpose: everything after -- is an argument
	}
	var flags, words []string
	first := ""
	for i := 0; i < len(rest); i++ {
		s := rest[i]
		if len(s) < 2 || s[0] != '-' || s == "--" {
			words = append(words, s)
			continue
		}
		if first == "" {
			first = s
		}
		flags = append(flags, s)
		name, _, hasValue := strings.Cut(strings.TrimLeft(s, "-"), "=")
		if f := fs.Lookup(name); f != nil && !hasValue && !isBool(f) && i+1 < len(rest) {
			i++
			flags = append(flags, rest[i])
		}
	}
	if first == "" {
		return nil
	}
	if name, _, _ := strings.Cut(strings.TrimLeft(first, "-"), "="); name == "h" || name == "help" {
		return &Error{Exit: ExitUsage, Code: "flag-order", What: first + " must come before the arguments",
			Why: "everything after the first argument is an argument", Next: a.typed(path) + " --help"}
	}
	line := append(append(append([]string{}, args[:len(args)-len(rest)]...), flags...), words...)
	e := &Error{Exit: ExitUsage, Code: "flag-order", What: "flag " + quote(first) + " must come before the arguments",
		Why: "everything after the first argument is an argument", Next: a.typed(path) + " --help"}
	if plain(line) {
		e.Next = a.typed(path) + " " + strings.Join(line, " ")
	}
	return e
}

// plain reports whether no word needs quoting in a shell.
func plain(words []string) bool {
	for _, w := range words {
		if w == "" {
			return false
		}
		for _, r := range w {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,@%+", r)) {
				return false
			}
		}
	}
	return true
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// arg is one word of Command.Args.
type arg struct {
	name     string
	optional bool
	many     bool
	choices  []string // set for "a|b|c"
}

// parseArgs reads Command.Args: NAME, [NAME], NAME..., [NAME...], a|b|c.
func parseArgs(spec string) []arg {
	var out []arg
	for _, w := range strings.Fields(spec) {
		var p arg
		if t, ok := strings.CutPrefix(w, "["); ok {
			p.optional, w = true, strings.TrimSuffix(t, "]")
		}
		w, p.many = strings.CutSuffix(w, "...")
		p.name = w
		if strings.Contains(w, "|") {
			p.choices = strings.Split(w, "|")
		}
		out = append(out, p)
	}
	return out
}

// checkArgs checks count and choices.
func checkArgs(spec string, args []string) *Error {
	left := args
	for _, p := range parseArgs(spec) {
		if len(left) == 0 {
			if p.optional {
				return nil
			}
			return &Error{Exit: ExitUsage, Code: "missing-argument", What: "missing " + p.name}
		}
		if p.choices != nil && !contains(p.choices, left[0]) {
			e := &Error{Exit: ExitUsage, Code: "bad-argument", What: quote(left[0]) + " is not one of " + strings.Join(p.choices, ", ")}
			if near := Nearest(left[0], p.choices); near != "" {
				e.Why = "the nearest is " + quote(near)
			}
			return e
		}
		if p.many {
			return nil
		}
		left = left[1:]
	}
	if len(left) > 0 {
		e := &Error{Exit: ExitUsage, Code: "extra-argument", What: fmt.Sprintf("unexpected argument %s", quote(left[0]))}
		if spec == "" {
			e.Why = "this command takes no arguments"
		}
		return e
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// Nearest returns the candidate closest to name, or "" when none is close enough to be what was meant: at most one edit for
// up to four letters, two up to eight, a third of the length beyond. Swapped neighbours are one edit. Of equals, the one with the
// same first letter wins, then the first.
func Nearest(name string, candidates []string) string {
	if len(name) > 64 {
		return ""
	}
	limit := max(1, (len(name)+3)/4)
	if len(name) > 8 {
		limit = len(name) / 3
	}
	best, bestDist := "", limit+1
	for _, c := range candidates {
		d := distance(name, c)
		if d < bestDist || d == bestDist && d <= limit && !sameStart(name, best) && sameStart(name, c) {
			best, bestDist = c, d
		}
	}
	return best
}

func sameStart(a, b string) bool { return a != "" && b != "" && a[0] == b[0] }

// distance is the optimal string alignment distance of two short ASCII words.
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
