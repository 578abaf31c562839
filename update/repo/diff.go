// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
)

// diff says in words what signing d changes against old, which may be nil. One
// line is one fact: a custodian reads it aloud before signing.
func diff(old, d *document) []string {
	var out []string
	if old == nil {
		out = append(out, "first version")
	}
	switch {
	case d.root != nil:
		var before map[string]*metadata.Role
		var keys map[string]*metadata.Key
		if old != nil {
			before, keys = old.root.Signed.Roles, old.root.Signed.Keys
		}
		for _, role := range slices.Sorted(maps.Keys(d.root.Signed.Roles)) {
			var a, b grant
			if e := before[role]; e != nil {
				a = grant{e.KeyIDs, e.Threshold, nil}
			}
			if e := d.root.Signed.Roles[role]; e != nil {
				b = grant{e.KeyIDs, e.Threshold, nil}
			}
			out = append(out, diffGrant(role, a, b, keys, d.root.Signed.Keys)...)
		}
	case d.targets != nil:
		out = append(out, diffDelegations(old, d)...)
		out = append(out, diffTargets(old, d)...)
	}
	if old != nil && len(out) == 0 {
		out = append(out, "nothing but a new signature")
	}
	until := "valid until " + formatTime(d.expires())
	if old != nil {
		until += ", was " + formatTime(old.expires())
	}
	return append(out, until)
}

// grant is what a delegator says about a role.
type grant struct {
	ids       []string
	threshold int
	paths     []string
}

func diffGrant(role string, a, b grant, oldKeys, newKeys map[string]*metadata.Key) []string {
	var out []string
	for _, id := range b.ids {
		if !slices.Contains(a.ids, id) {
			out = append(out, fmt.Sprintf("%s: add key %s", role, keyLabel(id, newKeys)))
		}
	}
	for _, id := range a.ids {
		if !slices.Contains(b.ids, id) {
			out = append(out, fmt.Sprintf("%s: revoke key %s", role, keyLabel(id, oldKeys)))
		}
	}
	if a.threshold != b.threshold && len(b.ids) > 0 {
		was := ""
		if a.threshold > 0 {
			was = fmt.Sprintf(", was %d", a.threshold)
		}
		out = append(out, fmt.Sprintf("%s: %d of %d keys must sign%s", role, b.threshold, len(b.ids), was))
	}
	if len(out) > 0 && len(b.ids) > 0 {
		out = append(out, fmt.Sprintf("%s: %s", role, margin(len(b.ids), b.threshold)))
	}
	if !slices.Equal(a.paths, b.paths) {
		out = append(out, fmt.Sprintf("%s: may sign %s", role, strings.Join(b.paths, " ")))
	}
	return out
}

// margin says how many keys may be lost before the role can no longer sign.
func margin(keys, threshold int) string {
	switch n := keys - threshold; n {
	case 0:
		return "no key may be lost"
	case 1:
		return "1 key may be lost"
	default:
		return fmt.Sprintf("%d keys may be lost", n)
	}
}

func keyLabel(id string, keys map[string]*metadata.Key) string {
	if k := keys[id]; k != nil {
		return fmt.Sprintf("%.12s (%s)", id, k.Type)
	}
	return fmt.Sprintf("%.12s", id)
}

func diffDelegations(old, d *document) []string {
	grants := func(d *document) (map[string]grant, map[string]*metadata.Key) {
		m := map[string]grant{}
		if d == nil || d.targets.Signed.Delegations == nil {
			return m, nil
		}
		for _, r := range d.targets.Signed.Delegations.Roles {
			m[r.Name] = grant{r.KeyIDs, r.Threshold, r.Paths}
		}
		return m, d.targets.Signed.Delegations.Keys
	}
	a, oldKeys := grants(old)
	b, newKeys := grants(d)
	var out []string
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[name]; !ok {
			out = append(out, "new role "+name)
		}
		out = append(out, diffGrant(name, a[name], b[name], oldKeys, newKeys)...)
	}
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if _, ok := b[name]; !ok {
			out = append(out, "remove role "+name)
		}
	}
	return out
}

func diffTargets(old, d *document) []string {
	before := map[string]*metadata.TargetFiles{}
	if old != nil {
		before = old.targets.Signed.Targets
	}
	after := d.targets.Signed.Targets
	var out []string
	for _, path := range slices.Sorted(maps.Keys(after)) {
		switch b, ok := before[path]; {
		case !ok:
			out = append(out, "add "+path+": "+targetLabel(after[path]))
		case !sameTarget(b, after[path]):
			out = append(out, "change "+path+": "+targetLabel(after[path])+", was "+targetLabel(b))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[path]; !ok {
			out = append(out, "withdraw "+path)
		}
	}
	return out
}

func sameTarget(a, b *metadata.TargetFiles) bool {
	if a == nil || b == nil || a.Length != b.Length || !a.Hashes.Equal(b.Hashes) || (a.Custom == nil) != (b.Custom == nil) {
		return false
	}
	return a.Custom == nil || string(compact(*a.Custom)) == string(compact(*b.Custom))
}

func targetLabel(t *metadata.TargetFiles) string {
	if t == nil {
		return "nothing"
	}
	label := fmt.Sprintf("%d bytes, sha256 %.12s", t.Length, t.Hashes["sha256"].String())
	if t.Custom == nil {
		return label
	}
	c, err := update.ParseCustom(*t.Custom)
	if err != nil {
		return label
	}
	for _, p := range c.Payloads {
		label += fmt.Sprintf(", or %d bytes", p.Length)
		if p.BaseLength > 0 {
			label += fmt.Sprintf(" from sha256 %.12s", hexDigest(p.Base))
		}
	}
	return fmt.Sprintf("%s, counter %d, floor %d, %s, for %s", label, c.Counter, c.Floor, c.Class, strings.Join(c.Compatible, " "))
}
