// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Times of the source.
const (
	loginSettle = 200 * time.Millisecond // a line that was written is seldom alone
	loginSave   = time.Minute
	loginAgain  = time.Minute      // the same failure is one record in this time, with its number
	loginSame   = 15 * time.Second // within which a record of wtmp and a line of the log tell of the same login
)

// Bounds of what is remembered.
const (
	maxTwins    = 64
	maxRepeats  = 64
	maxSessions = 64
)

func loginKind() Kind {
	return Kind{
		Name: "login", Sees: "logins, failed logins and ends of sessions, from the system's log and its login records",
		Rate: logging.Rate{Per: 2, Burst: 100}, Open: openLogin,
	}
}

// loginLogs are where system loggers write what login programs say; the first that is there is followed.
var loginLogs = [...]string{"/var/log/auth.log", "/var/log/secure", "/var/log/messages", "/var/log/syslog"}

const loginDir = "/var/log"

// loginWatcher follows a log and the two files of login records.
type loginWatcher struct {
	env    *Env
	notify *inotify
	wait   *waiter
	logs   []*follower // by name in loginLogs; only one is open
	log    *follower   // the open one, or nil
	wtmp   *follower
	btmp   *follower
	dir    int

	sink     *Sink
	twins    twins
	repeats  map[string]*repeat
	sessions map[string]string // user by terminal, from wtmp
	dirty    bool              // something was recorded since positions were kept
	saved    string
	savedAt  time.Time
}

func openLogin(_ context.Context, env *Env) (_ Watcher, err error) {
	l := &loginWatcher{
		env: env, repeats: make(map[string]*repeat), sessions: make(map[string]string),
		wtmp: &follower{path: env.Path(loginDir + "/wtmp")}, btmp: &follower{path: env.Path(loginDir + "/btmp")},
	}
	for _, name := range loginLogs {
		l.logs = append(l.logs, &follower{path: env.Path(name)})
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.notify, err = newInotify(); err != nil {
		return nil, err
	}
	if l.dir, err = l.notify.add(env.Path(loginDir), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("no %s: %w", loginDir, ErrUnavailable)
		}
		return nil, err
	}
	state, err := env.State.Load("login")
	if err != nil {
		return nil, fmt.Errorf("open logins: %w", err)
	}
	l.restore(string(state))
	if err = l.choose(len(state) == 0); err != nil {
		return nil, err
	}
	if l.log == nil && l.wtmp.file == nil && l.btmp.file == nil {
		return nil, fmt.Errorf("the system writes no logins to %s (no auth.log, secure, messages, syslog, wtmp, btmp): %w", loginDir, ErrUnavailable)
	}
	if l.wait, err = newWaiter(); err != nil {
		return nil, err
	}
	return l, l.wait.add(l.notify.fd, unix.EPOLLIN)
}

// choose opens what is there. With fresh, what was written before this agent first ran is left out.
func (l *loginWatcher) choose(fresh bool) error {
	var errs []error
	for _, f := range l.logs {
		if f.replaced() || f.file != nil {
			if f != l.log && l.log != nil {
				errs = append(errs, l.drop(l.log))
			}
			l.log = f
			break
		}
	}
	for _, f := range []*follower{l.log, l.wtmp, l.btmp} {
		if f != nil && f.file == nil {
			errs = append(errs, l.open(f, fresh))
		}
	}
	return errors.Join(errs...)
}

func (l *loginWatcher) open(f *follower, fresh bool) error {
	// It may have been rotated while the agent was down: then what is left of the old one comes first, and Run goes on to the new.
	if st, err := os.Stat(f.path); err != nil || f.mark.inode == 0 || inodeOf(st) == f.mark.inode || !f.openRotated() {
		if err := f.open(fresh); err != nil || f.file == nil {
			return err
		}
	}
	if f == l.wtmp || f == l.btmp {
		st, err := f.file.Stat()
		if err != nil {
			return err
		}
		if f.record = utmpSize(st.Size()); f.mark.offset%int64(f.record) != 0 {
			f.mark.offset -= f.mark.offset % int64(f.record)
		}
	}
	wd, err := l.notify.add(f.path, unix.IN_MODIFY|unix.IN_CLOSE_WRITE)
	if err != nil {
		return err
	}
	f.wd = wd
	return nil
}

