// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Times of the source.
const (
	accountSettle = 500 * time.Millisecond // tools write several files one after the other
	accountSave   = time.Minute
)

func accountKind() Kind {
	return Kind{
		Name: "account", Sees: "accounts, groups, passwords and sudo rules that are added, removed or changed",
		Rate: logging.Rate{Per: 2, Burst: 100}, Open: openAccount,
	}
}

const sudoersDir = "/etc/sudoers.d"

// accountNames are the files, in the order of accountFiles.
var accountNames = [...]string{"/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/sudoers"}

// accountWatcher compares what the files say with what they said.
type accountWatcher struct {
	env    *Env
	notify *inotify
	wait   *waiter
	wds    map[int]string // watched directories
	tag    tagger
	known  accounts
	digest string // of the known accounts, where the state had only that
	first  bool   // nothing is known yet
	noRead []string

	saved   []byte
	savedAt time.Time
}

func openAccount(_ context.Context, env *Env) (_ Watcher, err error) {
	a := &accountWatcher{env: env, wds: make(map[int]string)}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if _, err := os.Stat(env.Path("/etc/passwd")); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no /etc/passwd: %w", ErrUnavailable)
	}
	if a.saved, err = env.State.Load("account"); err != nil {
		return nil, fmt.Errorf("open accounts: %w", err)
	}
	if a.known, a.tag, a.digest, err = decodeAccounts(a.saved); err != nil {
		a.first, a.tag = true, tagger{rand.Text()}
	}
	if a.notify, err = newInotify(); err != nil {
		return nil, err
	}
	if a.wait, err = newWaiter(); err != nil {
		return nil, err
	}
	if err = a.watchDirs(); err != nil {
		return nil, err
	}
	var now accountFiles
	if now, a.noRead, err = a.read(); a.first && (err == nil || errors.Is(err, os.ErrPermission)) {
		a.known, a.first = parseAccounts(now, a.tag), false // what comes after this is a change
	}
	err = nil
	return a, a.wait.add(a.notify.fd, unix.EPOLLIN)
}

