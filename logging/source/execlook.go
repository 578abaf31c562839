// SPDX-License-Identifier: Apache-2.0

package source

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// class is what is known of a program from where it lies.
type class uint8

const (
	classUnknown  class = iota // no time to look
	classOrdinary              // where programs belong
	classLoader                // the dynamic loader
	classUnfit                 // where none belongs
)

// classCache remembers where programs lie, so that the same one needs one look in a minute. Entries give way to others with the
// same hash. A program that is renamed changes its ctime.
type classCache [256]struct {
	dev   device
	inode uint64
	ctime int64
	until time.Time
	class class
}

const classKept = time.Minute

// program takes an event of a program that starts. What is done first costs least: in a storm most events end early.
func (x *execWatcher) program(e fanEvent) {
	if x.notFile(e, "queue of programs that start") {
		return
	}
	defer unix.Close(e.fd)
	var st unix.Stat_t
	if e.pid == x.self || unix.Fstat(e.fd, &st) != nil {
		return
	}
	now := time.Now()
	class := x.classify(e.fd, &st, now)
	if class == classLoader {
		if !x.justStarted(e.pid) && len(x.pending) < len(x.recent) {
			x.pending = append(x.pending, e.pid)
			x.since = now
		}
		return
	}
	x.recent[x.at] = int32(e.pid)
	x.at = (x.at + 1) % len(x.recent)
	switch {
	case class == classUnknown:
		x.sink.Lost(1, "more programs started than could be looked at")
	case class == classUnfit && !x.budgets.unfit.Take(now):
		x.sink.Omit("exec.writable")
	case class == classOrdinary && !x.budgets.ordinary.Take(now):
		x.sink.Omit("exec")
	default:
		x.start(e.fd, &st, e.pid, class, now)
	}
}

// notFile handles events without a descriptor.
func (x *execWatcher) notFile(e fanEvent, queue string) bool {
	switch {
	case e.mask&unix.FAN_Q_OVERFLOW != 0:
		x.sink.Lost(0, queue+" full")
	case e.mask == fanUnopened:
		x.sink.Lost(1, "file of an event could not be opened")
	}
	return e.fd < 0
}

func (x *execWatcher) justStarted(pid int) bool {
	for _, p := range x.recent {
		if int(p) == pid {
			return true
		}
	}
	return false
}

func (x *execWatcher) classify(fd int, st *unix.Stat_t, now time.Time) class {
	dev, ctime := deviceOf(st), ctimeOf(st)
	if x.places.why[dev] != "" {
		return classUnfit
	}
	slot := &x.classes[(uint64(st.Ino)*0x9e3779b97f4a7c15^uint64(dev.minor))>>56]
	if slot.inode == uint64(st.Ino) && slot.dev == dev && slot.ctime == ctime && now.Before(slot.until) {
		return slot.class
	}
	path := x.path(fd)
	why, sure := x.places.unfit(path, st, now)
	c := classOrdinary
	switch {
	case !sure:
		return classUnknown
	case why != "":
		c = classUnfit
	case loader(path):
		c = classLoader
	}
	slot.dev, slot.inode, slot.ctime, slot.until, slot.class = dev, uint64(st.Ino), ctime, now.Add(classKept), c
	return c
}

func ctimeOf(st *unix.Stat_t) int64 { return unix.TimespecToNsec(st.Ctim) }

// path returns the name of an open file, as the agent sees it.
func (x *execWatcher) path(fd int) string {
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), x.link[:])
	if err != nil || n <= 0 {
		return ""
	}
	return string(x.link[:n])
}

// start records a program, or counts it to one recorded lately.
func (x *execWatcher) start(fd int, st *unix.Stat_t, pid int, class class, now time.Time) {
	k := seenKey{dev: deviceOf(st), inode: uint64(st.Ino), ctime: ctimeOf(st), uid: x.proc.owner(pid)}
	if s := x.started.find(k, now); s != nil {
		x.started.again(s, pid)
		return
	}
	code := "exec"
	if class == classUnfit {
		code = "exec.writable"
	}
	if !x.sink.Allow(code) {
		return
	}
	path := x.path(fd)
	s := &seen{key: k, code: code, path: cut(path), until: now.Add(execWindow), pid: pid, who: x.proc.status(pid)}
	message := "program started"
	switch class {
	case classUnfit:
		s.why, _ = x.places.unfit(path, st, now)
		message = "program started from a place where none belongs"
	case classLoader:
		message = "dynamic loader started by itself: what it runs is not seen"
	}
	attrs := s.attrs(message)
	if class == classUnfit {
		attrs = append(x.appendDigest(attrs, fd, st), slog.String("place", s.why))
		if st.Nlink == 0 {
			attrs = append(attrs, slog.Bool("deleted", true))
		}
	}
	x.sink.Event(code, attrs...)
	x.started.add(s, now, x.recordProgram)
}

func (s *seen) attrs(message string) []slog.Attr {
	attrs := []slog.Attr{slog.String("message", message)}
	if s.path != "" {
		attrs = append(attrs, slog.String("exe", s.path))
	}
	who := s.who
	if who.uid < 0 {
		who.uid = s.key.uid
	}
	return who.attrs(attrs, s.pid)
}

// recordProgram records how often a program started again.
func (x *execWatcher) recordProgram(s *seen) {
	attrs := append(s.attrs("program started again"), slog.Uint64("count", s.count))
	if s.why != "" {
		attrs = append(attrs, slog.String("place", s.why))
	}
	x.sink.Event(s.code, attrs...)
}

