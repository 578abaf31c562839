// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// cmdlineCheck wants arguments not to be, or to be, on the kernel's command line.
type cmdlineCheck struct {
	Deny       []string `json:"deny"`        // "single", "mitigations=off", "init=/bin/*"
	RequireAny []string `json:"require_any"` // one of these
}

func cmdlineKind() Kind {
	return Kind{
		Name: "cmdline", Target: `"kernel": /proc/cmdline, and what boot loaders are configured to give (extlinux, grub, cmdline.txt, uEnv.txt, boot scripts, loader entries, device trees, the U-Boot environment, CONFIG_CMDLINE)`,
		Want: `{"deny": [arguments], "require_any": [arguments]}, one is required; an argument may end in *; of NAME=VALUE the last one counts`,
		New: func(target string, want []byte) (Check, error) {
			var c cmdlineCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "kernel" {
				return nil, errors.New(`target: want "kernel"`)
			}
			if len(c.Deny)+len(c.RequireAny) == 0 {
				return nil, errors.New("want: give deny or require_any")
			}
			for _, a := range slices.Concat(c.Deny, c.RequireAny) {
				if a == "" || a == "*" || strings.ContainsAny(a, " \t\r\n") {
					return nil, fmt.Errorf("want: %q is no argument", a)
				}
			}
			return c, nil
		},
	}
}

func (c cmdlineCheck) Claims() []string { return nil }

func (c cmdlineCheck) Tightens(old Check) error {
	o, ok := old.(cmdlineCheck)
	if !ok {
		return errors.New("another kind")
	}
	if p, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	if p, ok := subset(c.RequireAny, o.RequireAny); len(o.RequireAny) > 0 && (!ok || len(c.RequireAny) == 0) {
		return fmt.Errorf("%s is enough", p)
	}
	return nil
}

// bootWords splits a command line as the kernel does: white space in double quotes belongs to a word, a dash and an
// underscore in a name are the same. Of several settings of one name the last one is kept.
func bootWords(args string) []string {
	var words []string
	var cur strings.Builder
	quoted := false
	flush := func() {
		if cur.Len() > 0 && len(words) < maxBootWords {
			words = append(words, cur.String())
		}
		cur.Reset()
	}
	for _, r := range args {
		switch {
		case r == '"':
			quoted = !quoted
		case !quoted && (r == ' ' || r == '\t' || r == '\n'):
			flush()
		default:
			cur.WriteRune(r)
		}
	}
	flush()
	last := map[string]int{}
	for i, w := range words {
		if k, _, ok := strings.Cut(w, "="); ok {
			last[bootName(k)] = i
		}
	}
	var out []string
	for i, w := range words {
		if k, _, ok := strings.Cut(w, "="); !ok || last[bootName(k)] == i {
			out = append(out, w)
		}
	}
	return out
}

func bootName(k string) string { return strings.ReplaceAll(k, "-", "_") }

// bootMatch reports whether a word is what a pattern means.
func bootMatch(pattern, word string) bool {
	pk, pv, peq := strings.Cut(pattern, "=")
	wk, wv, weq := strings.Cut(word, "=")
	if pre, ok := strings.CutSuffix(pk, "*"); ok && !peq {
		return strings.HasPrefix(bootName(word), bootName(pre))
	}
	if peq != weq || bootName(pk) != bootName(wk) {
		return false
	}
	if pre, ok := strings.CutSuffix(pv, "*"); ok {
		return strings.HasPrefix(wv, pre)
	}
	return pv == wv
}

func (c cmdlineCheck) Check(ctx context.Context, h *Host) Verdict {
	b := h.bootArguments(ctx)
	var items []Item
	for _, l := range b.list {
		words := bootWords(l.args)
		for _, w := range words {
			if slices.ContainsFunc(c.Deny, func(p string) bool { return bootMatch(p, w) }) {
				items = append(items, Item{Subject: printable(w), Where: l.where, Observed: printable(w), Expected: "not on the command line"})
			}
		}
		if len(c.RequireAny) > 0 && !slices.ContainsFunc(words, func(w string) bool {
			return slices.ContainsFunc(c.RequireAny, func(p string) bool { return bootMatch(p, w) })
		}) {
			items = append(items, Item{Subject: c.RequireAny[0], Where: l.where, Observed: "none of them", Expected: strings.Join(c.RequireAny, " or ")})
		}
	}
	if err := errors.Join(b.errs...); err != nil && len(items) == 0 {
		return unknown(err)
	}
	if len(b.list) == 0 {
		return Verdict{Result: Unknown, Reason: "the tree has no configuration of a boot loader, and an image no /proc/cmdline: what the kernel is given is not known"}
	}
	return judged(items, fmt.Sprintf("%d kernel command lines, each as wanted", len(b.list)), dedupeStrings(b.read)...)
}

func (c cmdlineCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, fmt.Errorf("what the boot loader gives is changed by a person or in the image: %w", ErrNoFix)
}

// dedupeStrings keeps the first of equals, and no more than a verdict shows.
func dedupeStrings(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) && len(out) < MaxItems {
			out = append(out, s)
		}
	}
	return out
}
