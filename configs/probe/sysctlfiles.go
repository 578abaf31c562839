// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// sysctlLine is one setting of a sysctl file. The key is a path below /proc/sys, since a dot may be part of an interface's
// name: net/ipv4/conf/eth0.100/rp_filter.
type sysctlLine struct {
	file       string
	line       int
	key, value string
	except     bool // "-key" without a value: patterns leave the key alone
}

// parseSysctl reads "key = value" lines. A leading dash means that an error is ignored; without a value it takes a key out
// of the patterns of other lines.
func parseSysctl(data []byte) []sysctlLine {
	var out []sysctlLine
	n := 0
	for l := range bytes.Lines(data) {
		n++
		s := strings.TrimSpace(string(l))
		if s == "" || s[0] == '#' || s[0] == ';' {
			continue
		}
		k, v, ok := strings.Cut(s, "=")
		k, dash := strings.CutPrefix(strings.TrimSpace(k), "-")
		k = strings.TrimSpace(k)
		if k == "" || !ok && !dash {
			continue
		}
		out = append(out, sysctlLine{line: n, key: sysctlPath(k), value: strings.Join(strings.Fields(v), " "), except: !ok})
	}
	return out
}

// sysctlPath turns a key into a path: whichever of dot and slash comes first separates, the other one is a character of a name.
func sysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		return strings.NewReplacer("/", ".", ".", "/").Replace(key)
	}
	return key
}

// sysctlKey is the inverse of sysctlPath, with dots.
func sysctlKey(p string) string { return strings.NewReplacer("/", ".", ".", "/").Replace(p) }

// sysctlFiles lists the files in the order in which they are read: those of the directories by file name, a name in an
// earlier directory hiding the same name in a later one, then sysctl.conf.
func sysctlFiles(h *Host) ([]string, error) {
	byName := map[string]string{}
	for _, dir := range []string{"/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"} {
		names, err := h.Names(dir, 512)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if strings.HasSuffix(n, ".conf") && byName[n] == "" {
				byName[n] = path.Join(dir, n)
			}
		}
	}
	var out []string
	for _, p := range byName {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	if h.Exists("/etc/sysctl.conf") {
		out = append(out, "/etc/sysctl.conf")
	}
	return out, nil
}

// sysctlSettings reads all files, in order. A link to /dev/null hides a file and sets nothing.
func sysctlSettings(ctx context.Context, h *Host) ([]sysctlLine, error) {
	files, err := sysctlFiles(h)
	if err != nil {
		return nil, err
	}
	var out []sysctlLine
	for _, f := range files {
		data, err := h.Read(ctx, f)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotRegular) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, l := range parseSysctl(data) {
			l.file = f
			out = append(out, l)
		}
	}
	return out, nil
}

// persisted finds the setting that a key, as a path, has after a start; line 0 when no file sets it. A key that is named is
// stronger than any pattern, wherever it stands; of equals the last one counts.
func persisted(settings []sysctlLine, key string) (last sysctlLine) {
	var pattern sysctlLine
	except := false
	for _, s := range settings {
		switch {
		case s.key == key && s.except:
			except = true
		case s.key == key:
			last = s
		case !s.except && strings.ContainsAny(s.key, "*?[") && globMatch(s.key, key):
			pattern = s
		}
	}
	if last.line == 0 && !except {
		return pattern
	}
	return last
}

// globMatch is a match by file name rules: a star stays within one element.
func globMatch(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// appliesSysctl names what reads the files at start, "" for nothing: a good line in a file that nothing reads protects
// nobody. On a running system the values themselves are looked at.
func appliesSysctl(ctx context.Context, h *Host) (by string, err error) {
	for _, p := range []string{"/usr/lib/systemd/systemd-sysctl", "/lib/systemd/systemd-sysctl"} {
		if h.Exists(p) {
			return p, nil
		}
	}
	started := h.starts(ctx)
	for _, s := range started.on("sysctl", "systemd-sysctl") {
		if slices.ContainsFunc(s.args(), func(a string) bool {
			return strings.HasPrefix(a, "-p") || a == "--system" || a == "--load" || a == "-f"
		}) {
			return s.file, nil
		}
	}
	return "", started.err()
}
