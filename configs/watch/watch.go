// SPDX-License-Identifier: Apache-2.0

// Package watch notices that something below a root directory may have changed: a file in a directory that rules looked at, a
// mount, whatever a source given by the caller tells. It says which path, never what; who asks looks for himself, so an event
// that is wrong costs a look and an event that is missing is made good by the next full look.
//
// It holds one inotify descriptor with a bounded number of watches, on directories, so that a file that is replaced by a rename
// is noticed, and one poll on the mount table. The root is not trusted: directories are opened inside it, and a flood of
// events fills the kernel's bounded queue, which is reported as "look at everything". It starts no goroutine.
package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mounts is the path reported when something was mounted, unmounted or mounted with other options.
const Mounts = "/proc/self/mountinfo"

// Source is one more descriptor to wait for.
type Source struct {
	Path  string // reported when it is readable
	FD    int
	Drain func() // reads what is there
	Close func() // at the end of the watch; may be nil
}

// Watcher waits for changes. Only Wake may be called from another goroutine than the one that calls the rest.
type Watcher struct {
	root    *os.Root
	live    bool
	max     int
	inotify int
	mounts  int // -1 without
	wake    [2]int
	sources []Source

	paths []string         // as given to Set
	dirs  map[int32]string // watch descriptor -> directory inside the root
	stale bool             // a watched directory went away
}

// Changes is what one Wait has noticed.
type Changes struct {
	Paths []string // inside the root, absolute, sorted
	All   bool     // too much happened to say what: look at everything
	Woken bool     // by Wake
}

const (
	settle   = 250 * time.Millisecond // a burst is told as one
	maxPaths = 1024                   // told in one Changes
	mask     = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
)

// New returns a Watcher over root with at most limit watched directories. live says that root is the running system, whose
// mounts are watched, and whose /proc and /sys tell nothing to inotify.
func New(root *os.Root, live bool, limit int, sources ...Source) (*Watcher, error) {
	w := &Watcher{root: root, live: live, max: limit, inotify: -1, mounts: -1, wake: [2]int{-1, -1}, sources: sources, dirs: map[int32]string{}}
	var err error
	if w.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		w.Close()
		return nil, fmt.Errorf("watch files: %w", err)
	}
	if err = unix.Pipe2(w.wake[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		w.Close()
		return nil, fmt.Errorf("watch files: %w", err)
	}
	if live {
		if w.mounts, err = unix.Open(Mounts, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			w.Close()
			return nil, fmt.Errorf("watch mounts: %w", err)
		}
	}
	return w, nil
}

// Close ends the watch. No other method may be running.
func (w *Watcher) Close() {
	for _, fd := range []int{w.inotify, w.mounts, w.wake[0], w.wake[1]} {
		if fd >= 0 {
			unix.Close(fd) //nolint:errcheck // they hold no data
		}
	}
	for _, s := range w.sources {
		if s.Close != nil {
			s.Close()
		}
	}
}

// Wake makes Wait return.
func (w *Watcher) Wake() { unix.Write(w.wake[1], []byte{1}) } //nolint:errcheck // a full pipe wakes, too

// Set watches the directories that hold the given paths of the root, or would hold them, and paths that are directories
// themselves. It returns how many directories are not watched, because there are too many of them.
func (w *Watcher) Set(paths []string) (left int) {
	if slices.Equal(paths, w.paths) && !w.stale {
		return 0
	}
	w.paths, w.stale = slices.Clone(paths), false
	var want []string
	seen := map[string]bool{}
	add := func(dir string) {
		if !seen[dir] && !(w.live && pseudo(dir)) {
			want = append(want, dir)
		}
		seen[dir] = true
	}
	for _, p := range paths {
		p = path.Clean("/" + p)
		if w.live && pseudo(p) {
			continue
		}
		if w.isDir(p) {
			add(p)
		}
		dir := path.Dir(p)
		for dir != "/" && !w.isDir(dir) {
			dir = path.Dir(dir)
		}
		add(dir)
	}
	now := map[int32]string{}
	for _, dir := range want {
		if len(now) >= w.max {
			left++
			continue
		}
		wd, err := w.add(dir)
		if err != nil {
			left++
		} else if _, twice := now[wd]; !twice {
			now[wd] = dir
		}
	}
	for wd := range w.dirs {
		if _, keep := now[wd]; !keep {
			unix.InotifyRmWatch(w.inotify, uint32(wd)) //nolint:errcheck // it may be gone
		}
	}
	w.dirs = now
	return left
}

