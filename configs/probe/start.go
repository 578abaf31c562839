// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Bounds of looking for everything that the system starts.
const (
	maxStartList   = 16384 // commands
	maxStartRead   = 2048  // files
	maxScript      = 256 << 10
	maxSourced     = 2 // files read with "." from each other
	maxScriptChain = 4 // scripts that run each other
)

// start is one command that the system runs by itself, or would run if it were enabled.
type start struct {
	source  string   // inittab, script, systemd, inetd, xinetd, run, openrc, cron, periodic, profile, hook
	file    string   // where the command is written, resolved
	line    int      // 0 when the file has no line of its own for it
	entry   string   // what brings it about: the link or script in rc.d, the unit, the run directory; resolved up to the last element
	user    string   // who runs it, "" for root or not said
	words   []string // program first; wrappers such as exec, nohup, start-stop-daemon and busybox are taken off
	redirs  []string // where its input and output go
	enabled bool     // false: it is there and nothing starts it
}

// program is the name of what is started.
func (s start) program() string {
	if len(s.words) == 0 {
		return ""
	}
	return baseName(s.words[0])
}

// args are the words after the program.
func (s start) args() []string { return s.words[min(1, len(s.words)):] }

// where names the place in evidence.
func (s start) where() string {
	if s.line == 0 {
		return printable(s.file)
	}
	return at(s.file, s.line)
}

// startFacts is everything that the system starts by itself.
type startFacts struct {
	list   []start
	read   []string // files that were read, for evidence
	boot   int      // how many of them say what runs when the system comes up; 0: how it starts is not known
	looked []string // directories and files that were looked at
	units  map[string]unit
	super  []superService
	errs   []error // what could not be read: whoever found nothing does not know
}

// err joins what could not be read and whether anything was found that starts the system.
func (f *startFacts) err() error {
	if f.boot == 0 && len(f.errs) == 0 {
		return errNoStart
	}
	return errors.Join(f.errs...)
}

// on returns the commands that are enabled and whose program is one of names.
func (f *startFacts) on(names ...string) []start {
	var out []start
	for _, s := range f.list {
		if s.enabled && slices.Contains(names, s.program()) {
			out = append(out, s)
		}
	}
	return out
}

// evidence is what a verdict shows of the files that were read.
func (f *startFacts) evidence() []string { return f.read[:min(len(f.read), MaxItems)] }

var errNoStart = errors.New("no inittab, start scripts, units or run directories: how this system starts is not known")

// starts gives everything the system starts by itself: init, its scripts and what they read or run, units, super-servers,
// supervisors, cron, profiles and hooks. It is made once for a run and kept until something changes; see startFacts.err for
// what could not be read.
func (h *Host) starts(ctx context.Context) *startFacts {
	defer h.sharing("starts", h.started != nil)()
	if h.started == nil {
		c := &startReader{ctx: ctx, h: h, f: &startFacts{units: map[string]unit{}}, seen: map[string]bool{}}
		c.all()
		if ctx.Err() != nil {
			return c.f // not complete: the next caller may have more time
		}
		h.started = c.f
	}
	for _, p := range h.started.looked { // a rule that comes later depends on them, too
		h.note(p)
	}
	return h.started
}

// startReader collects startFacts.
type startReader struct {
	ctx  context.Context // of this collection only
	h    *Host
	f    *startFacts
	seen map[string]bool // scripts, by path, and whether they were enabled
}

func (c *startReader) all() {
	c.inittab()
	c.scripts()
	c.openrc()
	c.systemd()
	c.superServers()
	c.runDirs()
	c.cron()
	c.profiles()
	if err := c.ctx.Err(); err != nil {
		c.f.errs = append(c.f.errs, err)
	}
}

func (c *startReader) fail(err error) {
	if len(c.f.errs) < MaxItems {
		c.f.errs = append(c.f.errs, err)
	}
}

// file reads a configuration file; ok is false when it is not there, or cannot be read, which is noted.
func (c *startReader) file(name string) (data []byte, resolved string, ok bool) {
	in, err := c.h.Stat(name)
	if err != nil || in.Mode.IsDir() {
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrLoop) {
			c.fail(err)
		}
		return nil, "", false
	}
	if in.Mode&fs.ModeCharDevice != 0 { // a link to /dev/null keeps a file away
		return nil, "", false
	}
	if len(c.f.read) >= maxStartRead {
		c.fail(fmt.Errorf("read %s: %w: more than %d start files", printable(name), ErrTooLarge, maxStartRead))
		return nil, "", false
	}
	if data, err = c.h.Read(c.ctx, in.Path); err != nil {
		c.fail(err)
		return nil, "", false
	}
	c.f.read = append(c.f.read, printable(in.Path))
	c.f.looked = append(c.f.looked, in.Path)
	return data, in.Path, true
}

// names lists a directory; nothing when it is not there.
func (c *startReader) names(dir string) []string {
	if p, err := c.h.Resolve(dir); err == nil {
		c.f.looked = append(c.f.looked, p)
	}
	names, err := c.h.Names(dir, maxStartFiles)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && c.h.isDir(dir) {
		c.fail(err)
	}
	return names
}

func (h *Host) isDir(name string) bool {
	in, err := h.Stat(name)
	return err == nil && in.Mode.IsDir()
}

// executable reports whether name is a regular file with an execute bit.
func (h *Host) executable(name string) bool {
	in, err := h.Stat(name)
	return err == nil && in.Mode.IsRegular() && in.Mode&0o111 != 0
}

// entryPath resolves the directory of a name and keeps the last element: a link in rc.d is what starts a script.
func (h *Host) entryPath(name string) string {
	dir, err := h.Resolve(path.Dir(name))
	if err != nil {
		return name
	}
	return path.Join(dir, path.Base(name))
}

// isScript looks at the first bytes: text for a shell begins with "#!" and the name of one.
func (h *Host) isScript(name string) bool {
	in, err := h.Stat(name)
	if err != nil || !in.Mode.IsRegular() || in.Size > maxScript {
		return false
	}
	f, err := openRegular(h.tree, rel(in.Path))
	if o, ok := h.over[in.Path]; ok && o.data != nil {
		return bytesAreScript(o.data)
	}
	if err != nil {
		return false
	}
	defer f.Close()
	var head [64]byte
	n, _ := io.ReadFull(f, head[:])
	return bytesAreScript(head[:n])
}

// bytesAreScript knows the interpreters whose scripts are made of commands.
func bytesAreScript(head []byte) bool {
	l, _, _ := strings.Cut(string(head), "\n")
	l, ok := strings.CutPrefix(l, "#!")
	for w := range strings.FieldsSeq(l) {
		name := path.Base(w)
		if isShell(name) || slices.Contains([]string{"openrc-run", "runscript", "rc.common", "execlineb", "with-contenv", "busybox"}, name) {
			return true
		}
	}
	return ok && strings.TrimSpace(l) == ""
}
