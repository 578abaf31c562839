// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// chainCheck wants everything on the way to what the system starts to be root's alone: the files that say what is started,
// the programs, the interpreters of scripts, and every directory and link above them. One of them that somebody else can
// write is root at the next start.
type chainCheck struct {
	of string // start or loader
}

func chainKind() Kind {
	return Kind{
		Name: "start-chain", Target: `"start": whatever the system starts by itself; "loader": what the dynamic loader puts into every program`,
		Want: `{}`,
		Fix:  "take write permission from group and others; put lines of ld.so.preload out of use; owners and sticky directories are left to a person",
		New: func(target string, want []byte) (Check, error) {
			c := chainCheck{of: target}
			if target != "start" && target != "loader" {
				return nil, errors.New(`target: want "start" or "loader"`)
			}
			return c, decodeWant(want, &struct{}{})
		},
	}
}

func (c chainCheck) Claims() []string { return []string{"chain:" + c.of} }

func (c chainCheck) Tightens(old Check) error {
	if o, ok := old.(chainCheck); !ok || o.of != c.of {
		return errors.New("another target")
	}
	return nil
}

// link is one thing on a way, and what it is on the way to.
type link struct {
	Info
	to   string
	bits fs.FileMode // write permissions that it should not have
	bad  string
}

// chain collects what is wrong on the ways to names.
type chain struct {
	h          *Host
	uid, gid   uint32
	seen       map[string]bool // names asked for, and things looked at
	files, bad int
	links      []link
}

func newChain(h *Host) *chain {
	c := &chain{h: h, seen: map[string]bool{}}
	c.uid, c.gid = h.Root()
	if top, err := h.Stat("/"); err == nil {
		c.look(top, "/")
	}
	return c
}

// follow looks at everything on the way to name. A name that is not there is followed as far as it goes: who may write the
// directory can put it there.
func (c *chain) follow(name string) {
	if name == "" || name[0] != '/' || c.seen["> "+name] {
		return
	}
	c.seen["> "+name] = true
	c.files++
	_, _ = c.h.resolve(name, func(in Info) { c.look(in, name) })
}

func (c *chain) look(in Info, to string) {
	if c.seen[in.Path] {
		return
	}
	c.seen[in.Path] = true
	in, err := c.h.pretended(in)
	if err != nil || in.Mode&fs.ModeDevice != 0 || len(c.links) > maxFound {
		return
	}
	l := link{Info: in, to: to}
	if in.Mode&fs.ModeSymlink == 0 { // a link has no permissions of its own
		l.bits = in.Mode & 0o022
		if in.GID == 0 || in.GID == c.gid {
			l.bits &= 0o002
		}
	}
	switch {
	case l.bits != 0:
		l.bad = "mode " + OctalMode(in.Mode)
	case in.UID != c.uid && in.UID != 0:
		l.bad = fmt.Sprintf("owner %d", in.UID)
	default:
		return
	}
	c.links = append(c.links, l)
}

// interpreter follows the program that runs a script.
func (c *chain) interpreter(ctx context.Context, name string) {
	if c.seen["! "+name] || !c.h.isScript(name) {
		return
	}
	c.seen["! "+name] = true
	data, err := c.h.Read(ctx, name)
	if err != nil {
		return
	}
	first, _, _ := bytes.Cut(data, []byte("\n"))
	if f := strings.Fields(strings.TrimPrefix(string(first), "#!")); len(f) > 0 {
		c.follow(f[0])
	}
}

// startDirs is where a program without a path is looked for.
func startDirs() []string {
	return []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
}

// ofStarts follows everything that root starts. What runs as somebody else may be theirs.
func (c *chain) ofStarts(ctx context.Context, f *startFacts) {
	theirs := map[string]bool{}
	for _, s := range f.list {
		if s.user != "" && s.user != "root" && s.user != "0" {
			theirs[s.file] = true
		}
	}
	for _, p := range f.read { // also what scripts read with "." and holds no command yet
		if !theirs[p] && !below("/home", p) {
			c.follow(p)
		}
	}
	for _, s := range f.list {
		if !s.enabled || s.user != "" && s.user != "root" && s.user != "0" {
			continue
		}
		c.follow(s.entry)
		c.interpreter(ctx, s.file)
		for i, w := range s.words {
			switch {
			case i > 0 && (!strings.HasPrefix(w, "/") || !c.h.isScript(w)): // an argument is followed where it is what an interpreter runs
			case strings.HasPrefix(w, "/"):
				c.follow(w)
				c.interpreter(ctx, w)
			case i == 0 && !strings.Contains(w, "/"):
				for _, d := range startDirs() {
					if p := path.Join(d, w); c.h.Exists(p) {
						c.follow(p)
						break
					}
				}
			}
		}
	}
}

