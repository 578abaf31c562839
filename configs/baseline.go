// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/backstay/backstay/configs/strictjson"
)

//go:embed baseline/*.json baseline/rules/*.json
var baselines embed.FS

// Profiles lists the built-in profiles, sorted.
func Profiles() []string { return documents("baseline") }

// RuleSets lists the built-in sets of rules, sorted: one for each area. Profiles are made of them; a policy of a maker may
// extend one by itself, too.
func RuleSets() []string { return documents("baseline/rules") }

func documents(dir string) []string {
	names, err := fs.Glob(baselines, dir+"/*.json")
	if err != nil {
		return nil
	}
	for i, n := range names {
		names[i] = strings.TrimSuffix(path.Base(n), ".json")
	}
	return names
}

// Load composes built-in profiles and sets of rules into one policy, each with those it extends, each once, in order. A later profile may
// adjust a rule of an earlier one, to the stricter side only, as an operator may, and leave out one that is wrong for what the
// product is for. The result's ID joins the names with
// dashes, its serial is the sum of theirs, so that it rises whenever one of them does.
func Load(profiles ...string) (Policy, error) {
	if len(profiles) == 0 {
		return Policy{}, refuse(CodeUnknownProfile, "baseline", "no profile is named", nil)
	}
	out := Policy{Schema: 1, ID: strings.Join(profiles, "-")}
	var done []string
	for _, name := range profiles {
		if err := load(&out, name, &done, nil); err != nil {
			return Policy{}, err
		}
	}
	if err := Lint(out); err != nil {
		return Policy{}, refuse(CodeInvalid, "baseline "+out.ID, err.Error(), err)
	}
	return out, nil
}

func load(out *Policy, name string, done *[]string, above []string) error {
	if slices.Contains(*done, name) {
		return nil
	}
	if slices.Contains(above, name) {
		return refuse(CodeInvalid, "baseline "+name, "it extends itself", nil)
	}
	p, err := builtin(name)
	if err != nil {
		return err
	}
	for _, base := range p.Extends {
		if err := load(out, base, done, append(above, name)); err != nil {
			return err
		}
	}
	*done = append(*done, name)
	if err := lay(out, p); err != nil {
		return refuse(CodeInvalid, "baseline "+name, err.Error(), err)
	}
	return nil
}

// LoadFloor lays a maker's own policy over the built-in profiles it extends and those named: rules are added, and adjusted to
// the stricter side, as one profile does with another. Its ID is the maker's, its serial is added to theirs. Unlike an
// operator's, its waivers need no date of issue: they ship with the image that they are about.
func LoadFloor(data []byte, profiles ...string) (Policy, error) {
	m, err := ParsePolicy(data)
	if err != nil {
		return Policy{}, err
	}
	for _, e := range m.Extends {
		if !slices.Contains(profiles, e) {
			profiles = append(profiles[:len(profiles):len(profiles)], e)
		}
	}
	out, err := Load(profiles...)
	if err != nil {
		return Policy{}, err
	}
	if err := lay(&out, m); err != nil {
		return Policy{}, refuse(CodeInvalid, "floor "+m.ID, err.Error(), err)
	}
	out.ID, out.Title, out.Issued, out.Expires, out.Waivers = m.ID, m.Title, m.Issued, m.Expires, m.Waivers
	if err := Lint(out); err != nil {
		return Policy{}, refuse(CodeInvalid, "floor "+m.ID, err.Error(), err)
	}
	return out, nil
}

// lay adds one policy to those below it.
func lay(out *Policy, p Policy) error {
	for _, id := range p.Omits {
		out.Rules = slices.DeleteFunc(out.Rules, func(r Rule) bool { return r.ID == id })
	}
	for _, r := range p.Rules {
		r.Mode = p.modeOf(r)
		out.Rules = append(out.Rules, r)
	}
	below := *out
	below.Rules = slices.Clone(out.Rules)
	for _, a := range p.Adjust {
		if err := adjust(out, below, a); err != nil {
			return fmt.Errorf("adjust %s: %w", a.Rule, err)
		}
	}
	out.Serial += p.Serial
	if p.MaxWaiverDays != 0 && (out.MaxWaiverDays == 0 || p.MaxWaiverDays < out.MaxWaiverDays) {
		out.MaxWaiverDays = p.MaxWaiverDays
	}
	return nil
}

// builtin parses one profile or set of rules as it is, without those it extends.
func builtin(name string) (Policy, error) {
	dir := "baseline"
	if slices.Contains(RuleSets(), name) {
		dir = "baseline/rules"
	} else if !slices.Contains(Profiles(), name) {
		why := "built in are " + strings.Join(Profiles(), ", ")
		if n := strictjson.Nearest(name, slices.Concat(Profiles(), RuleSets())); n != "" {
			why = fmt.Sprintf("did you mean %q?", n)
		}
		return Policy{}, refuse(CodeUnknownProfile, fmt.Sprintf("baseline %q", name), why, nil)
	}
	data, err := baselines.ReadFile(path.Join(dir, name+".json"))
	if err != nil {
		return Policy{}, err
	}
	return ParsePolicy(data)
}
