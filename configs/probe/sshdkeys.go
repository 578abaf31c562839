// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"path"
	"strings"
)

func sshdPrograms() []string {
	return []string{"/usr/sbin/sshd", "/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"}
}

// sshdKeyFiles gives the files that AuthorizedKeysFile names for an account, beside the default ones.
func sshdKeyFiles(ctx context.Context, h *Host, a account) []string {
	r := sshdReader{h: h}
	lines, err := r.read(ctx, sshdFile, false, 0)
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range lines {
		if l.keyword != "authorizedkeysfile" {
			continue
		}
		for _, p := range l.args {
			if p == "none" {
				continue
			}
			p = strings.NewReplacer("%%", "%", "%h", a.home, "%u", a.name, "%U", a.uid).Replace(p)
			if !strings.HasPrefix(p, "/") {
				p = path.Join("/", a.home, p)
			}
			out = append(out, path.Clean(p))
		}
	}
	return out
}
