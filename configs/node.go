// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/backstay/backstay/configs/probe"
)

// node is a compiled Test.
type node struct {
	kind     probe.Kind
	check    probe.Check // leaf
	all, any []node
	not      *node
}

// compile turns a test into checks. depth counts the combinators above it.
func compile(t Test, depth int) (node, error) {
	given := 0
	for _, is := range []bool{t.Kind != "", len(t.All) > 0, len(t.Any) > 0, t.Not != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		return node{}, errors.New("want exactly one of kind, all, any and not")
	}
	if t.Kind != "" {
		k, err := probe.Find(t.Kind)
		if err != nil {
			return node{}, fmt.Errorf("kind: %w", err)
		}
		c, err := k.New(t.Target, t.Want)
		return node{kind: k, check: c}, err
	}
	if t.Target != "" || len(t.Want) > 0 {
		return node{}, errors.New("target and want belong inside the parts of all, any and not")
	}
	if depth++; depth > MaxCombinators {
		return node{}, fmt.Errorf("all, any and not nested deeper than %d", MaxCombinators)
	}
	var n node
	var err error
	if n.all, err = compileList("all", t.All, depth); err != nil {
		return node{}, err
	}
	if n.any, err = compileList("any", t.Any, depth); err != nil {
		return node{}, err
	}
	if t.Not != nil {
		part, err := compile(*t.Not, depth)
		if err != nil {
			return node{}, fmt.Errorf("not: %w", err)
		}
		n.not = &part
	}
	return n, nil
}

func compileList(name string, list []Test, depth int) ([]node, error) {
	var out []node
	for i, t := range list {
		n, err := compile(t, depth)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", name, i, err)
		}
		out = append(out, n)
	}
	return out, nil
}

// verdict runs a test.
func (n node) verdict(ctx context.Context, h *probe.Host) probe.Verdict {
	switch {
	case n.check != nil:
		return n.check.Check(ctx, h)
	case n.not != nil:
		return invert(n.not.verdict(ctx, h))
	case len(n.all) > 0:
		return combine(ctx, h, n.all, Fail, Pass)
	default:
		return combine(ctx, h, n.any, Pass, Fail)
	}
}

// combine runs parts. One part with the result decides settles it; else an unknown part leaves it open; else it is
// otherwise, if any part applied.
func combine(ctx context.Context, h *probe.Host, parts []node, decides, otherwise Result) probe.Verdict {
	by := map[Result]*probe.Verdict{}
	for _, p := range parts {
		v := p.verdict(ctx, h)
		if have := by[v.Result]; have != nil {
			merge(have, v)
		} else {
			by[v.Result] = &v
		}
	}
	for _, r := range []Result{decides, Unknown, RebootNeeded, otherwise, NotApplicable} {
		if v := by[r]; v != nil {
			return *v
		}
	}
	return probe.Verdict{Result: Unknown, Reason: "no part gave a result"}
}

func merge(into *probe.Verdict, v probe.Verdict) {
	into.Inspected = append(into.Inspected, v.Inspected...)
	into.Items = append(into.Items, v.Items...)
	into.More += v.More
	if len(into.Items) > probe.MaxItems {
		into.More += len(into.Items) - probe.MaxItems
		into.Items = into.Items[:probe.MaxItems]
	}
	if v.Reason != "" && v.Reason != into.Reason {
		into.Reason += "; " + v.Reason
	}
	if into.Implementation == "" {
		into.Implementation = v.Implementation
	}
}

// invert swaps pass and fail.
func invert(v probe.Verdict) probe.Verdict {
	switch v.Result {
	case Pass:
		v.Result = Fail
		v.Items = []probe.Item{{Subject: "not", Observed: v.Reason, Expected: "not so"}}
	case Fail:
		v.Result, v.Reason = Pass, v.Items[0].Observed+" at "+v.Items[0].Where
		v.Items, v.More = nil, 0
	}
	return v
}

// steps lists the checks whose fixes mend the test, in order. Of alternatives the first is the one to mend.
func (n node) steps() []probe.Check {
	if n.check != nil {
		return []probe.Check{n.check}
	}
	if len(n.any) > 0 {
		return n.any[0].steps()
	}
	var out []probe.Check
	for _, p := range n.all {
		out = append(out, p.steps()...)
	}
	return out
}

// oneWay reports whether a fix would change something that only a restart takes back.
func (n node) oneWay() bool {
	return slices.ContainsFunc(n.steps(), func(c probe.Check) bool {
		o, ok := c.(interface{ IsOneWay() bool })
		return ok && o.IsOneWay()
	})
}

// unfixable says why no fix can exist, "" when one can.
func (n node) unfixable() string {
	switch {
	case n.not != nil:
		return "\"not\" does not say what to set"
	case n.check != nil && n.kind.Fix == "":
		return "kind " + n.kind.Name + " only reports"
	case len(n.any) > 0:
		return n.any[0].unfixable()
	}
	for _, p := range n.all {
		if why := p.unfixable(); why != "" {
			return why
		}
	}
	return ""
}

func (n node) claims() []string {
	var out []string
	for _, c := range n.steps() {
		out = append(out, c.Claims()...)
	}
	return out
}
