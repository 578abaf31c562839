// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"net/url"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Names in metadata end up in URLs, in the state database and in audit records.
// In backstay's own repositories they are plain; elsewhere they are only kept
// from breaking out of a URL path.

const (
	maxRoleName   = 128 // bytes
	maxTargetPath = 512 // bytes
)

// checkDelegations refuses what a targets role may not delegate: a name twice
// (two sets of keys for one role), the name of a top role, and in our profile
// odd names and the hash prefixes that go-tuf v2.4.2 does not match as specified.
func (s *session) checkDelegations(what string, d *metadata.Delegations) error {
	names := map[string]bool{metadata.ROOT: true, metadata.TIMESTAMP: true, metadata.SNAPSHOT: true, metadata.TARGETS: true}
	for _, r := range d.Roles {
		switch {
		case names[r.Name]:
			return refuse("malformed-metadata", what, nil, "it delegates to the name %q twice, or to a top role", r.Name)
		case !s.roleName(r.Name):
			return refuse("malformed-metadata", what, nil, "role name %q is not allowed", r.Name)
		case len(r.PathHashPrefixes) > 0 && !s.c.cfg.Interop:
			return refuse("malformed-metadata", what, nil, "role %s is delegated by path hash prefixes", r.Name)
		}
		names[r.Name] = true
	}
	if d.SuccinctRoles != nil && !s.roleName(d.SuccinctRoles.NamePrefix) {
		return refuse("malformed-metadata", what, nil, "role name prefix %q is not allowed", d.SuccinctRoles.NamePrefix)
	}
	return nil
}

func (s *session) roleName(name string) bool {
	if name == "" || len(name) > maxRoleName {
		return false
	}
	return s.c.cfg.Interop || plain(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") && name[0] != '.' && !strings.Contains(name, "..")
}

func (s *session) checkPath(path string) error {
	bad := path == "" || len(path) > maxTargetPath
	for _, part := range strings.Split(path, "/") {
		bad = bad || part == "" || part == "." || part == ".."
		if !s.c.cfg.Interop {
			bad = bad || !plain(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.+")
		}
	}
	if bad {
		return refuse("unknown-target", "target", nil, "the name %q is not allowed", path)
	}
	return nil
}

func plain(s, alphabet string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(alphabet, r) })
}

// escape makes a role name one segment of a URL path, whatever is in it.
func escape(role string) string { return url.PathEscape(role) }

// targetURL returns where a target is served: beside its directory, with the
// digest in front of the file's name if the repository keeps old versions.
func (t TargetInfo) targetURL(base string) string {
	parts := strings.Split(t.Path, "/")
	last := len(parts) - 1
	if !t.plain {
		parts[last] = t.prefix() + "." + parts[last]
	}
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return base + "/" + strings.Join(parts, "/")
}

// prefix is the digest a target's file name starts with: sha256 if there is
// one, else the first in the order of names, never a random one.
func (t TargetInfo) prefix() string {
	if h, ok := t.hashes["sha256"]; ok {
		return h.String()
	}
	var names []string
	for n := range t.hashes {
		names = append(names, n)
	}
	if len(names) == 0 {
		return metadata.HexBytes(t.SHA256[:]).String()
	}
	slices.Sort(names)
	return t.hashes[names[0]].String()
}