func (l *loginWatcher) drop(f *follower) error {
	l.notify.remove(f.wd)
	return f.close()
}

// Covers implements Watcher.
func (l *loginWatcher) Covers() string {
	var have, not []string
	if l.log != nil {
		have = append(have, "lines of sshd, dropbear, login and su in "+strings.TrimPrefix(l.log.path, strings.TrimSuffix(l.env.Path("/"), "/")))
	} else {
		not = append(not, "failed logins that only a system log tells")
	}
	for _, f := range []*follower{l.wtmp, l.btmp} {
		if f.file != nil {
			have = append(have, "records in "+filepath.Base(f.path))
		} else {
			not = append(not, filepath.Base(f.path))
		}
	}
	s := strings.Join(have, ", ")
	if len(not) > 0 {
		s += "; not here: " + strings.Join(not, ", ")
	}
	return s
}

// Close implements Watcher.
func (l *loginWatcher) Close() error {
	var errs []error
	for _, f := range append([]*follower{l.wtmp, l.btmp}, l.logs...) {
		errs = append(errs, f.close())
	}
	if l.wait != nil {
		errs = append(errs, l.wait.Close())
	}
	if l.notify != nil {
		errs = append(errs, l.notify.Close())
	}
	return errors.Join(errs...)
}

// Run implements Watcher.
func (l *loginWatcher) Run(ctx context.Context, sink *Sink) error {
	l.sink = sink
	defer l.wait.until(ctx)()
	for again, changed := true, true; ; changed = false {
		if !again {
			if _, err := l.wait.wait(ctx, l.timeout()); err != nil {
				return err
			}
		}
		if ctx.Err() != nil || !sleep(ctx, loginSettle) {
			l.flush(true)
			return l.save(true)
		}
		if err := l.notify.read(func(n notice) { changed = changed || n.watch == l.dir || n.mask&unix.IN_Q_OVERFLOW != 0 }); err != nil {
			return err
		}
		var err error
		again, err = l.readAll()
		if err == nil && changed {
			err = l.follow()
			again = true
		}
		l.flush(false)
		if err = errors.Join(err, l.save(false)); err != nil {
			return err
		}
	}
}

func (l *loginWatcher) timeout() time.Duration {
	if len(l.repeats) > 0 || l.dirty {
		return loginAgain
	}
	return 0
}

// follow goes from files that were rotated to the ones that took their names.
func (l *loginWatcher) follow() error {
	var errs []error
	for _, f := range []*follower{l.log, l.wtmp, l.btmp} {
		if f != nil && f.file != nil && f.replaced() {
			errs = append(errs, l.drop(f))
			f.mark = position{} // it was read to its end
		}
	}
	return errors.Join(append(errs, l.choose(false))...)
}

func (l *loginWatcher) readAll() (more bool, err error) {
	for _, f := range []*follower{l.log, l.wtmp, l.btmp} {
		if f == nil {
			continue
		}
		each := func(b []byte) { l.line(string(b)) }
		switch f {
		case l.wtmp:
			each = func(b []byte) { l.record(b, false) }
		case l.btmp:
			each = func(b []byte) { l.record(b, true) }
		}
		lost, m, e := f.read(each)
		if lost > 0 {
			l.sink.Lost(0, strconv.FormatInt(lost, 10)+" bytes of "+filepath.Base(f.path)+" passed over")
		}
		more = more || m
		err = errors.Join(err, e)
	}
	return more, err
}

func (l *loginWatcher) line(s string) {
	if code, attrs, ok := LoginLine(s); ok {
		origin := fromLog
		if strings.Contains(s, "pam_unix(") {
			origin = fromPAM
		}
		l.event(code, attrs, origin)
	}
}

