// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

func (s wlanSection) wep() bool {
	if s.style == uciWlanStyle {
		return strings.HasPrefix(s.option("encryption"), "wep")
	}
	for _, k := range []string{"wep_key0", "wep_key1", "wep_key2", "wep_key3", "wep_default_key"} {
		if s.has(k) {
			return true
		}
	}
	return false
}

// open reports a network that anybody can read.
func (s wlanSection) open() (bool, int) {
	switch s.style {
	case hostapdStyle:
		w := s.option("wpa")
		return (w == "" || w == "0") && s.option("ieee8021x") != "1", s.at("wpa")
	case supplicantStyle:
		return slices.Contains(s.words("key_mgmt"), "NONE"), s.at("key_mgmt")
	}
	e := s.option("encryption")
	return e == "" || e == "none", s.at("encryption")
}

func lookOpen(_ *Host, s wlanSection) (string, int, bool) {
	open, line := s.open()
	switch {
	case s.wep():
		if s.style == supplicantStyle && !open {
			return "", 0, true // keys that are not used
		}
		return "WEP, which is read within minutes", s.at("wep_key0", "wep_default_key", "encryption"), true
	case open:
		return "open: everybody reads along", line, true
	case s.style == hostapdStyle && s.option("ieee8021x") == "1" && (s.option("wpa") == "" || s.option("wpa") == "0"):
		return "802.1X without WPA, which encrypts with WEP", s.at("ieee8021x"), true
	}
	return "", 0, true
}

func fixOpen(s wlanSection) map[string]string {
	switch {
	case s.style == supplicantStyle, s.style == uciWlanStyle && s.option("mode") == "sta":
		return map[string]string{"disabled": "1"}
	}
	return nil // a network that is offered needs a passphrase, and users
}

func lookWPA1(_ *Host, s wlanSection) (string, int, bool) {
	if open, _ := s.open(); open || s.wep() {
		return "", 0, false
	}
	switch s.style {
	case hostapdStyle:
		switch w := s.option("wpa"); {
		case w == "1" || w == "3":
			return "wpa=" + w + " offers WPA1", s.at("wpa"), true
		case s.tkip() != "":
			return s.tkip() + " offers TKIP", s.at(s.tkip()), true
		}
		return "", 0, s.option("wpa") != ""
	case supplicantStyle:
		if slices.Contains(s.words("proto"), "WPA") {
			return "proto allows WPA1", s.at("proto"), true
		}
		if slices.Contains(s.words("pairwise"), "TKIP") {
			return "pairwise allows TKIP", s.at("pairwise"), true
		}
		return "", 0, true
	}
	e := s.option("encryption")
	base, ciphers, _ := strings.Cut(e, "+")
	if base == "psk" || base == "wpa" || base == "psk-mixed" || base == "wpa-mixed" || strings.Contains(ciphers, "tkip") {
		return "encryption " + printable(e), s.at("encryption"), true
	}
	return "", 0, true
}

// tkip is the option that lets hostapd use TKIP. Without rsn_pairwise WPA2 uses wpa_pairwise, which is TKIP unless set; that
// default is ruled out for WPA2 by any version of this century's second decade and not held against a file.
func (s wlanSection) tkip() string {
	name := "rsn_pairwise"
	if !s.has(name) {
		name = "wpa_pairwise"
	}
	if slices.Contains(s.words(name), "TKIP") {
		return name
	}
	return ""
}

func fixWPA1(s wlanSection) map[string]string {
	switch s.style {
	case hostapdStyle:
		out := map[string]string{"wpa": "2"}
		if s.tkip() != "" || !s.has("rsn_pairwise") {
			out["rsn_pairwise"] = "CCMP"
		}
		if s.has("wpa_pairwise") {
			out["wpa_pairwise"] = "CCMP"
		}
		return out
	case supplicantStyle:
		out := map[string]string{}
		if s.has("proto") {
			out["proto"] = "RSN"
		}
		if s.has("pairwise") {
			out["pairwise"] = "CCMP"
		}
		return out
	}
	base, _, _ := strings.Cut(s.option("encryption"), "+")
	base = strings.TrimSuffix(base, "-mixed")
	if base == "psk" || base == "wpa" {
		base += "2"
	}
	if base == "sae" {
		base = "sae-mixed"
	}
	return map[string]string{"encryption": base + "+ccmp"}
}

const minPassphrase = 12

func lookPassphrase(_ *Host, s wlanSection) (string, int, bool) {
	secret, option := s.passphrase()
	if secret == "" {
		return "", 0, false
	}
	low := strings.ToLower(secret)
	switch {
	case strings.EqualFold(secret, strings.Trim(s.option("ssid"), `"`)):
		return "the name of the network", s.at(option), true
	case slices.Contains(defaultWords(), low), strings.Count(secret, secret[:1]) == len(secret):
		return "a common word", s.at(option), true
	case len(secret) < minPassphrase:
		return fmt.Sprintf("%d characters", len(secret)), s.at(option), true
	}
	return "", 0, true
}

