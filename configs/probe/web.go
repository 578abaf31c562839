// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// webCheck wants the web servers of a device to be set up with care.
type webCheck struct {
	Find  []string `json:"find"`  // credential, document-root, cgi-root, plain
	Words []string `json:"words"` // more passwords to try
}

func webKind() Kind {
	return Kind{
		Name: "web", Target: `"servers": busybox httpd, uhttpd, lighttpd, nginx and files of passwords for them`,
		Want: `{"find": ["credential", "document-root", "cgi-root", "plain"], "words": [more passwords to try]}; find is required: ` +
			`a password in clear text, empty or published (in an image any password), a document root that is a system directory or holds keys, scripts of busybox httpd that run as root, pages without TLS`,
		Fix: "document-root: what starts the server is put out of use as by start-program; the rest is mended by hand",
		New: func(target string, want []byte) (Check, error) {
			var c webCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "servers" {
				return nil, errors.New(`target: want "servers"`)
			}
			if f, ok := subset(c.Find, []string{"credential", "document-root", "cgi-root", "plain"}); !ok || len(c.Find) == 0 {
				return nil, fmt.Errorf("want.find: %q, want credential, document-root, cgi-root or plain", f)
			}
			if len(c.Words) > maxWords {
				return nil, fmt.Errorf("want.words: %d, the limit is %d", len(c.Words), maxWords)
			}
			return c, nil
		},
	}
}

func (c webCheck) Claims() []string { return prefixed("web:", c.Find) }

func (c webCheck) Tightens(old Check) error {
	o, ok := old.(webCheck)
	if !ok {
		return errors.New("another kind")
	}
	if f, ok := subset(o.Find, c.Find); !ok {
		return fmt.Errorf("%s is not searched for", f)
	}
	if _, ok := subset(o.Words, c.Words); !ok {
		return errors.New("a word of the floor is missing")
	}
	return nil
}

// webServer is one server as it is set up.
type webServer struct {
	name     string // busybox httpd, uhttpd, lighttpd, nginx
	file     string
	line     int
	root     string // document root, "" when it is not known
	plain    string // where it serves without TLS, "" for nowhere but loopback
	from     *start // what starts it, when that is known
	redirect bool
}

// webFacts are the servers of a tree and the files with their passwords.
type webFacts struct {
	servers []webServer
	creds   []webCredential
	read    []string
	files   []string // of passwords, still to be read
}

// webSetup finds the servers.
func webSetup(ctx context.Context, h *Host) (*webFacts, error) {
	f := &webFacts{}
	for _, step := range []func(context.Context, *Host) error{f.busybox, f.uhttpd, f.lighttpd, f.nginx, f.passwords} {
		if err := step(ctx, h); err != nil {
			return f, err
		}
	}
	return f, nil
}

// text reads a file that may not be there.
func (f *webFacts) text(ctx context.Context, h *Host, name string) (string, bool, error) {
	if !h.Exists(name) {
		return "", false, nil
	}
	data, err := h.Read(ctx, name)
	if err != nil {
		return "", false, err
	}
	f.read = append(f.read, printable(name))
	return string(data), true, nil
}

// isBusyboxHTTPD tells busybox's httpd from others of that name.
func isBusyboxHTTPD(h *Host, s start) bool {
	p := s.words[0]
	if !strings.Contains(p, "/") {
		if p = h.findProgram("httpd"); p == "" {
			return h.findProgram("busybox") != ""
		}
	}
	r, err := h.Resolve(p)
	return err == nil && strings.HasPrefix(path.Base(r), "busybox")
}

// busybox notes every start of its httpd, and its file where what is started is not known.
func (f *webFacts) busybox(ctx context.Context, h *Host) error {
	confs := map[string]bool{}
	for _, s := range h.starts(ctx).on("httpd") {
		if !isBusyboxHTTPD(h, s) {
			continue
		}
		f.read = append(f.read, printable(s.file))
		w := webServer{name: "busybox httpd", file: s.file, line: s.line, from: &s, plain: "port 80"}
		conf := "/etc/httpd.conf"
		for flag, v := range valuesOf(s.args(), "hcurpe") {
			switch flag {
			case 'h':
				w.root = v
			case 'c':
				conf = v
			case 'p':
				w.plain = plainAddr(v)
			}
		}
		home, err := f.httpdConf(ctx, h, conf, confs)
		if err != nil {
			return err
		}
		if w.root == "" {
			w.root = home
		}
		if w.root == "" && s.source != "inetd" && !changesDir(ctx, h, s.file) {
			w.root = "/" // it serves the directory it is started in, and init's is the top
		}
		f.servers = append(f.servers, w)
	}
	home, err := f.httpdConf(ctx, h, "/etc/httpd.conf", confs)
	if home != "" && len(f.servers) == 0 && h.starts(ctx).err() != nil { // perhaps it is started
		f.servers = append(f.servers, webServer{name: "busybox httpd", file: "/etc/httpd.conf", root: home})
	}
	return err
}

// changesDir reports whether a script goes to another directory before it starts things.
func changesDir(ctx context.Context, h *Host, file string) bool {
	data, err := h.Read(ctx, file)
	return err != nil || strings.Contains(string(data), "cd ") || strings.Contains(string(data), "chdir")
}

