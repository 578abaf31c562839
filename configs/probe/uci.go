// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
)

// uciFile is where OpenWrt keeps dropbear's settings; its start script makes the arguments from them.
const uciFile = "/etc/config/dropbear"

// uciSection is one "config TYPE [NAME]" of a UCI file.
type uciSection struct {
	line, end int // end is the last line of the section
	kind      string
	options   map[string]uciOption
}

type uciOption struct {
	line  int
	value string
}

// parseUCI reads sections and options; lists are not needed here and left out.
func parseUCI(data []byte) []uciSection {
	var out []uciSection
	n := 0
	for l := range bytes.Lines(data) {
		n++
		w := uciWords(string(l))
		switch {
		case len(w) >= 2 && w[0] == "config":
			out = append(out, uciSection{line: n, end: n, kind: w[1], options: map[string]uciOption{}})
		case len(w) >= 3 && w[0] == "option" && len(out) > 0:
			s := &out[len(out)-1]
			s.options[w[1]], s.end = uciOption{n, w[2]}, n
		}
	}
	return out
}

func uciWords(s string) []string {
	var out []string
	var w strings.Builder
	quote, open := rune(0), false
	for _, c := range s {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			w.WriteRune(c)
		case c == '"' || c == '\'':
			quote, open = c, true
		case c == '#' && !open:
			return out
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			if open {
				out = append(out, w.String())
			}
			w.Reset()
			open = false
		default:
			w.WriteRune(c)
			open = true
		}
	}
	if open {
		out = append(out, w.String())
	}
	return out
}

// uciFlag says which option gives a flag of dropbear, and the value that does. Unset options are on in OpenWrt's script,
// GatewayPorts excepted.
func uciFlag(flag string) (option, value string, known bool) {
	switch flag {
	case "-s":
		return "PasswordAuth", "off", true
	case "-g":
		return "RootPasswordAuth", "off", true
	case "-w":
		return "RootLogin", "off", true
	case "-j":
		return "LocalPortForward", "off", true
	case "-k":
		return "RemotePortForward", "off", true
	case "-a":
		return "GatewayPorts", "on", true
	}
	return "", "", false
}

// uciNumber says which option gives an option of dropbear with a number, and what the script gives without it.
func uciNumber(option string) (name, unset string) {
	switch option {
	case "-T":
		return "MaxAuthTries", "3"
	case "-I":
		return "IdleTimeout", ""
	case "-K":
		return "SSHKeepAlive", "300"
	}
	return "", ""
}

func uciOn(v string) bool {
	return slices.Contains([]string{"1", "on", "true", "yes", "enabled"}, strings.ToLower(v))
}

// words gives the arguments that the section turns into.
func (s uciSection) words() []string {
	var out []string
	for _, f := range []string{"-s", "-g", "-w", "-j", "-k", "-a"} {
		option, value, _ := uciFlag(f)
		o, set := s.options[option]
		on := set && uciOn(o.value) || !set && f != "-a"
		if on == (value == "on") {
			out = append(out, f)
		}
	}
	for _, f := range []string{"-T", "-I", "-K"} {
		name, value := uciNumber(f)
		if o, set := s.options[name]; set {
			value = o.value
		}
		if value != "" {
			out = append(out, f, value)
		}
	}
	port := "22"
	if o, set := s.options["Port"]; set {
		port = o.value
	}
	out = append(out, "-p", port)
	for _, name := range []string{"Interface", "DirectInterface"} {
		if o, set := s.options[name]; set && o.value != "" {
			out = append(out, "-l", o.value)
		}
	}
	return out
}

func (s uciSection) used() bool {
	e, set := s.options["enable"]
	return s.kind == "dropbear" && (!set || uciOn(e.value))
}

func (c dropbearCheck) fixUCI(ctx context.Context, h *Host) ([]Change, error) {
	t, err := openText(ctx, h, uciFile)
	if err != nil {
		return nil, err
	}
	for _, sec := range slices.Backward(parseUCI(t.before)) { // backward, so that line numbers stay right
		if !sec.used() || len(c.bad(sec.words())) == 0 {
			continue
		}
		set := func(option, value string) {
			line := "\toption " + option + " '" + value + "'"
			if o, ok := sec.options[option]; ok {
				t.set(o.line, line)
			} else {
				t.insert(sec.end+1, line)
			}
		}
		have, _ := dropbearOptions(sec.words())
		for _, f := range slices.Concat(c.Set, c.All, c.Deny) {
			option, value, known := uciFlag(f)
			deny := slices.Contains(c.Deny, f)
			if !known || have[f] == !deny {
				continue
			}
			have[f] = !deny
			if deny {
				value = map[string]string{"on": "off", "off": "on"}[value]
			}
			set(option, value)
		}
		if name, _ := uciNumber(c.Option); name != "" && c.Value != 0 {
			set(name, strconv.Itoa(c.Value))
		}
	}
	return t.changes(true), nil
}
