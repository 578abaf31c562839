// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// class says why the walk kept an entry. One entry may be kept for several reasons.
type class uint8

const (
	privileged class = iota // a setuid or setgid program
	capable                 // a program with file capabilities
	writable                // a file that everybody may write
	unsticky                // a directory that everybody may write, without the sticky bit
	unowned                 // of a user or group that the system does not have
	device                  // a device node
	keyFile                 // by its name a private key
	hostKey                 // by its name a host key of an SSH server
	certFile                // by its name a certificate
	classes
)

// maxFound bounds what is kept of one class; a tree with more is broken and fails anyway.
const maxFound = 4096

// fact is one entry that the walk kept.
type fact struct {
	Info
	class class
	attr  []byte // of a capable file: the attribute
}

// facts is what one walk found below start. All rules about the whole tree share it: a full Debian root has 60 000 entries,
// and each walk of them costs a tenth of a second on a PC and seconds on a small board.
type facts struct {
	h     *Host
	start string
	dev   uint64
	list  []fact
	count [classes]int // also of those that were not kept
	files int
	err   error // why the walk ended early

	uids, gids map[uint32]bool // nil where the system has no accounts, which leaves every owner unnamed
}

// facts walks what is below start once. The same facts are given until Forget or Pretend say that something changed, and
// then only that entry is looked at again. A walk that met an error is not tried again: every rule would wait for it anew.
func (h *Host) facts(ctx context.Context, start string) (*facts, error) {
	in, err := h.Stat(start)
	if err != nil {
		return nil, err
	}
	top, err := h.Stat("/")
	if err == nil && top.Dev == in.Dev {
		in = top
	}
	for _, f := range h.walked {
		if f.start == in.Path {
			return f, nil
		}
	}
	f := &facts{h: h, start: in.Path, dev: in.Dev}
	f.uids, f.gids = h.owners(ctx)
	f.err = h.Walk(ctx, f.start, func(tree Tree, name string, in Info) error {
		f.see(tree, name, in)
		return nil
	})
	h.walked = append(h.walked, f)
	return f, nil
}

// owners lists the users and groups that the system has, nil for none.
func (h *Host) owners(ctx context.Context) (uids, gids map[uint32]bool) {
	ids := func(file string) map[uint32]bool {
		data, err := h.Read(ctx, file)
		if err != nil {
			return nil
		}
		uid, gid := h.Root()
		out := map[uint32]bool{0: true, uid: file == passwdFile || uid == 0, gid: file != passwdFile || gid == 0}
		for _, r := range parseRecords(data) {
			if n, err := strconv.ParseUint(r.field(2), 10, 32); err == nil {
				out[uint32(n)] = true
			}
		}
		return out
	}
	return ids(passwdFile), ids(groupFile)
}

// see puts one entry into its classes.
func (f *facts) see(tree Tree, name string, in Info) {
	if (f.uids != nil && !f.uids[in.UID]) || (f.gids != nil && !f.gids[in.GID]) {
		f.keep(unowned, in, nil)
	}
	switch t := in.Mode.Type(); {
	case t&fs.ModeDevice != 0:
		if in.Rdev != 0 || t&fs.ModeCharDevice == 0 { // else an overlay's mark that a file is gone
			f.keep(device, in, nil)
		}
	case t == fs.ModeDir:
		if in.Mode&0o002 != 0 && in.Mode&fs.ModeSticky == 0 {
			f.keep(unsticky, in, nil)
		}
	case t == 0:
		f.files++
		f.seeFile(tree, name, in)
	}
}

func (f *facts) seeFile(tree Tree, name string, in Info) {
	if in.Mode&0o002 != 0 {
		f.keep(writable, in, nil)
	}
	if in.Mode&privBits != 0 {
		f.keep(privileged, in, nil)
	}
	// A capability works when the file is executed: the attribute of others is not asked for, they are most files.
	if t, ok := tree.(attrTree); ok && in.Mode&0o111 != 0 {
		v, err := t.Attr(name, capabilityAttr)
		if o, ok := f.h.over[in.Path]; ok && o.caps != nil {
			v, err = *o.caps, nil
		}
		if err == nil && len(v) > 0 {
			f.keep(capable, in, v)
		} else if err != nil && !noAttr(err) && f.err == nil {
			f.err = err
		}
	}
	if in.Size < 32 {
		return // too short for a key
	}
	switch base := strings.ToLower(path.Base(name)); {
	case isHostKey(base):
		f.keep(hostKey, in, nil)
	case slices.Contains([]string{".key", ".p12", ".pfx", ".jks", ".keystore"}, path.Ext(base)),
		slices.Contains([]string{"id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"}, base):
		f.keep(keyFile, in, nil)
	case slices.Contains([]string{".crt", ".cer", ".der", ".pem", ".cert"}, path.Ext(base)):
		f.keep(certFile, in, nil)
	}
}

const (
	capabilityAttr = "security.capability"
	groupFile      = "/etc/group"
)

// noAttr reports that a file has no such attribute, or its file system none at all.
func noAttr(err error) bool {
	return errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, fs.ErrNotExist)
}

func (f *facts) keep(c class, in Info, attr []byte) {
	if f.count[c]++; f.count[c] <= maxFound {
		f.list = append(f.list, fact{Info: in, class: c, attr: attr})
	}
}

// of gives the entries of one class below start, sorted by path.
func (f *facts) of(c class, start string) []fact {
	var out []fact
	for _, x := range f.list {
		if x.class == c && below(start, x.Path) {
			out = append(out, x)
		}
	}
	slices.SortFunc(out, func(a, b fact) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// below reports whether p is dir or inside it.
func below(dir, p string) bool {
	return dir == "/" || p == dir || strings.HasPrefix(p, dir) && p[len(dir)] == '/'
}

// again looks once more at one path, which changed.
func (f *facts) again(h *Host, p string) {
	if !below(f.start, p) {
		return
	}
	f.list = slices.DeleteFunc(f.list, func(x fact) bool {
		if x.Path == p {
			f.count[x.class]--
		}
		return x.Path == p
	})
	in, err := h.Stat(p)
	if err != nil || in.Path != p || h.leavesOut(p) || in.Dev != f.dev && !in.Mode.IsDir() {
		return
	}
	files := f.files
	f.see(h.tree, rel(p), in)
	f.files = files
}

// searched gives the facts that a check needs, and why it cannot pass when something was not seen: the tree is too large,
// or start is not there.
func (h *Host) searched(ctx context.Context, start string, c class) (found []fact, files int, err error) {
	f, err := h.facts(ctx, start)
	if err != nil {
		return nil, 0, err
	}
	in, err := h.Stat(start)
	if err != nil {
		return nil, 0, err
	}
	return f.of(c, in.Path), f.files, f.err
}
