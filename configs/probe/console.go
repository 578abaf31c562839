// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// consoleCheck wants no way in at the terminals of the board.
type consoleCheck struct {
	Deny []string `json:"deny"` // shell, autologin, login
}

func consoleKind() Kind {
	return Kind{
		Name: "console", Target: `"inittab": /etc/inittab, and the units and generated units of systemd`,
		Want: `{"deny": ["shell", "autologin", "login"]}: a shell without login, a getty that logs in by itself, a login prompt on a serial line; required`,
		Fix:  "put the line of inittab or of the drop-in out of use; mask a unit",
		New: func(target string, want []byte) (Check, error) {
			var c consoleCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "inittab" {
				return nil, errors.New(`target: want "inittab"`)
			}
			if w, ok := subset(c.Deny, []string{"shell", "autologin", "login"}); !ok || len(c.Deny) == 0 {
				return nil, fmt.Errorf(`want.deny: %q, want some of "shell", "autologin", "login"`, w)
			}
			return c, nil
		},
	}
}

func (c consoleCheck) Claims() []string { return prefixed("console:", c.Deny) }

func (c consoleCheck) Tightens(old Check) error {
	o, ok := old.(consoleCheck)
	if !ok {
		return errors.New("another kind")
	}
	if p, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	return nil
}

// opens says what an entry offers at a terminal, "" for nothing.
func (e initEntry) opens() string {
	if !slices.Contains([]string{"respawn", "askfirst", "once", "ondemand", "wait", "respawnlate", "askconsole", "askconsolelate"}, e.action) {
		return ""
	}
	words := strings.Fields(e.cmd)
	for len(words) > 0 && slices.Contains([]string{"exec", "busybox", "setsid", "cttyhack"}, path.Base(words[0])) {
		words = words[1:]
	}
	if len(words) == 0 {
		return ""
	}
	args := words[1:]
	switch strings.TrimLeft(path.Base(words[0]), "-") {
	case "sh", "ash", "bash", "dash", "hush", "mksh":
		// sh -c and sh FILE run a job, as many products do to start their program; a bare shell is a shell for whoever types.
		if !slices.ContainsFunc(args, func(a string) bool { return a == "-c" || !strings.HasPrefix(a, "-") }) {
			return "shell"
		}
	case "login":
		if slices.Contains(args, "-f") {
			return "autologin"
		}
		return "login"
	case "getty", "agetty", "mingetty":
		return gettyOpens(args)
	}
	return ""
}

func gettyOpens(args []string) string {
	for i, a := range args {
		next := ""
		if i+1 < len(args) {
			next = path.Base(args[i+1])
		}
		switch {
		case a == "-l" && slices.Contains([]string{"sh", "ash", "bash"}, next):
			return "shell"
		case a == "-a" || a == "--autologin" || strings.HasPrefix(a, "--autologin="):
			return "autologin"
		}
	}
	return "login"
}

// serial reports whether a name is that of a serial or hypervisor console.
func serial(tty string) bool {
	for _, p := range []string{"ttyS", "ttyAMA", "ttymxc", "ttyO", "ttySTM", "ttyMSM", "ttyLP", "ttyPS", "ttyUL", "ttyGS", "ttyUSB", "ttyACM", "hvc", "console"} {
		if strings.HasPrefix(tty, p) {
			return true
		}
	}
	return false
}

// terminal is the terminal of an entry: its id in busybox, an argument of getty in sysvinit.
func (e initEntry) terminal() string {
	for w := range strings.FieldsSeq(e.cmd) {
		if strings.HasPrefix(path.Base(w), "tty") && len(path.Base(w)) > 3 || path.Base(w) == "console" {
			return path.Base(w)
		}
	}
	if e.id == "" {
		return "console"
	}
	return e.id
}

