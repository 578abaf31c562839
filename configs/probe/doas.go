// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"slices"
	"strings"
)

// doasGrants reads "permit nopass user [as root] [cmd /path]".
func doasGrants(t *text) []grant {
	var out []grant
	for _, l := range logicalLines(t) {
		words := quotedFields(l.text)
		if words[0] != "permit" || !slices.Contains(words, "nopass") {
			continue
		}
		who, cmd := "", ""
		for i := 1; i < len(words); i++ {
			switch w := words[i]; {
			case w == "setenv":
				for i+1 < len(words) && !strings.HasSuffix(words[i], "}") {
					i++
				}
			case w == "as" || w == "args":
				i++
			case w == "cmd" && i+1 < len(words):
				i++
				cmd = words[i]
			case slices.Contains([]string{"nopass", "persist", "keepenv", "nolog"}, w):
			case who == "":
				who = w
			}
		}
		if cmd != "" && (&sudoers{}).fixed(cmd, 0) {
			continue
		}
		out = append(out, grant{who: strings.Replace(who, ":", "%", 1), what: "nopass: " + cmp.Or(cmd, "any command"), file: doasFile, line: l.first, last: l.last})
	}
	return out
}
