// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Bounds of what is kept of a mount table.
const (
	maxMounts    = 512
	maxMountText = 256      // of one field
	maxMountInfo = 64 << 10 // of the whole file
)

// mountSettle is how long a table that changed is left alone before it is read: a container that starts mounts a dozen times.
const mountSettle = 200 * time.Millisecond

func mountKind() Kind {
	return Kind{
		Name: "mount", Sees: "file systems that are mounted, unmounted or mounted anew with other options",
		Rate: logging.Rate{Per: 5, Burst: 100}, Open: openMount,
	}
}

// mount is one line of mountinfo(5).
type mount struct {
	id, parent   int
	major, minor uint32
	root, point  string
	options      string // of this mount
	fsType       string
	source       string
	super        string // options of the file system
}

// parseMounts reads mountinfo. Lines that are not of its form are left out; whole says whether every mount found room.
func parseMounts(b []byte) (list []mount, whole bool) {
	for line := range strings.Lines(string(b)) {
		m, ok := parseMount(strings.TrimSuffix(line, "\n"))
		if !ok {
			continue
		}
		if len(list) == maxMounts {
			return list, false
		}
		list = append(list, m)
	}
	return list, true
}

func parseMount(line string) (m mount, ok bool) {
	head, tail, found := strings.Cut(line, " - ")
	f, g := strings.Split(head, " "), strings.Split(tail, " ")
	if !found || len(f) < 6 || len(g) < 2 {
		return m, false
	}
	var errs [4]error
	m.id, errs[0] = strconv.Atoi(f[0])
	m.parent, errs[1] = strconv.Atoi(f[1])
	major, minor, _ := strings.Cut(f[2], ":")
	m.major, errs[2] = parseUint32(major)
	m.minor, errs[3] = parseUint32(minor)
	if errors.Join(errs[:]...) != nil {
		return m, false
	}
	m.root, m.point, m.options, m.fsType, m.source = unoctal(f[3]), unoctal(f[4]), cut(f[5]), cut(g[0]), unoctal(g[1])
	if len(g) > 2 {
		m.super = cut(g[2])
	}
	return m, true
}

func parseUint32(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

func cut(s string) string { return strings.Clone(s[:min(len(s), maxMountText)]) }

// unoctal undoes the escapes of the kernel for blanks, tabs, line ends and backslashes: \040.
func unoctal(s string) string {
	s = s[:min(len(s), 4*maxMountText)]
	if strings.IndexByte(s, '\\') < 0 {
		return cut(s)
	}
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		out = append(out, s[i])
	}
	return cut(string(out))
}

// mountTable is an open mountinfo. It can be waited for (EPOLLPRI), but each change is told to only one who asks, so a wait
// has to look at the content too: see waiter.check.
type mountTable struct {
	file *os.File
	buf  []byte
	seed maphash.Seed
	sum  uint64 // of the content when it was last parsed
}

func openMounts(env *Env) (*mountTable, error) {
	f, err := os.Open(env.Path("/proc/self/mountinfo"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no /proc/self/mountinfo: %w", ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("open mounts: %w", err)
	}
	return &mountTable{file: f, buf: make([]byte, 4<<10), seed: maphash.MakeSeed()}, nil
}

func (t *mountTable) load() ([]byte, error) {
	n := 0
	for {
		got, err := t.file.ReadAt(t.buf[n:], int64(n))
		n += got
		if errors.Is(err, io.EOF) || n == maxMountInfo {
			return t.buf[:n], nil
		}
		if err != nil {
			return nil, fmt.Errorf("read mounts: %w", err)
		}
		if n == len(t.buf) {
			t.buf = append(t.buf, make([]byte, len(t.buf))...)
		}
	}
}

// changed reports whether the table is another than the one read last.
func (t *mountTable) changed(bool) bool {
	b, err := t.load()
	return err != nil || maphash.Bytes(t.seed, b) != t.sum
}

func (t *mountTable) read() (list []mount, whole bool, err error) {
	b, err := t.load()
	if err != nil {
		return nil, false, err
	}
	t.sum = maphash.Bytes(t.seed, b)
	list, whole = parseMounts(b)
	return list, whole && len(b) < maxMountInfo, nil
}

func (t *mountTable) fd() int      { return int(t.file.Fd()) }
func (t *mountTable) Close() error { return t.file.Close() }

// mountWatcher reports the difference between two readings of the table.
type mountWatcher struct {
	table *mountTable
	wait  *waiter
	known map[int]mount
}

func openMount(_ context.Context, env *Env) (Watcher, error) {
	t, err := openMounts(env)
	if err != nil {
		return nil, err
	}
	w, err := newWaiter()
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	m := &mountWatcher{table: t, wait: w}
	list, _, err := t.read()
	if err == nil {
		err = w.add(t.fd(), unix.EPOLLPRI)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	m.known = byID(list)
	w.check = t.changed
	return m, nil
}

func byID(list []mount) map[int]mount {
	known := make(map[int]mount, len(list))
	for _, m := range list {
		known[m.id] = m
	}
	return known
}

// Covers implements Watcher.
func (m *mountWatcher) Covers() string {
	return fmt.Sprintf("the %d mounts of the agent's own mount namespace, and those to come; not those of containers", len(m.known))
}

// Close implements Watcher.
func (m *mountWatcher) Close() error { return errors.Join(m.wait.Close(), m.table.Close()) }

// Run implements Watcher.
func (m *mountWatcher) Run(ctx context.Context, sink *Sink) error {
	defer m.wait.until(ctx)()
	for {
		if _, err := m.wait.wait(ctx, 0); err != nil || ctx.Err() != nil {
			return err
		}
		if !sleep(ctx, mountSettle) {
			return nil
		}
		list, whole, err := m.table.read()
		if err != nil {
			return err
		}
		if !whole {
			sink.Lost(0, "more mounts than the agent keeps")
		}
		m.diff(list, sink)
	}
}

func (m *mountWatcher) diff(list []mount, sink *Sink) {
	now := byID(list)
	for _, id := range slices.Sorted(maps.Keys(m.known)) {
		old := m.known[id]
		if got, ok := now[id]; !ok || got.point != old.point || got.major != old.major || got.minor != old.minor {
			sink.Event("mount.removed", old.attrs("file system unmounted")...)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(now)) {
		got := now[id]
		old, ok := m.known[id]
		switch {
		case !ok || got.point != old.point || got.major != old.major || got.minor != old.minor:
			sink.Event("mount.added", got.attrs("file system mounted")...)
		case got.options != old.options || got.super != old.super:
			attrs := append(got.attrs("mount options changed"), slog.String("options_before", old.allOptions()))
			sink.Event("mount.added", attrs...)
		}
	}
	m.known = now
}

func (m mount) attrs(message string) []slog.Attr {
	return []slog.Attr{
		slog.String("message", message), slog.String("path", m.point), slog.String("type", m.fsType), slog.String("volume", m.source),
		slog.String("options", m.allOptions()), slog.String("root", m.root),
	}
}

// allOptions joins those of the mount with those of its file system, without the ones both have. A password of a network file
// system is not among them: the kernel shows none, and the log drops what looks like one.
func (m mount) allOptions() string {
	all := strings.Split(m.options, ",")
	for o := range strings.SplitSeq(m.super, ",") {
		if !slices.Contains(all, o) && !(o == "rw" && slices.Contains(all, "ro")) {
			all = append(all, o)
		}
	}
	return strings.Join(all, ",")
}