// record takes a record of wtmp, or of btmp (failed).
func (l *loginWatcher) record(b []byte, failed bool) {
	r, ok := parseUtmp(b)
	if !ok {
		l.sink.Lost(1, "record of logins that cannot be read")
		return
	}
	code, message := "auth.ok", "login"
	switch {
	case failed && (r.kind == utmpLogin || r.kind == utmpUser):
		code, message = "auth.fail", "login failed"
	case !failed && r.kind == utmpUser:
		if len(l.sessions) < maxSessions {
			l.sessions[r.line] = r.user
		}
	case !failed && r.kind == utmpDead && (r.user != "" || l.sessions[r.line] != ""):
		code, message = "auth.logoff", "session ended"
		if r.user == "" {
			r.user = l.sessions[r.line] // the record of the end has no name
		}
		delete(l.sessions, r.line)
	default:
		return
	}
	attrs := []slog.Attr{slog.String("message", message), slog.String("subject", cut(r.user))}
	address := r.host
	if r.address.IsValid() {
		address = r.address.String()
	}
	if address != "" && !strings.HasPrefix(address, ":") { // an X display is no address
		attrs = append(attrs, slog.String("source_address", cut(address)))
	}
	if r.line != "" {
		attrs = append(attrs, slog.String("terminal", r.line))
	}
	if r.pid > 0 {
		attrs = append(attrs, slog.Int("pid", int(r.pid)))
	}
	if !r.at.IsZero() {
		attrs = append(attrs, slog.Time("logged_at", r.at))
	}
	l.event(code, attrs, fromRecord)
}

// event records what a line or a record tells, unless the other told it already.
func (l *loginWatcher) event(code string, attrs []slog.Attr, origin int) {
	l.dirty = true
	key := code
	for _, a := range attrs {
		// A record of the end of a session and pam's line about it have no address.
		if a.Key == "subject" || a.Key == "source_address" && code != "auth.logoff" {
			key += "|" + a.Value.String()
		}
	}
	now := time.Now()
	if l.twins.known(key, origin, now) {
		return
	}
	if code != "auth.fail" {
		l.sink.Event(code, attrs...)
		return
	}
	if r := l.repeats[key]; r != nil {
		r.count++
		return
	}
	l.sink.Event(code, attrs...)
	if len(l.repeats) >= maxRepeats {
		l.flush(true)
	}
	l.repeats[key] = &repeat{attrs: attrs, until: now.Add(loginAgain)}
}

// positions encodes how far the files were read.
func (l *loginWatcher) positions() string {
	var b strings.Builder
	for _, f := range append([]*follower{l.wtmp, l.btmp}, l.logs...) {
		if f.mark.inode != 0 {
			fmt.Fprintf(&b, "%s %s\n", filepath.Base(f.path), f.mark)
		}
	}
	return b.String()
}

func (l *loginWatcher) restore(s string) {
	for line := range strings.Lines(s) {
		name, rest, _ := strings.Cut(line, " ")
		for _, f := range append([]*follower{l.wtmp, l.btmp}, l.logs...) {
			if p, ok := parsePosition(rest); ok && filepath.Base(f.path) == name {
				f.mark = p
			}
		}
	}
	l.saved = l.positions()
}

// save keeps the positions when the agent stops, and otherwise only after something was recorded, at most once a minute: a log
// that grows all the time must not wear the flash. After a power cut what was recorded in the last minute is recorded again,
// rather than never.
func (l *loginWatcher) save(now bool) error {
	if !now && (!l.dirty || time.Since(l.savedAt) < loginSave) {
		return nil
	}
	l.dirty = false
	p := l.positions()
	if p == l.saved {
		return nil
	}
	if err := l.env.State.Save("login", []byte(p)); err != nil {
		return fmt.Errorf("keep position in logs: %w", err)
	}
	l.saved, l.savedAt = p, time.Now()
	return nil
}
