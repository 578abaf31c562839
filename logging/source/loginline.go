// SPDX-License-Identifier: Apache-2.0

package source

import (
	"log/slog"
	"strings"
)

// maxLine bounds a line of a system log. What is longer is no login.
const maxLine = 1024

// Login reads the message of one line of the system log, without the name of the program app that wrote it. When it tells of a
// login, of a failure to log in or of the end of a session, it returns the code of the event and its attributes.
//
// Everything in a message may be an attacker's choice, the user name above all: what is parsed is parsed from the end, where
// the program itself wrote. Who may write to the log at all can make such lines up: the caller has to know who that is.
func Login(app, message string) (code string, attrs []slog.Attr, ok bool) {
	if len(message) > maxLine {
		return "", nil, false
	}
	var l login
	switch app {
	case "sshd", "sshd-session", "sshd-auth":
		l = sshdLogin(message)
	case "dropbear":
		l = dropbearLogin(message)
	case "login", "su", "sudo", "telnetd", "sulogin", "agetty":
		l = consoleLogin(app, message)
	case "luci", "uhttpd":
		l = luciLogin(message)
	}
	if l.code == "" {
		return "", nil, false
	}
	l.service = app
	return l.code, l.attrs(), true
}

// LoginLine does the same with a whole line as a system logger writes it to a file: with time, host and priority in front, and
// the process in brackets, which becomes the session.
func LoginLine(line string) (code string, attrs []slog.Attr, ok bool) {
	app, pid, message := splitLine(line)
	code, attrs, ok = Login(app, message)
	if ok && pid != "" {
		attrs = append(attrs, slog.String("session", app+"-"+pid))
	}
	return code, attrs, ok
}

// splitLine finds the tag of a line: the first word that ends with a colon and is the name of a program with or without a
// process id. Times have colons too, but not at their end.
func splitLine(line string) (app, pid, message string) {
	if len(line) > maxLine {
		return "", "", ""
	}
	rest := line
	for range 9 { // "Wed Nov 25 17:04:07 2026 host authpriv.info dropbear[12]:"
		word, after, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
		if tag, ok := strings.CutSuffix(word, ":"); ok && tag != "" {
			app, pid, _ = strings.Cut(tag, "[")
			pid = strings.TrimSuffix(pid, "]")
			if !digits(pid) {
				pid = ""
			}
			return app, pid, strings.TrimRight(after, "\r\n")
		}
		rest = after
	}
	return "", "", ""
}

func digits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 10
}

// login is what a line tells.
type login struct {
	code, service, user, by, address, port, method, key, terminal, reason string
}

func (l login) attrs() []slog.Attr {
	message := map[string]string{"auth.ok": "login", "auth.fail": "login failed", "auth.logoff": "session ended"}[l.code]
	attrs := []slog.Attr{slog.String("message", message)}
	for _, a := range [...]struct{ name, value string }{
		{"subject", l.user}, {"by", l.by}, {"source_address", l.address}, {"port", l.port}, {"method", l.method}, {"key", l.key},
		{"terminal", l.terminal}, {"reason", l.reason}, {"service", l.service},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.name, cut(a.value)))
		}
	}
	return attrs
}

