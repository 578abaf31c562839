// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Times and bounds of the source.
const (
	fileSettle = time.Second // a file that is replaced is created, written, changed and renamed
	fileSave   = time.Minute
	fileAgain  = time.Hour // everything is compared without a reason: what a mapping wrote, or a mount hid, tells nobody
	fileRetry  = time.Minute

	maxLooks   = 1024
	maxTouched = 256 // names that wait to be looked at; beyond, all are

	fileHashMax    = 4 << 20
	fileHashDuring = time.Second
	fileHashRate   = 1 << 20
	fileHashBurst  = 64 << 20
)

func fileKind() Kind {
	return Kind{
		Name: "file", Sees: "watched files that are changed, created, removed or given other permissions, also while the agent was down",
		Rate: logging.Rate{Per: 5, Burst: 200}, Open: openFile,
	}
}

// Masks of the watches: of a directory whose entries are watched, and of one in which a watched name may appear.
const (
	watchEntries = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | watchNames
	watchNames   = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
)

// fileWatcher compares watched names with what they were.
type fileWatcher struct {
	env      *Env
	list     watchList
	notify   *inotify
	wait     *waiter
	digester *digester
	dirs     map[int][]string  // names of the watched directories, by watch
	links    map[string]string // watched names by where their links lead, in the directory of the name
	known    map[string]look
	state    fileState
	kept     int
	first    bool // nothing was known before this start
	full     bool // more names than are kept
	noRead   int  // names that the agent may not read

	touched map[string]bool
	rescan  bool
	due     time.Time // when what could not be looked at is tried again
	allDue  time.Time
	dirty   bool
	savedAt time.Time
}

func openFile(_ context.Context, env *Env) (_ Watcher, err error) {
	f := &fileWatcher{
		env: env, list: newWatchList(env), dirs: make(map[int][]string), links: make(map[string]string), touched: make(map[string]bool),
		digester: newDigester(fileHashMax, fileHashDuring, fileHashRate, fileHashBurst),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	saved, err := env.State.Load("file")
	if err != nil {
		return nil, fmt.Errorf("open watched files: %w", err)
	}
	if f.state, err = decodeFiles(saved); err != nil {
		f.first, err = true, nil
	}
	f.known = f.state.all
	if f.known == nil {
		f.known = make(map[string]look)
	}
	if f.notify, err = newInotify(); err != nil {
		return nil, err
	}
	if f.wait, err = newWaiter(); err != nil {
		return nil, err
	}
	if err = f.arm(); err != nil {
		return nil, err
	}
	names := f.names()
	f.kept = len(names)
	for _, name := range names {
		if errors.Is(unix.Access(env.Path(name), unix.R_OK), unix.EACCES) {
			f.noRead++
		}
	}
	return f, f.wait.add(f.notify.fd, unix.EPOLLIN)
}

// listID identifies a list of watched names. With another list a name that is not known is not a new file.
func (f *fileWatcher) listID() (id [8]byte) {
	sum := sha256.Sum256([]byte(strings.Join(f.list, "\x00")))
	copy(id[:], sum[:])
	return id
}

// arm watches every directory that matters now. It may be called again at any time: the kernel knows watches it has.
func (f *fileWatcher) arm() error {
	clear(f.dirs)
	clear(f.links)
	for _, name := range f.list {
		path := f.env.Path(name)
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			if err := f.armDir(name, path, watchEntries); err != nil && !errors.Is(err, unix.EACCES) {
				return err
			}
		}
		if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
			// What a link leads to changes elsewhere. The name there stands for the watched one.
			if err := f.armDir(filepath.Dir(name), filepath.Dir(real), watchEntries); err != nil && !errors.Is(err, unix.EACCES) {
				return err
			}
			f.links[filepath.Join(filepath.Dir(name), filepath.Base(real))] = name
		}
		dir, mask := filepath.Dir(name), uint32(watchEntries)
		for {
			err := f.armDir(dir, f.env.Path(dir), mask)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.EACCES) || dir == "/" {
				return err
			}
			dir, mask = filepath.Dir(dir), watchNames
		}
	}
	return nil
}

func (f *fileWatcher) armDir(name, path string, mask uint32) error {
	wd, err := f.notify.add(path, mask|unix.IN_MASK_ADD)
	if err == nil && !slices.Contains(f.dirs[wd], name) {
		f.dirs[wd] = append(f.dirs[wd], name)
	}
	return err
}

// Covers implements Watcher.
func (f *fileWatcher) Covers() string {
	s := fmt.Sprintf("%d files and links under %d watched names", f.kept, len(f.list))
	if _, kept := encodeFiles(fileState{all: f.known}); kept < len(f.known) {
		s += fmt.Sprintf("; while the agent is down only the first %d", kept)
	}
	if f.noRead > 0 {
		s += fmt.Sprintf("; cannot read %d of them", f.noRead)
	}
	if f.full {
		s += fmt.Sprintf("; not what is beyond %d files", maxLooks)
	}
	return s
}

// Close implements Watcher.
func (f *fileWatcher) Close() error {
	var errs []error
	if f.wait != nil {
		errs = append(errs, f.wait.Close())
	}
	if f.notify != nil {
		errs = append(errs, f.notify.Close())
	}
	return errors.Join(errs...)
}

