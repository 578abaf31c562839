// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// wirelessCheck looks at one aspect of every wireless network that the system offers or joins.
type wirelessCheck struct {
	aspect string
	wlanAspect
}

// wlanAspect judges a network: observed is "" when it is as expected, and line the line that says so. judged is false when
// the aspect has no meaning for it. fix gives the settings that mend it; nil when only a person can.
type wlanAspect struct {
	expected string
	look     func(h *Host, s wlanSection) (observed string, line int, judged bool)
	fix      func(s wlanSection) map[string]string
}

func wirelessAspects() map[string]wlanAspect {
	return map[string]wlanAspect{
		"encryption": {"WPA2 with CCMP, or WPA3", lookOpen, fixOpen},
		"wpa1":       {"WPA2 or WPA3, with CCMP or GCMP alone", lookWPA1, fixWPA1},
		"passphrase": {"at least 12 characters that are neither the name of the network nor a common word, different on each device", lookPassphrase, nil},
		"wps":        {"no WPS, or with a button only", lookWPS, fixWPS},
		"management": {"ieee80211w 1, or 2", lookMFP, fixMFP},
		"control":    {"a directory below /run that only root and a group may enter", lookControl, fixControl},
	}
}

func wirelessKind() Kind {
	return Kind{
		Name:   "wireless",
		Target: "encryption, wpa1, passphrase, wps, management (frames protected) or control (sockets of the programs)",
		Want:   "nothing",
		Fix:    "edit hostapd, wpa_supplicant or UCI settings; an open network that is joined is switched off, an open one that is offered is left to a person",
		New: func(target string, want []byte) (Check, error) {
			a, ok := wirelessAspects()[target]
			if !ok {
				return nil, fmt.Errorf("target: %q, want encryption, wpa1, passphrase, wps, management or control", target)
			}
			return wirelessCheck{target, a}, decodeWant(want, &struct{}{})
		},
	}
}

func (c wirelessCheck) Claims() []string { return []string{"wireless:" + c.aspect} }

func (c wirelessCheck) Check(ctx context.Context, h *Host) Verdict {
	list, read, err := wlans(ctx, h)
	if err != nil {
		return unknown(err)
	}
	if len(list) == 0 {
		if len(read) > 0 {
			return notApplicable(strings.Join(read, ", ") + ": no network")
		}
		return notApplicable("no settings of hostapd, wpa_supplicant or OpenWrt's wireless")
	}
	var items []Item
	n := 0
	for _, s := range list {
		observed, line, judged := c.see(h, s)
		if judged {
			n++
		}
		if judged && observed != "" {
			items = append(items, Item{Subject: s.name(), Where: at(s.file, line), Observed: observed, Expected: c.expected})
		}
	}
	if n == 0 {
		return notApplicable(strings.Join(read, ", ") + ": no network to which this applies")
	}
	v := judged(items, fmt.Sprintf("%d networks as wanted or switched off", n), read...)
	v.Implementation = string(list[0].style)
	return v
}

// see looks at one network, or at what holds for all. One that is off is as wanted.
func (c wirelessCheck) see(h *Host, s wlanSection) (observed string, line int, judged bool) {
	switch {
	case (s.kind == globalKind) != (c.aspect == "control") && s.style == supplicantStyle:
		return "", 0, false
	case s.off:
		return "", 0, true
	}
	return c.look(h, s)
}

func (c wirelessCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	list, _, err := wlans(ctx, h)
	if err != nil {
		return nil, err
	}
	var out []Change
	var left error
	texts := map[string]*text{}
	for _, s := range slices.Backward(list) { // backward, so that line numbers stay right
		observed, _, judged := c.see(h, s)
		if !judged || observed == "" || !want(s.name()) {
			continue
		}
		var set map[string]string
		if c.fix != nil {
			set = c.fix(s)
		}
		if set == nil {
			left = fmt.Errorf("network %s in %s: %w", s.name(), printable(s.file), ErrNoFix)
			continue
		}
		t := texts[s.file]
		if t == nil {
			if t, err = openText(ctx, h, s.file); err != nil {
				return nil, err
			}
			texts[s.file] = t
		}
		s.set(t, set)
	}
	for _, s := range list {
		if t := texts[s.file]; t != nil {
			out = append(out, redacted(t.changes(true))...)
			delete(texts, s.file)
		}
	}
	return out, left
}

// redacted hides the secrets of wireless settings in printed differences.
func redacted(list []Change) []Change {
	for i := range list {
		list[i].Redact = maskWlan
	}
	return list
}

// maskWlan hides what follows the name of a secret setting.
func maskWlan(line string) string {
	for _, k := range []string{"wpa_passphrase", "sae_password", "wpa_psk", "psk", "password", "passwd", "key", "key0", "key1", "key2", "key3", "key4", "pin"} {
		for from := 0; ; {
			i := strings.Index(line[from:], k)
			if i < 0 {
				break
			}
			end := from + i + len(k)
			if end < len(line) && (line[end] == '=' || line[end] == ' ' || line[end] == '\t') {
				return line[:end+1] + "***"
			}
			from = end
		}
	}
	return line
}

// set writes settings into the section: over the line that has one, else at its end. An empty value comments the line out.
func (s wlanSection) set(t *text, settings map[string]string) {
	var add []string
	for _, k := range sortedKeys(settings) {
		line := map[wlanStyle]string{hostapdStyle: k + "=", supplicantStyle: "\t" + k + "=", uciWlanStyle: "\toption " + k + " "}[s.style]
		v := settings[k]
		if s.style == uciWlanStyle {
			v = "'" + v + "'"
		}
		o, ok := s.options[k]
		if g, isGlobal := s.global[k]; s.kind == globalKind || !ok && isGlobal {
			o, ok = g, isGlobal
			line = strings.TrimPrefix(line, "\t")
		}
		switch {
		case settings[k] == "" && ok:
			if !strings.HasPrefix(t.line(o.line), disabledMark) {
				t.disable(o.line)
			}
		case settings[k] == "":
		case ok:
			t.set(o.line, line+v)
		default:
			add = append(add, line+v)
		}
	}
	end := s.end + 1
	if s.style == supplicantStyle {
		end = s.end // before the closing brace
	}
	for _, line := range slices.Backward(add) {
		t.insert(end, line)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// at gives the line of the first of the options that is set, else of the section.
func (s wlanSection) at(options ...string) int {
	for _, k := range options {
		if o, ok := s.options[k]; ok {
			return o.line
		}
		if o, ok := s.global[k]; ok {
			return o.line
		}
	}
	return s.line
}