// fromPort takes " from A port P" off the end of a text, with what sshd adds behind.
func fromPort(s string) (head, address, port string) {
	head, tail, ok := cutLast(s, " from ")
	if !ok {
		return s, "", ""
	}
	f := strings.Fields(tail)
	if len(f) < 3 || f[1] != "port" {
		return s, "", ""
	}
	return head, f[0], f[2]
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func sshdLogin(s string) login {
	if l := pamLogin(s); l.code != "" {
		// Logins and failures over the network have a line of their own, which tells more; the end of a session may not.
		if l.code != "auth.logoff" {
			return login{}
		}
		return l
	}
	var l login
	switch {
	case strings.HasPrefix(s, "Accepted "):
		l.code = "auth.ok"
		// "Accepted publickey for root from 192.0.2.1 port 40000 ssh2: ED25519 SHA256:..."
		body := s[len("Accepted "):]
		if i := strings.LastIndex(body, " ssh2: "); i >= 0 {
			f := strings.Fields(body[i+len(" ssh2: "):])
			if len(f) > 1 {
				l.key = f[len(f)-1]
			}
			body = body[:i]
		}
		s = body
	case strings.HasPrefix(s, "Failed "):
		l.code, s = "auth.fail", s[len("Failed "):]
	case strings.HasPrefix(s, "Invalid user "):
		head, address, port := fromPort(s[len("Invalid user "):])
		return login{code: "auth.fail", user: head, address: address, port: port, reason: "unknown user"}
	case strings.HasPrefix(s, "Disconnected from user "):
		// "Disconnected from user root 192.0.2.1 port 40000"
		f := strings.Fields(s[len("Disconnected from user "):])
		if n := len(f); n >= 4 && f[n-2] == "port" {
			return login{code: "auth.logoff", user: strings.Join(f[:n-3], " "), address: f[n-3], port: f[n-1]}
		}
		return login{}
	default:
		return login{}
	}
	var user string
	s, l.address, l.port = fromPort(s)
	l.method, user, _ = strings.Cut(s, " for ")
	if l.method == "none" || l.address == "" { // every client asks for "none" first
		return login{}
	}
	if name, ok := strings.CutPrefix(user, "invalid user "); ok {
		user, l.reason = name, "unknown user"
	}
	l.user = user
	return l
}

// pamLogin reads lines of pam_unix: "pam_unix(su:session): session opened for user root(uid=0) by alice(uid=1000)".
func pamLogin(s string) login {
	s, ok := strings.CutPrefix(s, "pam_unix(")
	_, text, ok2 := strings.Cut(s, "): ")
	if !ok || !ok2 {
		return login{}
	}
	name := func(s string) string { n, _, _ := strings.Cut(s, "(uid="); return strings.TrimSpace(n) }
	if u, ok := strings.CutPrefix(text, "session opened for user "); ok {
		user, by, _ := cutLast(u, " by ")
		return login{code: "auth.ok", user: name(user), by: name(by)}
	}
	if u, ok := strings.CutPrefix(text, "session closed for user "); ok {
		return login{code: "auth.logoff", user: name(u)}
	}
	if u, ok := strings.CutPrefix(text, "authentication failure; "); ok {
		l := login{code: "auth.fail"}
		// The values are not quoted. The first of each name is the module's; the user's name is the last field.
		if head, user, ok := cutLast(u, " user="); ok {
			u, l.user = head, user
		}
		for f := range strings.FieldsSeq(u) {
			k, v, _ := strings.Cut(f, "=")
			switch {
			case k == "tty" && l.terminal == "":
				l.terminal = v
			case k == "ruser" && l.by == "":
				l.by = v
			case k == "rhost" && l.address == "":
				l.address = v
			}
		}
		return l
	}
	return login{}
}

// colonAddress splits "192.0.2.1:40000" and "2001:db8::1:40000", as dropbear writes them.
func colonAddress(s string) (address, port string) {
	s = strings.Trim(s, "<>")
	i := strings.LastIndexByte(s, ':')
	if i < 0 || !digits(s[i+1:]) {
		return s, ""
	}
	return s[:i], s[i+1:]
}

func dropbearLogin(s string) login {
	var l login
	text, from, _ := cutLast(s, " from ")
	switch {
	case strings.HasPrefix(text, "Password auth succeeded for "), strings.HasPrefix(text, "PAM password auth succeeded for "):
		l.code, l.method = "auth.ok", "password"
	case strings.HasPrefix(text, "Pubkey auth succeeded for "):
		l.code, l.method = "auth.ok", "publickey"
		if head, key, ok := cutLast(text, "' with "); ok {
			text = head + "'"
			if f := strings.Fields(key); len(f) > 0 {
				l.key = f[len(f)-1]
			}
		}
	case strings.HasPrefix(text, "Auth succeeded with blank password for "):
		l.code, l.method = "auth.ok", "blank password"
	case strings.HasPrefix(text, "Bad password attempt for "), strings.HasPrefix(text, "Bad PAM password attempt for "):
		l.code, l.method = "auth.fail", "password"
	case strings.HasPrefix(text, "Login attempt for nonexistent user"):
		l.code, l.reason = "auth.fail", "unknown user"
	case strings.HasPrefix(text, "Login attempt with wrong user "), strings.HasPrefix(text, "User '") && strings.HasSuffix(text, "' rejected"):
		l.code, l.reason = "auth.fail", "user refused"
	case strings.HasPrefix(text, "Max auth tries reached"):
		l.code, l.reason = "auth.fail", "too many tries"
	case strings.HasPrefix(s, "Exit ("):
		// "Exit (root) from <192.0.2.1:40000>: Disconnect received"; older ones have no address
		user, rest, _ := strings.Cut(s[len("Exit ("):], ")")
		l.code, l.user = "auth.logoff", user
		if a, ok := strings.CutPrefix(rest, " from <"); ok {
			a, _, _ = strings.Cut(a, ">")
			l.address, l.port = colonAddress(a)
		}
		return l
	default:
		return login{}
	}
	if _, user, ok := strings.Cut(text, "'"); ok {
		l.user = strings.TrimSuffix(strings.TrimSuffix(user, " rejected"), "'")
	}
	from, _, _ = strings.Cut(from, " ")
	l.address, l.port = colonAddress(from)
	return l
}

// quoted takes the text of a name in quotes, or the rest of the text.
func quoted(s string) string {
	if t, ok := strings.CutPrefix(s, "'"); ok {
		t, _, _ = strings.Cut(t, "'")
		return t
	}
	s, _, _ = strings.Cut(s, ",")
	return strings.TrimSpace(s)
}

func consoleLogin(app, s string) login {
	if l := pamLogin(s); l.code != "" {
		l.method = app
		return l
	}
	switch {
	case app == "su" || app == "sudo":
		return suLogin(s)
	case strings.HasPrefix(s, "invalid password for "): // busybox
		l := login{code: "auth.fail", method: "password"}
		l.user = quoted(s[len("invalid password for "):])
		_, tail, _ := cutLast(s, "' on '")
		l.terminal = quoted("'" + tail)
		if _, host, ok := cutLast(s, " from '"); ok {
			l.address = quoted("'" + host)
		}
		return l
	case strings.HasPrefix(s, "FAILED LOGIN"): // util-linux, shadow
		l := login{code: "auth.fail"}
		if _, t, ok := strings.Cut(s, " on "); ok && strings.HasPrefix(t, "'") {
			l.terminal = quoted(t)
		}
		if _, t, ok := strings.Cut(s, " FROM "); ok {
			l.address, _, _ = strings.Cut(t, " ")
		}
		if _, t, ok := cutLast(s, " FOR "); ok {
			l.user = quoted(t)
		}
		return l
	}
	return loginOn(s)
}

// loginOn reads "root login on 'ttyS0'" of busybox, "LOGIN ON tty1 BY root" and "ROOT LOGIN ON tty1 FROM host" of util-linux.
func loginOn(s string) login {
	l := login{code: "auth.ok"}
	switch {
	case strings.HasPrefix(s, "root login on "):
		l.user, l.terminal = "root", quoted(s[len("root login on "):])
		if _, host, ok := strings.Cut(s, " from "); ok {
			l.address = quoted(host)
		}
	case strings.HasPrefix(s, "ROOT LOGIN"), strings.HasPrefix(s, "LOGIN ON "), strings.HasPrefix(s, "DIALUP AT "):
		f := strings.Fields(s)
		for i := 0; i+1 < len(f); i++ {
			switch f[i] {
			case "ON", "on", "AT":
				l.terminal = strings.Trim(f[i+1], "'")
			case "FROM", "from":
				l.address = strings.Trim(f[i+1], "'")
			case "BY":
				l.user = f[i+1]
			}
		}
		if strings.HasPrefix(s, "ROOT ") {
			l.user = "root"
		}
	default:
		return login{}
	}
	return l
}

// suLogin reads "+ /dev/pts/0 alice:root" and "- ...", which busybox and shadow write, and the sentences of shadow and util-linux.
func suLogin(s string) login {
	l := login{method: "su"}
	switch {
	case strings.HasPrefix(s, "+ "), strings.HasPrefix(s, "- "):
		l.code = map[byte]string{'+': "auth.ok", '-': "auth.fail"}[s[0]]
		terminal, names, _ := cutLast(s[2:], " ")
		by, user, ok := strings.Cut(names, ":")
		if !ok {
			return login{}
		}
		l.terminal, l.by, l.user = terminal, by, user
	case strings.HasPrefix(s, "FAILED su for "), strings.HasPrefix(s, "FAILED SU (to "):
		l.code = "auth.fail"
		if t, ok := strings.CutPrefix(s, "FAILED SU (to "); ok {
			to, t, _ := strings.Cut(t, ") ")
			l.user = to
			l.by, _, _ = strings.Cut(t, " ")
			break
		}
		l.user, l.by, _ = cutLast(s[len("FAILED su for "):], " by ")
	default: // a success has a line of its own from pam_unix, or one that begins with +
		return login{}
	}
	return l
}

// luciLogin reads "luci: accepted login on / for root from 192.0.2.1" of OpenWrt's web page.
func luciLogin(s string) login {
	if i := strings.Index(s, "luci: "); i >= 0 && i <= len("[warn] ") { // the level, on newer ones
		s = s[i+len("luci: "):]
	}
	l := login{method: "web"}
	switch {
	case strings.HasPrefix(s, "accepted login on "):
		l.code = "auth.ok"
	case strings.HasPrefix(s, "failed login on "):
		l.code = "auth.fail"
	default:
		return login{}
	}
	head, from, _ := cutLast(s, " from ")
	l.address = from
	if _, user, ok := strings.Cut(head, " for "); ok {
		l.user = user
	}
	return l
}