// names lists what there is to look at: the watched names, and the entries of those that are directories.
func (f *fileWatcher) names() []string {
	var out []string
	f.full = false
	for _, name := range f.list {
		out = append(out, name)
		d, err := os.Open(f.env.Path(name))
		if err != nil {
			continue
		}
		if st, err := d.Stat(); err == nil && st.IsDir() {
			entries, _ := d.ReadDir(maxLooks + 1)
			slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
			for _, e := range entries {
				out = append(out, filepath.Join(name, e.Name()))
			}
		}
		_ = d.Close()
		if len(out) > maxLooks {
			f.full = true
			out = out[:maxLooks]
			break
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Run implements Watcher.
func (f *fileWatcher) Run(ctx context.Context, sink *Sink) error {
	defer f.wait.until(ctx)()
	f.compareAll(sink, true)
	for {
		if err := f.save(ctx.Err() != nil); err != nil || ctx.Err() != nil {
			return err
		}
		ready, err := f.wait.wait(ctx, f.timeout())
		if err != nil {
			return err
		}
		if len(ready) > 0 {
			_ = sleep(ctx, fileSettle)
			if err := f.gather(sink); err != nil {
				return err
			}
		}
		now := time.Now()
		switch {
		case f.rescan || now.After(f.allDue):
			f.rescan = false
			f.compareAll(sink, false)
		case len(ready) > 0 || now.After(f.due):
			f.compareTouched(sink)
		}
	}
}

func (f *fileWatcher) timeout() time.Duration {
	now := time.Now()
	out := f.allDue.Sub(now)
	if len(f.touched) > 0 {
		out = min(out, f.due.Sub(now))
	}
	if f.dirty {
		out = min(out, f.savedAt.Add(fileSave).Sub(now))
	}
	return max(out, time.Millisecond)
}

// gather notes what the kernel reports.
func (f *fileWatcher) gather(sink *Sink) error {
	rearm := false
	err := f.notify.read(func(n notice) {
		if n.mask&unix.IN_Q_OVERFLOW != 0 {
			sink.Lost(0, "queue of file changes full; everything was compared")
			f.rescan = true
			return
		}
		rearm = rearm || n.mask&(unix.IN_ISDIR|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED) != 0
		for _, dir := range f.dirs[n.watch] {
			name := filepath.Join(dir, n.name)
			switch {
			case slices.Contains(f.list, dir), slices.Contains(f.list, name):
				f.touch(name)
			case n.name != "" && slices.ContainsFunc(f.list, func(w string) bool { return strings.HasPrefix(w, name+"/") }):
				f.rescan = true // a directory on the way to a watched name
			}
			if w, ok := f.links[name]; ok {
				f.touch(w)
			}
		}
	})
	if err == nil && (rearm || f.rescan) {
		f.rescan = true
		err = f.arm()
	}
	return err
}

func (f *fileWatcher) touch(name string) {
	if len(f.touched) >= maxTouched {
		f.rescan = true
		return
	}
	f.touched[name] = true
}

// compareAll looks at every name.
func (f *fileWatcher) compareAll(sink *Sink, start bool) {
	clear(f.touched)
	names := f.names()
	if f.full {
		sink.Lost(0, "more watched files than the agent keeps")
	}
	for _, name := range names {
		f.compare(sink, name, start)
	}
	for name := range f.known {
		if _, found := slices.BinarySearch(names, name); !found {
			f.compare(sink, name, start)
		}
	}
	f.first = false
	f.kept = len(f.known)
	f.allDue = time.Now().Add(fileAgain)
}

func (f *fileWatcher) compareTouched(sink *Sink) {
	names := f.touched
	f.touched = make(map[string]bool)
	for name := range names {
		f.compare(sink, name, false)
	}
}

// compare looks at one name and reports what is different. start says that it may have happened while the agent was down.
func (f *fileWatcher) compare(sink *Sink, name string, start bool) {
	old, had := f.known[name]
	now, st, err := take(f.digester, f.env.Path(name), slices.Contains([]string(f.list), name))
	gone := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
	if err != nil && !gone {
		if errors.Is(err, errBudget) {
			f.touched[name] = true
			f.due = time.Now().Add(fileRetry)
		}
		return
	}
	silent := f.first || start && (f.state.list != f.listID() || !f.state.knows(name)) && (had == gone)
	switch {
	case gone && !had:
		return
	case gone:
		delete(f.known, name)
		f.dirty = true
		if !silent && f.watched(name) {
			sink.Event("file.removed", f.attrs("file removed", name, start, &old, nil, nil)...)
		}
		return
	case had && old.sameContent(now) && old.sameAttributes(now):
		return
	case !had && len(f.known) >= maxLooks:
		f.full = true
		return
	}
	f.known[name], f.dirty = now, true
	switch {
	case silent:
	case !had:
		sink.Event("file.created", f.attrs("file created", name, start, nil, &now, &st)...)
	case !old.sameContent(now):
		sink.Event("file.changed", f.attrs("file changed", name, start, &old, &now, &st)...)
	default:
		sink.Event("file.attributes", f.attrs("permissions or owner changed", name, start, &old, &now, nil)...)
	}
}

// watched reports whether a name is still in the list: another list was not the end of a file.
func (f *fileWatcher) watched(name string) bool { return f.list.has(name) }

// save keeps what is known, at most once a minute.
func (f *fileWatcher) save(now bool) error {
	if !f.dirty || !now && time.Since(f.savedAt) < fileSave {
		return nil
	}
	b, _ := encodeFiles(fileState{list: f.listID(), all: f.known})
	if err := f.env.State.Save("file", b); err != nil {
		return fmt.Errorf("keep watched files: %w", err)
	}
	f.dirty, f.savedAt = false, time.Now()
	return nil
}
