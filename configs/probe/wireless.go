// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
)

// wlanStyle says how a file writes its settings.
type wlanStyle string

const (
	hostapdStyle    wlanStyle = "hostapd"
	supplicantStyle wlanStyle = "wpa_supplicant"
	uciWlanStyle    wlanStyle = "OpenWrt"
)

// Bounds of the files of wireless programs.
const (
	maxWlanFiles    = 64
	maxWlanSections = 1024
)

// wlanSection is one network, or for the supplicant also what holds for all of its networks.
type wlanSection struct {
	uciSection
	style  wlanStyle
	file   string
	off    bool                 // it is there and not used
	global map[string]uciOption // of the file: radio, control socket
}

// option is a setting of the section, or else of the whole file.
func (s wlanSection) option(name string) string {
	if o, ok := s.options[name]; ok {
		return o.value
	}
	return s.global[name].value
}

func (s wlanSection) has(name string) bool {
	_, ok := s.options[name]
	return ok
}

// words is an option as upper-case words.
func (s wlanSection) words(name string) []string {
	return strings.Fields(strings.ToUpper(s.option(name)))
}

// wlanFiles lists the files of a style that are there.
func wlanFiles(h *Host, style wlanStyle) ([]string, error) {
	var out []string
	for _, p := range map[wlanStyle][]string{
		hostapdStyle:    {"/etc/hostapd.conf", "/etc/hostapd/", "/etc/hostapd-*"},
		supplicantStyle: {"/etc/wpa_supplicant.conf", "/etc/wpa_supplicant/", "/etc/wpa_supplicant-*"},
		uciWlanStyle:    {"/etc/config/wireless"},
	}[style] {
		dir, prefix := p, ""
		if i := strings.LastIndexByte(p, '/'); strings.HasSuffix(p, "*") {
			dir, prefix = p[:i+1], strings.TrimSuffix(p[i+1:], "*")
		} else if i < len(p)-1 {
			if h.Exists(p) {
				out = append(out, p)
			}
			continue
		}
		names, err := h.Names(dir, 4096)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if strings.HasPrefix(n, prefix) && strings.HasSuffix(n, ".conf") && len(out) < maxWlanFiles {
				out = append(out, dir+n)
			}
		}
	}
	return out, nil
}

// wlans reads every network that the system offers or joins. The first result is empty when there are none.
func wlans(ctx context.Context, h *Host) (list []wlanSection, read []string, err error) {
	for _, style := range []wlanStyle{hostapdStyle, supplicantStyle, uciWlanStyle} {
		files, err := wlanFiles(h, style)
		if err != nil {
			return nil, read, err
		}
		for _, f := range files {
			data, err := h.Read(ctx, f)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotRegular) {
				continue
			}
			if err != nil {
				return nil, read, err
			}
			read = append(read, f)
			for _, s := range parseWlan(style, data) {
				s.file, s.off = f, s.off || !s.used()
				if len(list) < maxWlanSections {
					list = append(list, s)
				}
			}
		}
	}
	return list, read, nil
}

func parseWlan(style wlanStyle, data []byte) []wlanSection {
	switch style {
	case hostapdStyle:
		return parseHostapd(data)
	case supplicantStyle:
		return parseSupplicant(data)
	}
	var out []wlanSection
	radios := map[string]bool{} // switched off
	sections := parseUCI(data)
	lines := bytes.Split(data, []byte("\n"))
	for _, s := range sections {
		if w := uciWords(string(lines[s.line-1])); s.kind == "wifi-device" && len(w) > 2 && uciOn(s.options["disabled"].value) {
			radios[w[2]] = true
		}
	}
	for _, s := range sections {
		if s.kind == "wifi-iface" {
			out = append(out, wlanSection{uciSection: s, style: style, off: radios[s.options["device"].value]})
		}
	}
	return out
}