// appendDigest adds the hash of a file, or of its beginning where all of it would take too long.
func (x *execWatcher) appendDigest(attrs []slog.Attr, fd int, st *unix.Stat_t) []slog.Attr {
	d, err := x.digester.file(fd)
	switch {
	case err != nil:
		attrs = append(attrs, slog.String("unhashed", err.Error()))
	case d.whole:
		attrs = append(attrs, slog.String("sha256", d.String()))
	default:
		attrs = append(attrs, slog.String("sha256_beginning", d.String()), slog.Int64("beginning", d.bytes))
	}
	return append(attrs, slog.Int64("size", st.Size))
}

// examine looks at processes that opened a loader and no program that is watched. The kernel opens the loader before the
// process becomes the new program, so that a look at once would show the old one.
func (x *execWatcher) examine(now time.Time) {
	if now.Sub(x.since) < loaderWait {
		return
	}
	for _, pid := range x.pending {
		if !x.budgets.ordinary.Take(now) {
			x.sink.Omit("exec")
			continue
		}
		fd, err := unix.Open(x.proc.name(pid, "/exe"), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			x.sink.Omit("exec") // it is gone
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil {
			x.start(fd, &st, pid, x.classify(fd, &st, now), now)
		}
		unix.Close(fd)
	}
	x.pending = x.pending[:0]
}

// file takes an event of a file that was open for writing and is closed.
func (x *execWatcher) file(e fanEvent) {
	if x.notFile(e, "queue of files that were written") {
		return
	}
	defer unix.Close(e.fd)
	var st unix.Stat_t
	if e.pid == x.self || unix.Fstat(e.fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink == 0 {
		return
	}
	now := time.Now()
	executable := st.Mode&0o111 != 0
	budget := &x.budgets.write
	if executable {
		budget = &x.budgets.writeProgram
	}
	if !budget.Take(now) {
		x.sink.Lost(1, "more files written than could be looked at")
		return
	}
	path := x.path(e.fd)
	watched := x.watched.has(path)
	if watched || within(path, writeDirs[:]) {
		x.env.writers.note(writer{
			dev: deviceOf(&st), inode: uint64(st.Ino), pid: e.pid, who: x.proc.status(e.pid), exe: cut(x.proc.exe(e.pid)), at: now,
		})
	} else if !executable {
		return
	}
	if watched { // the source of watched files knows more
		return
	}
	k := seenKey{dev: deviceOf(&st), inode: uint64(st.Ino), uid: x.proc.owner(e.pid), write: true}
	if s := x.written.find(k, now); s != nil {
		x.written.again(s, e.pid)
		return
	}
	if !x.sink.Allow("file.changed") {
		return
	}
	s := &seen{key: k, code: "file.changed", path: cut(path), until: now.Add(writeSettle), count: 1, pid: e.pid}
	s.who, s.exe = x.proc.status(e.pid), cut(x.proc.exe(e.pid))
	x.written.add(s, now, x.recordWrite)
}

func within(path string, dirs []string) bool {
	for _, d := range dirs {
		if strings.HasPrefix(path, d) {
			return true
		}
	}
	return false
}

// recordWrite records a file that was written some time ago, by then perhaps under another name.
func (x *execWatcher) recordWrite(s *seen) {
	message := "program written"
	path, st, ok := x.whereNow(s)
	if x.watched.has(path) { // it was renamed over a watched file, which has a record of its own
		return
	}
	if ok && st.Mode&0o111 == 0 {
		message = "system file written"
	}
	attrs := []slog.Attr{slog.String("message", message), slog.String("path", path), slog.Uint64("count", s.count)}
	if path != s.path {
		attrs = append(attrs, slog.String("written_as", s.path))
	}
	who := s.who
	if who.uid < 0 {
		who.uid = s.key.uid
	}
	attrs = who.attrs(attrs, s.pid)
	if s.exe != "" {
		attrs = append(attrs, slog.String("exe", s.exe))
	}
	if !ok {
		attrs = append(attrs, slog.Bool("gone", true))
	} else if d, err := x.digester.path(x.env.Path(path)); err == nil && d.whole {
		attrs = append(attrs, slog.String("after", d.String()), slog.Int64("size", st.Size))
	}
	x.sink.Event(s.code, attrs...)
}

// maxSearched bounds how many entries of a directory are looked at for a file that was renamed.
const maxSearched = 4096

// whereNow finds the name a written file has now: packages write under a temporary name and rename. ok is false when it is
// neither where it was nor beside that.
func (x *execWatcher) whereNow(s *seen) (path string, st unix.Stat_t, ok bool) {
	same := func(name string) bool {
		return unix.Lstat(x.env.Path(name), &st) == nil && uint64(st.Ino) == s.key.inode && deviceOf(&st) == s.key.dev
	}
	if same(s.path) {
		return s.path, st, true
	}
	dir := filepath.Dir(s.path)
	f, err := os.Open(x.env.Path(dir))
	if err != nil {
		return s.path, st, false
	}
	defer f.Close()
	for left := maxSearched; left > 0; {
		list, err := f.ReadDir(128)
		for _, e := range list {
			info, err := e.Info()
			if err != nil {
				continue
			}
			if sys, _ := info.Sys().(*syscall.Stat_t); sys != nil && uint64(sys.Ino) == s.key.inode && same(filepath.Join(dir, e.Name())) {
				return cut(filepath.Join(dir, e.Name())), st, true
			}
		}
		left -= len(list)
		if err != nil || len(list) == 0 {
			break
		}
	}
	return s.path, st, false
}