// ofLoader follows what ld.so and the loader of musl read, and the directories and libraries that they name.
func (c *chain) ofLoader(ctx context.Context) (read []string, preload *text, err error) {
	queue := []string{preloadFile, "/etc/ld.so.conf"}
	for _, dir := range []string{"/etc/ld.so.conf.d", "/etc"} {
		names, nerr := c.h.Names(dir, maxStartFiles)
		if nerr != nil && !errors.Is(nerr, fs.ErrNotExist) {
			return nil, nil, nerr
		}
		for _, n := range names {
			musl := strings.HasPrefix(n, "ld-musl-") && strings.HasSuffix(n, ".path")
			if musl || dir != "/etc" && strings.HasSuffix(n, ".conf") {
				queue = append(queue, path.Join(dir, n))
			}
		}
	}
	for _, name := range queue {
		t, terr := openText(ctx, c.h, name)
		if errors.Is(terr, fs.ErrNotExist) {
			continue
		}
		if terr != nil {
			return read, nil, terr
		}
		if name == preloadFile {
			preload = t
		}
		read = append(read, name)
		c.follow(name)
		for n := range t.lines {
			for _, w := range loaderWords(t.line(n + 1)) {
				c.follow(w)
			}
		}
	}
	for _, d := range []string{"/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib"} {
		if c.h.isDir(d) {
			read = append(read, d)
			c.follow(d)
		}
	}
	return read, preload, nil
}

const preloadFile = "/etc/ld.so.preload"

// loaderWords are the paths of one line: separated by white space, commas or colons, up to a comment.
func loaderWords(line string) []string {
	line, _, _ = strings.Cut(line, "#")
	return strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == ':' || r == ',' })
}

// preloads lists the lines of ld.so.preload that name a library.
func preloads(t *text) []int {
	var out []int
	for n := range t.lines {
		if len(loaderWords(t.line(n+1))) > 0 {
			out = append(out, n+1)
		}
	}
	return out
}

// find gives what is wrong, what was read, and why something was not.
func (c chainCheck) find(ctx context.Context, h *Host) (ch *chain, read []string, preload *text, err error) {
	ch = newChain(h)
	if c.of == "loader" {
		read, preload, err = ch.ofLoader(ctx)
		return ch, read, preload, err
	}
	f := h.starts(ctx)
	ch.ofStarts(ctx, f)
	return ch, f.evidence(), nil, f.err()
}

func (c chainCheck) Check(ctx context.Context, h *Host) Verdict {
	ch, read, preload, err := c.find(ctx, h)
	var items []Item
	if preload != nil {
		for _, n := range preloads(preload) {
			items = append(items, Item{Subject: preloadFile, Where: at(preloadFile, n), Observed: "loads " + printable(preload.line(n)) + " into every program, setuid ones too", Expected: "no preloaded library"})
		}
	}
	for _, l := range ch.links {
		expected := "owner root"
		if l.bits != 0 {
			expected = "mode " + OctalMode(l.Mode&^l.bits)
		}
		it := Item{Subject: printable(l.Path), Where: printable(l.Path), Observed: l.bad, Expected: expected}
		if l.to != l.Path {
			it.Observed += ", on the way to " + printable(l.to)
		}
		items = append(items, it)
	}
	if err != nil && len(items) == 0 {
		return unknown(err)
	}
	if len(read) == 0 {
		return notApplicable("no ld.so.preload, ld.so.conf or library directory: nothing is loaded dynamically")
	}
	return judged(items, fmt.Sprintf("%d files, and what is above them, belong to root alone", ch.files), read[:min(len(read), MaxItems)]...)
}

func (c chainCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	ch, _, preload, err := c.find(ctx, h)
	var out []Change
	if preload != nil && want(preloadFile) {
		for _, n := range preloads(preload) {
			preload.disable(n)
		}
		out = append(out, preload.changes(true)...)
	}
	for _, l := range ch.links {
		sticky := l.Mode.IsDir() && l.Mode&fs.ModeSticky != 0 && l.Mode&0o002 != 0
		switch {
		case !want(printable(l.Path)):
		case l.bits == 0 || sticky || !l.Mode.IsRegular() && !l.Mode.IsDir():
			err = errors.Join(err, fmt.Errorf("%s, on the way to %s: %w", printable(l.Path), printable(l.to), ErrNoFix))
		default:
			out = append(out, Change{Op: Chmod, Path: l.Path, OldMode: l.Mode & permBits, Mode: l.Mode & permBits &^ l.bits})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return out, err
}