// parseHostapd reads "key=value" lines; "bss=" begins another network on the same radio.
func parseHostapd(data []byte) []wlanSection {
	global := map[string]uciOption{}
	out := []wlanSection{{uciSection: uciSection{line: 1, kind: "bss", options: map[string]uciOption{}}, style: hostapdStyle, global: global}}
	n := 0
	for l := range bytes.Lines(data) {
		n++
		k, v, ok := strings.Cut(strings.TrimRight(string(l), "\r\n"), "=")
		k = strings.TrimSpace(k)
		if !ok || k == "" || k[0] == '#' {
			continue
		}
		if k == "bss" && len(out) < maxWlanSections {
			out = append(out, wlanSection{uciSection: uciSection{line: n, kind: "bss", options: map[string]uciOption{}}, style: hostapdStyle, global: global})
		}
		s := &out[len(out)-1]
		s.options[k], s.end = uciOption{n, v}, n
		if slices.Contains([]string{"driver", "ctrl_interface", "ctrl_interface_group"}, k) {
			global[k] = s.options[k]
		}
	}
	return out
}

// globalKind marks what holds for all networks of a supplicant.
const globalKind = "global"

// parseSupplicant reads the networks; what stands outside of them holds for all.
func parseSupplicant(data []byte) []wlanSection {
	global := map[string]uciOption{}
	out := []wlanSection{{uciSection: uciSection{line: 1, kind: globalKind, options: global}, style: supplicantStyle, global: global}}
	inside, other := false, false
	n := 0
	for l := range bytes.Lines(data) {
		n++
		s := strings.TrimSpace(string(l))
		if s == "" || s[0] == '#' {
			continue
		}
		k, v, ok := strings.Cut(s, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		switch {
		case s == "}":
			if inside {
				out[len(out)-1].end = n
			}
			inside, other = false, false
		case ok && v == "{":
			inside, other = k == "network" && len(out) < maxWlanSections, k != "network"
			if inside {
				out = append(out, wlanSection{uciSection: uciSection{line: n, end: n + 1, kind: k, options: map[string]uciOption{}}, style: supplicantStyle, global: global})
			}
		case !ok || other:
		case inside:
			s := &out[len(out)-1]
			s.options[k], s.end = uciOption{n, v}, n+1
		default:
			global[k] = uciOption{n, v}
		}
	}
	return out
}

// used reports whether the network is in use.
func (s wlanSection) used() bool {
	switch s.style {
	case hostapdStyle:
		return s.has("ssid") || s.has("ssid2") || s.has("bss") || s.has("interface") && s.option("driver") != "wired"
	case supplicantStyle:
		return s.kind == globalKind || s.option("disabled") != "1"
	}
	return !uciOn(s.option("disabled")) && s.option("mode") != "monitor"
}

// name is how evidence and waivers call the network.
func (s wlanSection) name() string {
	if s.kind == globalKind {
		return string(s.style)
	}
	n := strings.Trim(s.option("ssid"), `"`)
	if n == "" {
		n = s.option("mesh_id")
	}
	if n == "" {
		n = "line " + strings.TrimPrefix(at("", s.line), ":")
	}
	return printable(n)
}

// passphrase is the shared secret and the option that holds it; "" when there is none, or only a key made from one.
func (s wlanSection) passphrase() (secret, option string) {
	for _, k := range map[wlanStyle][]string{
		hostapdStyle: {"wpa_passphrase", "sae_password"}, supplicantStyle: {"sae_password", "psk"}, uciWlanStyle: {"key"},
	}[s.style] {
		v := s.option(k)
		if k == "sae_password" {
			v, _, _ = strings.Cut(v, "|")
		}
		if s.style == supplicantStyle {
			if !strings.HasPrefix(v, `"`) {
				continue // 64 digits, or a name of a secret elsewhere
			}
			v = strings.Trim(v, `"`)
		}
		if v != "" && (s.style != uciWlanStyle || s.shared()) && (len(v) != 64 || strings.Trim(v, "0123456789abcdefABCDEF") != "") {
			return v, k
		}
	}
	return "", ""
}

// shared reports whether OpenWrt uses the key as a passphrase.
func (s wlanSection) shared() bool {
	e := s.option("encryption")
	return strings.HasPrefix(e, "psk") || strings.HasPrefix(e, "sae")
}
