// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"path"
	"slices"
	"strings"
)

// uhttpd reads OpenWrt's settings.
func (f *webFacts) uhttpd(ctx context.Context, h *Host) error {
	const name = "/etc/config/uhttpd"
	text, ok, err := f.text(ctx, h, name)
	if !ok {
		return err
	}
	var w *webServer
	var cred *webCredential
	done := func() {
		if w != nil {
			if w.redirect {
				w.plain = ""
			}
			f.servers = append(f.servers, *w)
		}
		if cred != nil && cred.user != "" {
			f.creds = append(f.creds, *cred)
		}
		w, cred = nil, nil
	}
	n := 0
	for l := range strings.Lines(text) {
		n++
		word := uciWords(l)
		if len(word) >= 2 && word[0] == "config" {
			done()
			switch word[1] {
			case "uhttpd":
				w = &webServer{name: "uhttpd", file: name, line: n, root: "/www"}
			case "httpauth":
				cred = &webCredential{file: name, line: n}
			}
		}
		if len(word) < 3 || word[0] != "option" && word[0] != "list" {
			continue
		}
		f.uhttpdOption(w, cred, word[1], word[2])
	}
	done()
	return nil
}

func (f *webFacts) uhttpdOption(w *webServer, cred *webCredential, key, value string) {
	switch {
	case w != nil && key == "home":
		w.root = value
	case w != nil && key == "redirect_https":
		w.redirect = uciOn(value)
	case w != nil && key == "listen_http":
		if p := plainAddr(value); p != "" {
			w.plain = p
		}
	case cred != nil && key == "username":
		cred.user = value
	case cred != nil && key == "password":
		cred.field = value
	}
}

// lighttpd reads its files without the conditions around the settings.
func (f *webFacts) lighttpd(ctx context.Context, h *Host) error {
	files, err := h.expand([]string{"/etc/lighttpd/lighttpd.conf", "/etc/lighttpd.conf", "/etc/lighttpd/conf.d/*.conf", "/etc/lighttpd/conf-enabled/*.conf", "/etc/lighttpd/*.conf"})
	if err != nil || len(files) == 0 {
		return err
	}
	w := webServer{name: "lighttpd", file: files[0], plain: "port 80"}
	for i, name := range files {
		if slices.Contains(files[:i], name) {
			continue
		}
		text, _, err := f.text(ctx, h, name)
		if err != nil {
			return err
		}
		n := 0
		for l := range strings.Lines(text) {
			n++
			l = strings.TrimSpace(l)
			key, value, ok := strings.Cut(l, "=")
			key, value = strings.TrimSpace(key), strings.Trim(strings.TrimSpace(value), `">`)
			value = strings.TrimSpace(strings.Trim(value, ` "`))
			switch {
			case strings.HasPrefix(l, "#"):
			case strings.HasPrefix(l, "ssl.engine") && strings.Contains(l, "enable"), strings.HasPrefix(l, "url.redirect") && strings.Contains(l, "https"), strings.Contains(l, "https://%1"):
				w.plain = ""
			case ok && key == "server.bind" && plainAddr(value+":80") == "":
				w.plain = ""
			case ok && key == "server.document-root":
				w.root, w.file, w.line = value, name, n
			case ok && strings.HasPrefix(key, "auth.backend.") && strings.HasSuffix(key, ".userfile"):
				f.files = append(f.files, value)
			}
		}
	}
	f.servers = append(f.servers, w)
	return nil
}

// nginx reads its files statement by statement, without the blocks around them.
func (f *webFacts) nginx(ctx context.Context, h *Host) error {
	files, err := h.expand([]string{"/etc/nginx/nginx.conf", "/etc/nginx/conf.d/*.conf", "/etc/nginx/sites-enabled/*", "/etc/nginx/http.d/*.conf"})
	if err != nil || len(files) == 0 {
		return err
	}
	plain, redirect := "", false
	var w webServer
	for _, name := range files {
		text, _, err := f.text(ctx, h, name)
		if err != nil {
			return err
		}
		n := 0
		for l := range strings.Lines(text) {
			n++
			l, _, _ = strings.Cut(l, "#")
			for _, st := range strings.FieldsFunc(l, func(r rune) bool { return r == ';' || r == '{' || r == '}' }) {
				word := strings.Fields(st)
				if len(word) < 2 {
					continue
				}
				switch word[0] {
				case "listen":
					if !slices.Contains(word, "ssl") && !slices.Contains(word, "quic") && plainAddr(word[1]) != "" && !strings.HasPrefix(word[1], "unix:") {
						plain = plainAddr(word[1])
					}
				case "return", "rewrite":
					redirect = redirect || strings.Contains(st, "https://")
				case "root":
					f.servers = append(f.servers, webServer{name: "nginx", file: name, line: n, root: strings.Trim(word[1], `"'`)})
				case "auth_basic_user_file":
					f.files = append(f.files, path.Join("/etc/nginx", word[1]), word[1])
				}
			}
		}
	}
	if plain != "" && !redirect {
		w = webServer{name: "nginx", file: files[0], plain: plain}
		f.servers = append(f.servers, w)
	}
	return nil
}
