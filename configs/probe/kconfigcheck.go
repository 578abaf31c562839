// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// kconfigCheck wants a kernel to be built with, or without, an option.
type kconfigCheck struct {
	option string
	OneOf  []string `json:"one_of"` // "n" is not set
	Min    *int64   `json:"min"`
	Or     []string `json:"or"`    // "NAME=VALUE": just as good
	Arch   []string `json:"arch"`  // only there
	If     []string `json:"if"`    // only where these are set
	Since  string   `json:"since"` // an older kernel does not have the option
}

func kconfigKind() Kind {
	return Kind{
		Name: "kernel-config", Target: "an option such as CONFIG_STACKPROTECTOR",
		Want: `{"one_of": ["y"], "min": n, "or": ["CONFIG_OTHER=y"], "arch": ["arm64"], "if": ["CONFIG_MODULES"], "since": "5.3"}, one_of or min is required; "n" is not set; ` +
			`or lists what is just as good; an architecture, an option or a version that is missing makes the rule not applicable`,
		New: func(target string, want []byte) (Check, error) {
			c := kconfigCheck{option: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if len(c.OneOf) == 0 && c.Min == nil {
				return nil, errors.New("want: give one_of or min")
			}
			for _, o := range append([]string{target}, slices.Concat(c.If, c.Or)...) {
				n, _, _ := strings.Cut(o, "=")
				if !strings.HasPrefix(n, "CONFIG_") || strings.Trim(n, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
					return nil, fmt.Errorf("%q is no kernel option, want CONFIG_NAME", o)
				}
			}
			return c, nil
		},
	}
}

func (c kconfigCheck) Claims() []string { return nil }

func (c kconfigCheck) Tightens(old Check) error {
	o, ok := old.(kconfigCheck)
	if !ok || o.option != c.option || o.Since != c.Since || !slices.Equal(o.Arch, c.Arch) || !slices.Equal(o.If, c.If) {
		return errors.New("another target")
	}
	if v, ok := subset(c.OneOf, o.OneOf); len(o.OneOf) > 0 && (!ok || len(c.OneOf) == 0) {
		return fmt.Errorf("%q is allowed", v)
	}
	if v, ok := subset(c.Or, o.Or); !ok {
		return fmt.Errorf("%q is enough", v)
	}
	if o.Min != nil && (c.Min == nil || *c.Min < *o.Min) {
		return fmt.Errorf("min is below %d", *o.Min)
	}
	return nil
}

func (c kconfigCheck) expect() string {
	out := strings.Join(c.OneOf, " or ")
	if c.Min != nil {
		out = "at least " + strconv.FormatInt(*c.Min, 10)
	}
	if len(c.Or) > 0 {
		out += ", or " + strings.Join(c.Or, " or ")
	}
	return out
}

func (c kconfigCheck) good(k kernelConfig) bool {
	v := k.value(c.option)
	if slices.Contains(c.OneOf, v) {
		return true
	}
	if n, err := strconv.ParseInt(v, 0, 64); c.Min != nil && err == nil && n >= *c.Min {
		return true
	}
	return slices.ContainsFunc(c.Or, func(o string) bool {
		name, want, _ := strings.Cut(o, "=")
		return k.value(name) == want
	})
}

// inapplicable says why the option means nothing for a kernel, "" when it does.
func (c kconfigCheck) inapplicable(k kernelConfig) string {
	if a := k.arch(); len(c.Arch) > 0 && a != "" && !slices.Contains(c.Arch, a) {
		return k.file + " is for " + a + ", where there is no " + c.option
	}
	for _, o := range c.If {
		if k.value(o) == "n" {
			return k.file + " has no " + o
		}
	}
	if c.Since != "" && k.version != "" && olderThan(k.version, c.Since) {
		return k.file + " is of Linux " + printable(k.version) + ", which has no " + c.option
	}
	return ""
}

func (c kconfigCheck) Check(ctx context.Context, h *Host) Verdict {
	kernels := h.kernelConfigs(ctx)
	if err := errors.Join(kernels.errs...); err != nil {
		return unknown(err)
	}
	if len(kernels.list) == 0 {
		why := "there is no /proc/config.gz and no /boot/config-*"
		if len(kernels.tried) > 0 {
			why += "; " + strings.Join(kernels.tried, "; ")
		}
		return Verdict{Result: Unknown, Reason: "what the kernel was built with is not known: " + why}
	}
	var items []Item
	var read, reason, no []string
	for _, k := range kernels.list {
		if why := c.inapplicable(k); why != "" {
			no = append(no, why)
			continue
		}
		v := printable(k.value(c.option))
		read, reason = append(read, k.file), append(reason, k.file+": "+c.option+" is "+v)
		if !c.good(k) {
			items = append(items, Item{Subject: c.option, Where: k.file, Observed: v, Expected: c.expect()})
		}
	}
	if len(read) == 0 {
		return notApplicable(strings.Join(no, "; "))
	}
	return judged(items, strings.Join(reason, ", "), read...)
}

func (c kconfigCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, fmt.Errorf("a kernel is built with its options: %w", ErrNoFix)
}
