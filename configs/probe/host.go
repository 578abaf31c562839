// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// Bounds of one run.
const (
	MaxFile     = 1 << 20 // longest configuration file read, in bytes
	maxCache    = 8 << 20 // file bytes kept between the checks of one run
	maxLinks    = 40      // symbolic links followed for one path, as in Linux
	maxPath     = 4096    // longest path, in bytes
	maxElements = 256     // most elements of one path, links included
)

// Errors of reading, beside fs.ErrNotExist and fs.ErrPermission.
var (
	ErrNotRegular = errors.New("not a regular file")
	ErrTooLarge   = errors.New("too large")
	ErrLoop       = errors.New("too many symbolic links")
)

// Host is the tree under inspection. It remembers what it read until Forget, so that the checks of one run agree and a
// file is read once. It is not safe for concurrent use.
type Host struct {
	tree  Tree
	root  *os.Root // what tree reads, for changes; nil for an image, which is read only
	live  bool
	skip  []string
	files map[string]fileFact
	bytes int
	over  map[string]planned  // of a dry run
	trace map[string]bool     // paths looked up since Trace; nil before the first
	paths map[string][]string // of facts that several rules share: what was looked up for them

	// OnReadOnly carries out a change whose file system is read only, or says why it cannot. May be nil.
	OnReadOnly func(ctx context.Context, c Change) error

	walked  []*facts
	read    []*contents
	entries int // most entries of one walk
	piece   []byte

	started   *startFacts // see starts, processes and listeners
	running   *processFacts
	listening *listenerFacts
	sshdKeys  *sshdKeys
	filter    filterFacts

	guesses  *Guesses
	versions map[string]string // of programs

	kernels *kernelConfigs // see kernelConfigs, bootArguments and ubootEnv: no fix changes them
	booted  *bootLines
	uboot   *ubootEnv
}

type fileFact struct {
	data []byte
	err  error
}

// NewHost inspects root. live says that the tree is the running system, where running processes lag behind their files and
// per-device secrets are in their place. skip lists paths that walks leave out, such as the agent's own state.
func NewHost(root *os.Root, live bool, skip ...string) *Host {
	h := newHost(dirTree{root: root}, skip)
	h.root, h.live = root, live
	return h
}

// NewImage inspects an image. Nothing can be changed in it.
func NewImage(tree Tree, skip ...string) *Host { return newHost(tree, skip) }

func newHost(tree Tree, skip []string) *Host {
	h := &Host{tree: tree, files: map[string]fileFact{}, entries: maxEntries, guesses: &Guesses{}}
	for _, s := range skip {
		h.skip = append(h.skip, path.Clean("/"+s))
	}
	return h
}

// Live reports whether the tree is the running system.
func (h *Host) Live() bool { return h.live }

// Forget drops what was read of a resolved path, after it changed.
func (h *Host) Forget(resolved string) {
	h.bytes -= len(h.files[resolved].data)
	delete(h.files, resolved)
	if resolved == passwdFile || resolved == groupFile {
		h.walked = nil
	}
	for _, f := range h.walked {
		f.again(h, resolved)
	}
	for _, c := range h.read {
		c.again(h, resolved)
	}
	h.started, h.running, h.listening, h.sshdKeys = nil, nil, nil, nil
}

// maxTrace bounds the paths noted for one rule; a rule that looks at more is found out about by the daily run.
const maxTrace = 256

// Trace notes the paths that are looked up from now on, found or not, and returns, sorted, those since it was called last.
// What lies below the start of a walk is not noted.
func (h *Host) Trace() []string {
	var out []string
	for p := range h.trace {
		out = append(out, p)
	}
	slices.Sort(out)
	h.trace = map[string]bool{}
	return out
}

func (h *Host) note(p string) {
	if h.trace != nil && len(h.trace) < maxTrace {
		h.trace[p] = true
	}
}