// watchDirs watches where the files are, and where they really are when they are links. The directories, because files there
// are replaced and not written.
func (a *accountWatcher) watchDirs() error {
	dirs := []string{a.env.Path("/etc"), a.env.Path(sudoersDir)}
	for _, name := range accountNames {
		if real, err := filepath.EvalSymlinks(a.env.Path(name)); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	for i, dir := range dirs {
		wd, err := a.notify.add(dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_CREATE|unix.IN_DELETE|unix.IN_ONLYDIR)
		if i == 0 && err != nil {
			return err
		}
		if err == nil {
			a.wds[wd] = dir
		}
	}
	return nil
}

// Covers implements Watcher.
func (a *accountWatcher) Covers() string {
	s := "passwd, shadow, group, gshadow and sudoers in /etc; not accounts of a directory service"
	if len(a.noRead) > 0 {
		s += "; cannot read " + strings.Join(a.noRead, ", ")
	}
	return s
}

// Close implements Watcher.
func (a *accountWatcher) Close() error {
	var errs []error
	if a.wait != nil {
		errs = append(errs, a.wait.Close())
	}
	if a.notify != nil {
		errs = append(errs, a.notify.Close())
	}
	return errors.Join(errs...)
}

// read reads all files. A file that is not there is empty; one that is there and cannot be read stops the comparison, because
// its accounts would seem to be removed.
func (a *accountWatcher) read() (f accountFiles, unreadable []string, err error) {
	get := func(name string) []byte {
		b, _, e := readBounded(a.env.Path(name), maxAccountFile)
		if len(b) == 0 {
			b = nil
		}
		if e != nil && !errors.Is(e, os.ErrNotExist) {
			unreadable = append(unreadable, name)
			err = errors.Join(err, fmt.Errorf("read accounts: %w", e))
		}
		return b
	}
	f.passwd, f.shadow, f.group, f.gshadow = get(accountNames[0]), get(accountNames[1]), get(accountNames[2]), get(accountNames[3])
	f.sudoers = append(f.sudoers, get(accountNames[4]))
	list, _ := os.ReadDir(a.env.Path(sudoersDir))
	for i, e := range list {
		if i == maxMembers {
			break
		}
		// Those sudo itself leaves out.
		if n := e.Name(); e.Type().IsRegular() && !strings.Contains(n, ".") && !strings.HasSuffix(n, "~") {
			f.sudoers = append(f.sudoers, get(sudoersDir+"/"+n))
		}
	}
	return f, unreadable, err
}

// Run implements Watcher.
func (a *accountWatcher) Run(ctx context.Context, sink *Sink) error {
	defer a.wait.until(ctx)()
	a.compare(sink, len(a.saved) > 0)
	for {
		if err := a.save(ctx.Err() != nil); err != nil || ctx.Err() != nil {
			return err
		}
		timeout := time.Duration(0)
		if a.dirty() {
			timeout = accountSave
		}
		ready, err := a.wait.wait(ctx, timeout)
		if err != nil {
			return err
		}
		touched, lost := false, false
		if len(ready) > 0 && sleep(ctx, accountSettle) {
			err = a.notify.read(func(n notice) {
				lost = lost || n.mask&unix.IN_Q_OVERFLOW != 0
				touched = touched || lost || a.concerns(n)
			})
		}
		if err != nil {
			return err
		}
		if lost {
			sink.Lost(0, "queue of changes in /etc full; accounts were compared")
		}
		if touched {
			a.compare(sink, false)
			if err := a.watchDirs(); err != nil {
				return err
			}
		}
	}
}

func (a *accountWatcher) concerns(n notice) bool {
	if a.wds[n.watch] == a.env.Path(sudoersDir) || n.name == filepath.Base(sudoersDir) {
		return true
	}
	return slices.ContainsFunc(accountNames[:], func(name string) bool { return filepath.Base(name) == n.name })
}

// compare reads the files and reports what is different. down says that it may have happened while the agent was not running.
func (a *accountWatcher) compare(sink *Sink, down bool) {
	f, _, err := a.read()
	if err != nil && !errors.Is(err, os.ErrPermission) {
		sink.Lost(0, err.Error())
		return
	}
	if f.passwd == nil { // a tool that is not careful, or somebody who wants to hide who was there
		sink.Event("account.change", slog.String("message", "/etc/passwd is gone or empty"), slog.String("severity", "high"))
		return
	}
	now := parseAccounts(f, a.tag)
	switch {
	case a.first:
	case a.digest != "":
		if b := string(now.encode(a.tag)); b != string(a.saved) {
			sink.Event("account.change", slog.String("message", "accounts changed while the agent was down; there are too many to tell which"))
		}
	default:
		for _, c := range a.known.diff(now) {
			sink.Event("account.change", append(c.attrs(down), a.who(c)...)...)
		}
	}
	if now.cut {
		sink.Lost(0, "more accounts than the agent keeps")
	}
	a.known, a.first, a.digest = now, false, ""
}

// who tells who wrote the file a change came from.
func (a *accountWatcher) who(c change) []slog.Attr {
	names := accountNames[:2]
	switch {
	case strings.HasPrefix(c.what, "sudo"):
		names = accountNames[4:]
	case c.group != "":
		names = accountNames[2:4]
	case strings.Contains(c.what, "password"):
		names = []string{accountNames[1], accountNames[0]}
	}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Stat(a.env.Path(name), &st) != nil {
			continue
		}
		if attrs := a.env.writers.of(&st); attrs != nil {
			return []slog.Attr{{Key: "writer", Value: slog.GroupValue(attrs...)}}
		}
	}
	return nil
}

func (c change) attrs(down bool) []slog.Attr {
	attrs := []slog.Attr{slog.String("message", c.what), slog.String("change", c.what)}
	for _, a := range [...]struct{ name, value string }{
		{"account", c.account}, {"group", c.group}, {"account_uid", c.uid}, {"from", c.from}, {"to", c.to}, {"login", c.password},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.name, a.value))
		}
	}
	if c.grave {
		attrs = append(attrs, slog.String("severity", "high"))
	}
	if down {
		attrs = append(attrs, slog.Bool("while_down", true))
	}
	return attrs
}

func (a *accountWatcher) dirty() bool {
	return !a.first && string(a.known.encode(a.tag)) != string(a.saved)
}

// save keeps what is known, at most once a minute.
func (a *accountWatcher) save(now bool) error {
	if !a.dirty() || !now && time.Since(a.savedAt) < accountSave {
		return nil
	}
	b := a.known.encode(a.tag)
	if err := a.env.State.Save("account", b); err != nil {
		return fmt.Errorf("keep accounts: %w", err)
	}
	a.saved, a.savedAt = b, time.Now()
	return nil
}