// pseudo reports whether inotify is blind there: the kernel changes values without anybody writing a file.
func pseudo(p string) bool {
	return p == "/proc" || p == "/sys" || strings.HasPrefix(p, "/proc/") || strings.HasPrefix(p, "/sys/")
}

func (w *Watcher) isDir(p string) bool {
	fi, err := w.root.Lstat(rel(p))
	return err == nil && fi.IsDir()
}

func rel(p string) string {
	if p = strings.TrimPrefix(p, "/"); p == "" {
		return "."
	}
	return p
}

// add watches the directory that is open, not whatever its name has become.
func (w *Watcher) add(dir string) (int32, error) {
	f, err := w.root.Open(rel(dir))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	wd, err := unix.InotifyAddWatch(w.inotify, "/proc/self/fd/"+strconv.Itoa(int(f.Fd())), mask)
	return int32(wd), err
}

// Wait returns once something changed and the burst around it had a moment to end, when Wake was called, or after d. The
// error is that of ctx.
func (w *Watcher) Wait(ctx context.Context, d time.Duration) (Changes, error) {
	stop := context.AfterFunc(ctx, w.Wake)
	defer stop()
	var c Changes
	found := map[string]bool{}
	end := time.Now().Add(d)
	for begun := false; ; {
		if err := ctx.Err(); err != nil {
			return Changes{}, err
		}
		left := time.Until(end)
		if left <= 0 || c.Woken {
			break
		}
		some, err := w.poll(left, found, &c)
		if err != nil {
			return Changes{}, err
		}
		if some && !begun {
			begun, end = true, time.Now().Add(settle)
		}
	}
	for p := range found {
		c.Paths = append(c.Paths, p)
	}
	slices.Sort(c.Paths)
	return c, nil
}

// poll waits once and takes in what is there.
func (w *Watcher) poll(d time.Duration, found map[string]bool, c *Changes) (some bool, err error) {
	fds := []unix.PollFd{{Fd: int32(w.wake[0]), Events: unix.POLLIN}, {Fd: int32(w.inotify), Events: unix.POLLIN}, {Fd: int32(w.mounts), Events: unix.POLLPRI}}
	for _, s := range w.sources {
		fds = append(fds, unix.PollFd{Fd: int32(s.FD), Events: unix.POLLIN})
	}
	ms := min(d.Milliseconds()+1, 1<<30)
	if _, err := unix.Poll(fds, int(ms)); err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("watch: %w", err)
	}
	if fds[0].Revents != 0 {
		var buf [64]byte
		unix.Read(w.wake[0], buf[:]) //nolint:errcheck // only to empty it
		c.Woken = true
	}
	if fds[1].Revents != 0 {
		some = w.read(found, c) || some
	}
	if fds[2].Revents&(unix.POLLPRI|unix.POLLERR) != 0 {
		found[Mounts], some = true, true
	}
	for i, s := range w.sources {
		if fds[3+i].Revents != 0 {
			s.Drain()
			found[s.Path], some = true, true
		}
	}
	return some, nil
}

// read takes in what inotify has.
func (w *Watcher) read(found map[string]bool, c *Changes) (some bool) {
	var buf [16 << 10]byte
	for {
		n, err := unix.Read(w.inotify, buf[:])
		if err != nil || n <= 0 {
			return some
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd, bits := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
			size := min(unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:])), len(b))
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:size]), "\x00")
			b = b[size:]
			some = w.event(wd, bits, name, found, c) || some
		}
	}
}

func (w *Watcher) event(wd int32, bits uint32, name string, found map[string]bool, c *Changes) bool {
	if bits&unix.IN_Q_OVERFLOW != 0 {
		c.All = true
		return true
	}
	dir, ok := w.dirs[wd]
	if !ok {
		return false // of a watch that was removed meanwhile
	}
	if bits&(unix.IN_IGNORED|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF) != 0 {
		w.stale = true
	}
	if bits&unix.IN_IGNORED != 0 {
		delete(w.dirs, wd)
	}
	if bits&unix.IN_ISDIR != 0 && bits&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
		w.stale = true // perhaps the directory that was missing
	}
	if len(found) >= maxPaths {
		c.All = true
		return true
	}
	found[path.Join(dir, name)] = true
	return true
}