// sharing makes every rule that uses a fact answer for the paths behind it, not only the first, which found it out. The
// function it returns ends the finding out.
func (h *Host) sharing(fact string, known bool) func() {
	if h.trace == nil {
		return func() {}
	}
	outer := h.trace
	if !known {
		h.trace = map[string]bool{}
	}
	return func() {
		if !known {
			if h.paths == nil {
				h.paths = map[string][]string{}
			}
			h.paths[fact] = slices.Sorted(maps.Keys(h.trace))
			h.trace = outer
		}
		for _, p := range h.paths[fact] {
			h.note(p)
		}
	}
}

// Info describes one file without following its last link.
type Info struct {
	Path     string      // inside the root, absolute, links resolved
	Mode     fs.FileMode // type, permission, setuid, setgid and sticky bits
	UID, GID uint32
	Size     int64
	Dev      uint64 // of the file system
	Rdev     uint64 // of a device node: what it is
}

// Resolve turns a path of the inspected system into the path of the file itself: absolute, without links, never outside
// the root (".." stops there, as in a chroot). The last element may be missing; then the error is fs.ErrNotExist and the
// path says where it would be.
func (h *Host) Resolve(name string) (string, error) { return h.resolve(name, nil) }

// resolve is Resolve, and tells via of every directory and link on the way, and of the file at its end.
func (h *Host) resolve(name string, via func(in Info)) (string, error) {
	rest := strings.Split(name, "/")
	var done []string
	for links, steps := 0, 0; len(rest) > 0; steps++ {
		if steps > maxElements || len(name) > maxPath {
			return "", fmt.Errorf("resolve %s: path is too long", printable(name))
		}
		el := rest[0]
		rest = rest[1:]
		switch el {
		case "", ".":
			continue
		case "..":
			done = done[:max(0, len(done)-1)]
			continue
		}
		at := strings.Join(append(done, el), "/")
		fi, err := h.lstat(at)
		if err != nil {
			h.note("/" + at)
			if o, ok := h.over["/"+at]; ok && !o.gone && o.link == "" && onlyDots(rest) {
				return "/" + at, nil
			}
			if errors.Is(err, fs.ErrNotExist) && onlyDots(rest) {
				return "/" + at, fmt.Errorf("%s: %w", printable(name), fs.ErrNotExist)
			}
			if errors.Is(err, syscall.ENOTDIR) { // /dev/null/.rhosts, of an account whose home is /dev/null
				return "", fmt.Errorf("%s: %s is not a directory: %w", printable(name), printable("/"+strings.Join(done, "/")), fs.ErrNotExist)
			}
			return "", fmt.Errorf("%s: %w", printable(name), cause(err))
		}
		if via != nil {
			via(infoOf("/"+at, fi))
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			done = append(done, el)
			continue
		}
		h.note("/" + at)
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: %w", printable(name), ErrLoop)
		}
		to, err := h.readLink(at)
		if err != nil {
			return "", fmt.Errorf("%s: %w", printable(name), cause(err))
		}
		if strings.HasPrefix(to, "/") {
			done = nil
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	h.note("/" + strings.Join(done, "/"))
	return "/" + strings.Join(done, "/"), nil
}

// onlyDots reports whether nothing but empty elements is left.
func onlyDots(rest []string) bool {
	return !slices.ContainsFunc(rest, func(s string) bool { return s != "" && s != "." })
}

// cause strips the operation and path of a path error: the caller names the path as the policy wrote it.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// rel is the name os.Root takes for a resolved path.
func rel(resolved string) string {
	if r := strings.TrimPrefix(resolved, "/"); r != "" {
		return r
	}
	return "."
}

// Stat follows links inside the root.
func (h *Host) Stat(name string) (Info, error) {
	p, err := h.Resolve(name)
	if err != nil {
		return Info{Path: p}, err
	}
	fi, err := h.tree.Lstat(rel(p))
	if o, ok := h.over[p]; ok && err != nil && !o.gone {
		return Info{Path: p, Mode: *o.mode, Size: int64(len(o.data))}, nil
	}
	if err != nil {
		return Info{Path: p}, fmt.Errorf("%s: %w", printable(name), cause(err))
	}
	return h.pretended(infoOf(p, fi))
}

func infoOf(p string, fi fs.FileInfo) Info {
	in := Info{Path: p, Mode: fi.Mode(), Size: fi.Size()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		in.UID, in.GID, in.Dev, in.Rdev = st.Uid, st.Gid, uint64(st.Dev), uint64(st.Rdev)
	}
	return in
}

// Exists reports whether name is there, as anything.
func (h *Host) Exists(name string) bool {
	_, err := h.Stat(name)
	return err == nil
}

// Read returns the bytes of a regular file of at most MaxFile bytes. The caller must not change them.
func (h *Host) Read(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := h.Resolve(name)
	if err != nil {
		return nil, err
	}
	if o, ok := h.over[p]; ok && (o.gone || o.data != nil) {
		if o.gone {
			return nil, fmt.Errorf("%s: %w", printable(name), fs.ErrNotExist)
		}
		return o.data, nil
	}
	if f, ok := h.files[p]; ok {
		return f.data, f.err
	}
	data, err := h.readFile(h.tree, rel(p), MaxFile)
	if err != nil {
		err = fmt.Errorf("read %s: %w", printable(name), err)
	}
	if h.bytes+len(data) <= maxCache {
		h.files[p] = fileFact{data, err}
		h.bytes += len(data)
	}
	return data, err
}

// readFile opens without blocking and reads at most limit bytes; a longer file is ErrTooLarge. The type is looked at before
// the open, because opening some devices has effects, and after it, because the tree may change in between.
func (h *Host) readFile(dir Tree, name string, limit int64) ([]byte, error) {
	f, err := openRegular(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > limit {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, fi.Size(), limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, cause(err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return data, nil
}

// openRegular opens a regular file for reading and nothing else.
func openRegular(dir Tree, name string) (fs.File, error) {
	fi, err := dir.Lstat(name)
	if err != nil {
		return nil, cause(err)
	}
	if !fi.Mode().IsRegular() {
		return nil, ErrNotRegular
	}
	f, err := dir.Open(name)
	if err != nil {
		return nil, cause(err)
	}
	if fi, err = f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, ErrNotRegular
	}
	return f, nil
}

// Names lists a directory, sorted; at most limit names, or ErrTooLarge.
func (h *Host) Names(name string, limit int) ([]string, error) {
	in, err := h.Stat(name)
	if err != nil {
		return nil, err
	}
	if !in.Mode.IsDir() {
		return nil, fmt.Errorf("list %s: not a directory", printable(name))
	}
	var names []string
	for n, err := range h.tree.Names(rel(in.Path)) {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", printable(name), cause(err))
		}
		if names = append(names, n); len(names) > limit {
			return nil, fmt.Errorf("list %s: %w: more than %d entries", printable(name), ErrTooLarge, limit)
		}
	}
	slices.Sort(names)
	return names, nil
}

// contains reports whether a regular file has text in its first maxSearched bytes.
func (h *Host) contains(ctx context.Context, name, text string) bool {
	p, err := h.Resolve(name)
	if err != nil {
		return false
	}
	f, err := openRegular(h.tree, rel(p))
	if err != nil {
		return false
	}
	defer f.Close()
	found := false
	_, err = h.inPieces(ctx, f, func(piece []byte, _ bool) bool {
		found = bytes.Contains(piece, []byte(text))
		return !found
	})
	return err == nil && found
}

// Bounds of a search in files. Pieces overlap, so that what starts in one and is at most that long is whole in one.
const (
	maxSearched  = 16 << 20
	pieceBytes   = 128 << 10
	pieceOverlap = 1 << 10
)

// inPieces gives a file to fn piece by piece until fn returns false; last says that no further one follows. It returns how
// many bytes it read.
func (h *Host) inPieces(ctx context.Context, f io.Reader, fn func(piece []byte, last bool) bool) (read int64, err error) {
	if h.piece == nil {
		h.piece = make([]byte, pieceBytes)
	}
	buf, kept := h.piece, 0
	for {
		if err := ctx.Err(); err != nil {
			return read, err
		}
		n, err := io.ReadFull(f, buf[kept:])
		read += int64(n)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || read >= maxSearched
		if err != nil && !last {
			return read, cause(err)
		}
		if !fn(buf[:kept+n], last) || last {
			return read, nil
		}
		kept = copy(buf, buf[kept+n-pieceOverlap:kept+n])
	}
}