func lookWPS(_ *Host, s wlanSection) (string, int, bool) {
	switch s.style {
	case supplicantStyle:
		return "", 0, false
	case uciWlanStyle:
		if m := s.option("mode"); m != "ap" && m != "" {
			return "", 0, false
		}
		for _, k := range []string{"wps_pin", "wps_label"} {
			if v := s.option(k); v != "" && v != "0" {
				return k + " is set", s.at(k), true
			}
		}
		if m := pinMethod(s.option("wps_config")); m != "" {
			return "wps_config allows " + m, s.at("wps_config"), true
		}
		return "", 0, true
	}
	if v := s.option("wps_state"); v == "" || v == "0" {
		return "", 0, true
	}
	if s.option("ap_pin") != "" {
		return "a fixed PIN: 11000 tries find it", s.at("ap_pin"), true
	}
	if m := pinMethod(s.option("config_methods")); m != "" {
		return "config_methods allows " + m, s.at("config_methods"), true
	}
	return "", 0, true
}

// pinMethod finds a way of WPS that goes by PIN.
func pinMethod(methods string) string {
	for w := range strings.FieldsSeq(methods) {
		if slices.Contains([]string{"label", "display", "keypad", "virtual_display", "physical_display"}, w) {
			return w
		}
	}
	return ""
}

func fixWPS(s wlanSection) map[string]string {
	if s.style == hostapdStyle {
		out := map[string]string{"ap_pin": ""}
		if pinMethod(s.option("config_methods")) != "" {
			out["config_methods"] = "push_button"
		}
		return out
	}
	out := map[string]string{}
	for _, k := range []string{"wps_pin", "wps_label"} {
		if s.has(k) {
			out[k] = "0"
		}
	}
	if s.has("wps_config") {
		out["wps_config"] = "push_button"
	}
	return out
}

func lookMFP(_ *Host, s wlanSection) (string, int, bool) {
	if open, _ := s.open(); open || s.wep() || s.style == hostapdStyle && s.option("wpa") == "1" {
		return "", 0, false
	}
	v := s.option("ieee80211w")
	switch s.style {
	case supplicantStyle:
		if v == "" {
			v = s.option("pmf")
		}
	case uciWlanStyle:
		if e := s.option("encryption"); v == "" && (strings.HasPrefix(e, "sae") || strings.HasPrefix(e, "owe") || strings.HasPrefix(e, "wpa3")) {
			return "", 0, true // OpenWrt sets it for these
		}
	}
	if v == "1" || v == "2" {
		return "", 0, true
	}
	if v == "" {
		v = "not set, 0 by default"
	}
	return "ieee80211w " + printable(v), s.at("ieee80211w", "pmf"), true
}

func fixMFP(s wlanSection) map[string]string { return map[string]string{"ieee80211w": "1"} }

func lookControl(h *Host, s wlanSection) (string, int, bool) {
	v := s.option("ctrl_interface")
	if s.style == uciWlanStyle || v == "" || s.style == hostapdStyle && !s.has("ctrl_interface") {
		return "", 0, false
	}
	line := s.at("ctrl_interface")
	dir, group := v, s.option("ctrl_interface_group")
	for w := range strings.FieldsSeq(v) {
		if d, ok := strings.CutPrefix(w, "DIR="); ok {
			dir = d
		}
		if g, ok := strings.CutPrefix(w, "GROUP="); ok {
			group = g
		}
	}
	switch {
	case strings.HasPrefix(dir, "udp"):
		return "commands over the network, without a password", line, true
	case slices.Contains([]string{"/tmp", "/var/tmp", "/dev/shm"}, dir), strings.HasPrefix(dir, "/tmp/"), strings.HasPrefix(dir, "/var/tmp/"), strings.HasPrefix(dir, "/dev/shm/"):
		return "below a directory that everybody may write", line, true
	case slices.Contains([]string{"nogroup", "nobody", "users"}, group):
		return "open to group " + group, line, true
	}
	if in, err := h.Stat(dir); err == nil && in.Mode.IsDir() && in.Mode.Perm()&0o007 != 0 {
		return printable(dir) + " has mode " + OctalMode(in.Mode), line, true
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", 0, false
	}
	return "", 0, true
}

func fixControl(s wlanSection) map[string]string {
	if s.style == supplicantStyle {
		return map[string]string{"ctrl_interface": "DIR=/var/run/wpa_supplicant GROUP=0"}
	}
	out := map[string]string{"ctrl_interface": "/var/run/hostapd"}
	if _, ok := s.global["ctrl_interface_group"]; ok {
		out["ctrl_interface_group"] = "0"
	}
	return out
}
