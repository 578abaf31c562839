// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxEntries bounds the settings of one file.
const maxEntries = 2000

// parseINI reads a key file as GLib's GKeyFile does, as far as system.conf uses it: groups, key=value, comments on lines of
// their own. A key given twice has its last value; a value keeps its escapes, because nothing that is read here has any.
func parseINI(text []byte) (map[string]map[string]string, error) {
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("it is not UTF-8")
	}
	out := map[string]map[string]string{}
	var now map[string]string
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if n > maxEntries {
			return nil, fmt.Errorf("it has more than %d lines", maxEntries)
		}
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '[' {
			name := strings.TrimSuffix(line[1:], "]")
			if len(name) != len(line)-2 || name == "" || strings.ContainsAny(name, "[]") {
				return nil, fmt.Errorf("line %d: %.80q is no group", n, line)
			}
			if out[name] == nil {
				out[name] = map[string]string{}
			}
			now = out[name]
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if key = strings.TrimSpace(key); !ok || key == "" || now == nil {
			return nil, fmt.Errorf("line %d: %.80q is no key=value in a group", n, line)
		}
		now[key] = strings.TrimSpace(value)
	}
	return out, nil
}