// ways are the entries of inittab and of systemd that offer what is denied.
func (c consoleCheck) ways(ctx context.Context, h *Host) (bad []wayIn, read []string, err error) {
	tab, err := h.Read(ctx, inittabFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if err == nil {
		read = append(read, inittabFile)
		in, _ := h.Stat(inittabFile)
		for _, e := range parseInittab(tab) {
			what := e.opens()
			if what == "" && h.openWrtShell(ctx, e) {
				what = "shell"
			}
			s := start{source: "inittab", file: in.Path, entry: in.Path, line: e.line, words: []string{e.cmd}, enabled: true}
			bad = append(bad, wayIn{what: what, terminal: e.terminal(), start: s})
		}
	}
	if h.hasSystemd() {
		units, files := h.consoleUnits(ctx)
		bad, read = append(bad, units...), append(read, files...)
	}
	bad = slices.DeleteFunc(bad, func(w wayIn) bool {
		return !slices.Contains(c.Deny, w.what) || w.what == "login" && !serial(w.terminal)
	})
	return bad, read, nil
}

// wayIn is one place where somebody at the board gets in.
type wayIn struct {
	what, terminal string // shell, autologin, login
	start
}

// openWrtShell knows OpenWrt's login.sh: a shell, unless ttylogin is set.
func (h *Host) openWrtShell(ctx context.Context, e initEntry) bool {
	if path.Base(strings.TrimLeft(firstField(e.cmd), "-")) != "login.sh" || e.action == "sysinit" {
		return false
	}
	data, err := h.Read(ctx, "/etc/config/system")
	if err != nil {
		return true
	}
	for _, s := range parseUCI(data) {
		if s.kind == "system" {
			return s.options["ttylogin"].value != "1"
		}
	}
	return true
}

func firstField(s string) string {
	w, _ := bootWord(s)
	return w
}

func (c consoleCheck) Check(ctx context.Context, h *Host) Verdict {
	ways, read, err := c.ways(ctx, h)
	if err != nil {
		return unknown(err)
	}
	if len(read) == 0 {
		return c.withoutInittab(h)
	}
	text := map[string]string{"shell": "a shell without login", "autologin": "logs in without a password", "login": "a login prompt on a serial line"}
	var items []Item
	for _, w := range ways {
		items = append(items, Item{Subject: printable(w.terminal), Where: w.where(), Observed: text[w.what] + ": " + printable(strings.Join(w.words, " ")), Expected: "none"})
	}
	v := judged(items, "no entry offers "+strings.Join(c.Deny, ", "), read[:min(len(read), MaxItems)]...)
	if v.Implementation = "init with " + inittabFile; read[0] != inittabFile {
		v.Implementation = "systemd"
	}
	return v
}

// withoutInittab knows that busybox init without the file offers shells on its consoles by itself.
func (c consoleCheck) withoutInittab(h *Host) Verdict {
	in, err := h.Stat("/sbin/init")
	switch {
	case err != nil:
		return Verdict{Result: Unknown, Reason: "no /etc/inittab and no /sbin/init: how this system starts is not known"}
	case !strings.HasPrefix(path.Base(in.Path), "busybox"):
		return notApplicable("no /etc/inittab, and /sbin/init is " + printable(in.Path) + ", which is not busybox")
	case !slices.Contains(c.Deny, "shell"):
		return notApplicable("no /etc/inittab: busybox init offers shells, no logins")
	}
	v := judged([]Item{{Subject: "console", Where: inittabFile, Observed: "absent: busybox init then offers shells on its consoles", Expected: "an inittab without shells"}},
		"", "/sbin/init -> "+printable(in.Path))
	v.Implementation = "busybox init"
	return v
}

func (c consoleCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	ways, read, err := c.ways(ctx, h)
	if err != nil {
		return nil, err
	}
	if len(read) == 0 {
		return nil, fmt.Errorf("%s is absent: %w", inittabFile, ErrNoFix)
	}
	var rest []start
	drop := map[string]*text{}
	var out []Change
	for _, w := range ways {
		switch {
		case !want(printable(w.terminal)):
		case w.what == "autologin" && strings.Contains(w.file, ".d/") && drop[w.file] == nil:
			if drop[w.file], err = disableExec(ctx, h, w.file); err != nil {
				return nil, err
			}
			out = append(out, drop[w.file].changes(true)...)
		case drop[w.file] == nil:
			rest = append(rest, w.start)
		}
	}
	more, err := neutralise(ctx, h, rest)
	return append(out, more...), err
}