// valuesOf gives the values of options of one letter, merged with flags before them or not.
func valuesOf(args []string, takes string) map[byte]string {
	out := map[byte]string{}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			continue
		}
		for j := 1; j < len(a); j++ {
			if strings.IndexByte(takes, a[j]) < 0 {
				continue
			}
			v := a[j+1:]
			if v == "" && i+1 < len(args) {
				i++
				v = args[i]
			}
			out[a[j]] = v
			break
		}
	}
	return out
}

// plainAddr gives where a server listens, "" for loopback alone.
func plainAddr(v string) string {
	host := strings.Trim(v[:max(0, strings.LastIndexByte(v, ':'))], "[]")
	if strings.HasPrefix(host, "127.") || host == "::1" || host == "localhost" {
		return ""
	}
	return "port " + v[strings.LastIndexByte(v, ':')+1:]
}

// httpdConf reads busybox's file: H: is the document root, /path:user:password a password.
func (f *webFacts) httpdConf(ctx context.Context, h *Host, name string, done map[string]bool) (home string, err error) {
	text, ok, err := f.text(ctx, h, name)
	if !ok || strings.Contains(text, "ServerRoot") || strings.Contains(text, "<Directory") { // that is Apache's
		return "", err
	}
	n := 0
	for l := range strings.Lines(text) {
		n++
		l = strings.TrimSpace(l)
		switch {
		case strings.HasPrefix(l, "H:"):
			home = l[2:]
		case strings.HasPrefix(l, "/") && !done[name]:
			p := strings.SplitN(l, ":", 3)
			if len(p) == 3 {
				f.creds = append(f.creds, webCredential{file: name, line: n, user: p[1], field: p[2]})
			}
		}
	}
	done[name] = true
	return home, nil
}

func (c webCheck) Check(ctx context.Context, h *Host) Verdict {
	f, err := webSetup(ctx, h)
	var items []Item
	if slices.Contains(c.Find, "credential") {
		var cerr error
		items, cerr = c.credentials(ctx, h, f.creds)
		err = errors.Join(err, cerr)
	}
	for _, w := range f.servers {
		if i, bad := c.judge(ctx, h, w); bad {
			items = append(items, i)
		}
	}
	if err == nil && len(f.servers) == 0 {
		err = h.starts(ctx).err()
		if errors.Is(err, errNoStart) {
			err = nil
		}
	}
	switch {
	case err != nil && len(items) == 0:
		return unknown(err)
	case len(f.servers)+len(f.creds) == 0:
		return notApplicable("no start of busybox httpd, no configuration of uhttpd, lighttpd or nginx, no file of passwords")
	}
	v := judged(items, fmt.Sprintf("%d servers and %d passwords, none as searched for (%s)", len(f.servers), len(f.creds), strings.Join(c.Find, ", ")), f.read...)
	if len(f.servers) > 0 {
		v.Implementation = f.servers[0].name
	}
	return v
}

// judge looks at one server.
func (c webCheck) judge(ctx context.Context, h *Host, w webServer) (Item, bool) {
	where := printable(w.file)
	if w.line > 0 {
		where = at(w.file, w.line)
	}
	item := func(observed, expected string) (Item, bool) {
		return Item{Subject: w.name, Where: where, Observed: printable(observed), Expected: expected}, true
	}
	if slices.Contains(c.Find, "document-root") && w.root != "" {
		if why := badRoot(ctx, h, w.root); why != "" {
			return item(why, "a directory of pages alone")
		}
	}
	if slices.Contains(c.Find, "cgi-root") && w.name == "busybox httpd" && w.from != nil && w.root != "" {
		_, user := valuesOf(w.from.args(), "hcurpe")['u']
		if names, err := h.Names(path.Join(w.root, "cgi-bin"), maxStartFiles); err == nil && len(names) > 0 && !user && w.from.asRoot() {
			return item("runs "+path.Join(w.root, "cgi-bin")+" as root", "-u with a user of its own")
		}
	}
	if slices.Contains(c.Find, "plain") && w.plain != "" {
		return item(w.name+" serves "+w.plain+" without TLS", "TLS, or a redirect to it")
	}
	return Item{}, false
}

// Fix puts out of use what starts a server whose document root gives away the system.
func (c webCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	f, err := webSetup(ctx, h)
	if err != nil {
		return nil, err
	}
	var stop []start
	if slices.Contains(c.Find, "credential") {
		if items, _ := c.credentials(ctx, h, f.creds); slices.ContainsFunc(items, func(i Item) bool { return want(i.Subject) }) {
			return nil, fmt.Errorf("a password of its own has to be set: %w", ErrNoFix)
		}
	}
	for _, w := range f.servers {
		if _, bad := c.judge(ctx, h, w); !bad || !want(w.name) {
			continue
		}
		if !slices.Contains(c.Find, "document-root") || w.from == nil {
			return nil, fmt.Errorf("%s is set up in %s: %w", w.name, printable(w.file), ErrNoFix)
		}
		stop = append(stop, *w.from)
	}
	out, err := neutralise(ctx, h, stop)
	if err != nil || !h.isRunningRoot() || len(stop) == 0 {
		return out, err
	}
	var end []process
	for _, p := range h.processes(ctx).list {
		if p.program() == "httpd" && !p.kernel() && !p.zombie {
			end = append(end, p)
		}
	}
	return stopNow(ctx, h, out, stop, end), nil
}
