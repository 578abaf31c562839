// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Bounds of looking through the pages of one server.
const (
	maxPages     = 4096
	maxPageDepth = 4
)

// badRoot says what is wrong with a document root, "" for nothing.
func badRoot(ctx context.Context, h *Host, root string) string {
	p, err := h.Resolve(path.Clean(root))
	if err != nil {
		return ""
	}
	if slices.Contains(systemDirs(), p) {
		return "the document root is " + p
	}
	left := maxPages
	return badPage(ctx, h, p, p, 0, &left)
}

// systemDirs are directories that nobody means to publish.
func systemDirs() []string {
	return []string{"/", "/etc", "/root", "/home", "/var", "/var/log", "/var/lib", "/usr", "/bin", "/sbin", "/lib", "/dev", "/proc", "/sys", "/mnt", "/boot", "/run", "/data"}
}

// badPage looks for keys, password files and links out of the document root.
func badPage(ctx context.Context, h *Host, root, dir string, depth int, left *int) string {
	names, err := h.Names(dir, maxStartFiles)
	if err != nil || depth > maxPageDepth || ctx.Err() != nil {
		return ""
	}
	for _, n := range names {
		if *left--; *left < 0 {
			return ""
		}
		p := path.Join(dir, n)
		in, err := h.Stat(p)
		if err != nil {
			continue
		}
		inside := in.Path == root || strings.HasPrefix(in.Path, root+"/")
		switch {
		case !inside && (slices.Contains(systemDirs(), in.Path) || strings.HasPrefix(in.Path, "/etc/") || strings.HasPrefix(in.Path, "/root/")):
			return p + " is a link to " + in.Path
		case !inside:
		case in.Mode.IsDir():
			if n == ".git" {
				return p + " is published"
			}
			if why := badPage(ctx, h, root, p, depth+1, left); why != "" {
				return why
			}
		case in.Mode.IsRegular() && secretPage(ctx, h, p, n):
			return p + " is published"
		}
	}
	return ""
}

// secretPage knows files that are secrets by their name and, where a name is not enough, by what is in them.
func secretPage(ctx context.Context, h *Host, p, name string) bool {
	switch {
	case slices.Contains([]string{"shadow", ".env", "id_rsa", "id_ed25519", "id_ecdsa", "wpa_supplicant.conf"}, name), strings.HasSuffix(name, "_host_key"):
		return true
	case slices.Contains([]string{".key", ".pem", ".p12", ".pfx", ".jks"}, path.Ext(name)):
		data, err := h.Read(ctx, p)
		if err != nil {
			return false
		}
		if ext := path.Ext(name); ext == ".p12" || ext == ".pfx" || ext == ".jks" {
			return len(data) > 0
		}
		return bytes.Contains(data, []byte("PRIVATE KEY-----\n")) || bytes.Contains(data, []byte("PRIVATE KEY-----\r"))
	}
	return false
}

// webCredential is one user of a web server with the password field.
type webCredential struct {
	file        string
	line        int
	user, field string
	realm       string // of digest authentication; then field is a digest
}

// passwords reads the files of passwords: those that configurations name, usual places, and what lies in document roots.
func (f *webFacts) passwords(ctx context.Context, h *Host) error {
	list := append(f.files, "/etc/htpasswd", "/etc/.htpasswd", "/etc/httpd.passwd", "/etc/nginx/.htpasswd", "/etc/nginx/htpasswd", "/etc/lighttpd/.htpasswd", "/etc/lighttpd/htpasswd",
		"/etc/lighttpd/lighttpd.user", "/etc/lighttpd/lighttpd-plain.user", "/etc/lighttpd/lighttpd-htdigest.user", "/etc/apache2/.htpasswd", "/var/www/.htpasswd", "/www/.htpasswd")
	for _, w := range f.servers {
		if w.root != "" {
			list = append(list, path.Join(w.root, ".htpasswd"), path.Join(w.root, "cgi-bin/.htpasswd"))
		}
	}
	seen := map[string]bool{}
	for _, name := range list {
		p, err := h.Resolve(name)
		if err != nil || seen[p] || !strings.HasPrefix(name, "/") {
			continue
		}
		seen[p] = true
		text, ok, err := f.text(ctx, h, name)
		if err != nil {
			return err
		}
		if ok {
			f.creds = append(f.creds, parseHtpasswd(p, text)...)
		}
	}
	return nil
}

// parseHtpasswd reads user:password and user:realm:digest.
func parseHtpasswd(file, text string) []webCredential {
	var out []webCredential
	n := 0
	for l := range strings.Lines(text) {
		n++
		l = strings.TrimSpace(l)
		user, rest, ok := strings.Cut(l, ":")
		if !ok || strings.HasPrefix(l, "#") || user == "" || len(out) >= maxVariables {
			continue
		}
		c := webCredential{file: file, line: n, user: user, field: rest}
		if realm, digest, ok := strings.Cut(rest, ":"); ok {
			c.field = realm
			if len(digest) == 32 && len(realm) < maxValue {
				c.realm, c.field = realm, digest
			}
		}
		out = append(out, c)
	}
	return out
}

// credentials judges them. A password is never shown.
func (c webCheck) credentials(ctx context.Context, h *Host, list []webCredential) ([]Item, error) {
	var items []Item
	for _, k := range list {
		if err := ctx.Err(); err != nil {
			return items, err
		}
		if why := c.known(k, h.Live()); why != "" {
			items = append(items, Item{Subject: printable(k.user), Where: at(k.file, k.line), Observed: why, Expected: "a password of its own for each device"})
		}
	}
	return items, nil
}

// known says what is wrong with one password.
func (c webCheck) known(k webCredential, live bool) string {
	switch {
	case k.field == "":
		return "an empty password"
	case slices.Contains([]string{"*", "!", "!!", "x"}, k.field), strings.HasPrefix(k.field, "$p$"): // locked, or that of /etc/shadow
		return ""
	}
	try, scheme := k.verifier()
	if try == nil && !strings.HasPrefix(k.field, "$") {
		return "a password in clear text"
	}
	words := append([]string{k.user, k.user + "123", ""}, append(slices.Clone(c.Words), defaultWords()...)...)
	if live && slow(k.field) {
		words = words[:min(len(words), quickWords)]
	}
	if try != nil {
		for i, w := range words {
			if try(w) {
				return fmt.Sprintf("%s of a default password (guess %d of %d)", scheme, i+1, len(words))
			}
		}
	}
	if !live {
		return scheme + " of a password that every device with this image has"
	}
	return ""
}

// verifier gives a function that tries a password, nil for clear text and schemes that are not tried.
func (k webCredential) verifier() (try func(string) bool, scheme string) {
	if k.realm != "" {
		return func(w string) bool {
			sum := md5.Sum([]byte(k.user + ":" + k.realm + ":" + w))
			return subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(strings.ToLower(k.field))) == 1
		}, "digest"
	}
	if b, ok := strings.CutPrefix(k.field, "{SHA}"); ok {
		return func(w string) bool {
			sum := sha1.Sum([]byte(w))
			return base64.StdEncoding.EncodeToString(sum[:]) == b
		}, "SHA-1"
	}
	if try := verifier(k.field); try != nil {
		return try, schemeOf(k.field)
	}
	return nil, "hash"
}
