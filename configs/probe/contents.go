// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// contents is what one search through the bytes of all files below start found: private keys. It is a pass of its own beside
// the facts, because it reads everything: a policy without such a rule does not pay for it, and when it takes too long the
// rules about modes are not touched.
type contents struct {
	h     *Host
	start string
	skip  []string
	found []secret
	files int
	cut   int   // files of which only the beginning was searched
	read  int64 // bytes
	err   error
}

// secret is one file with a private key.
type secret struct {
	Info
	what string
}

// maxRead ends a search that has read so many bytes.
const maxRead = 2 << 30

// contents searches once for all rules that ask for the same files.
func (h *Host) contents(ctx context.Context, start string, skip []string) (*contents, error) {
	in, err := h.Stat(start)
	if err != nil {
		return nil, err
	}
	for _, c := range h.read {
		if c.start == in.Path && slices.Equal(c.skip, skip) {
			return c, nil
		}
	}
	c := &contents{h: h, start: in.Path, skip: skip}
	c.err = h.Walk(ctx, in.Path, func(tree Tree, name string, in Info) error { return c.see(ctx, tree, name, in) })
	h.read = append(h.read, c)
	return c, nil
}

func (c *contents) see(ctx context.Context, tree Tree, name string, in Info) error {
	if !in.Mode.IsRegular() || in.Size < 32 || len(c.found) > maxFound || c.skipped(in.Path) {
		return nil
	}
	c.files++
	if isHostKey(path.Base(name)) {
		return nil // known by its name
	}
	if c.read > maxRead {
		return fmt.Errorf("search %s: %w: more than %d bytes", printable(c.start), ErrTooLarge, int64(maxRead))
	}
	f, err := openRegular(tree, name)
	if err != nil {
		return fmt.Errorf("search %s: %w", printable(in.Path), err)
	}
	defer f.Close()
	return c.look(ctx, f, in)
}

// look reads one file.
func (c *contents) look(ctx context.Context, f io.Reader, in Info) error {
	what, first := "", true
	n, err := c.h.inPieces(ctx, f, func(piece []byte, last bool) bool {
		if what = privateKey(piece, last); what == "" && first {
			what = wholeKey(piece, in.Size)
		}
		first = false
		return what == ""
	})
	c.read += n
	if err != nil {
		return fmt.Errorf("search %s: %w", printable(in.Path), err)
	}
	if in.Size > maxSearched {
		c.cut++
	}
	if what != "" {
		c.found = append(c.found, secret{in, what})
	}
	return nil
}

// skipped leaves out what the rule leaves out, and what everybody has: keys that libraries test themselves with.
func (c *contents) skipped(p string) bool {
	if slices.ContainsFunc(c.skip, func(d string) bool { return below(d, p) }) {
		return true
	}
	base := path.Base(p)
	if strings.Contains(base, ".so") && slices.ContainsFunc([]string{"libgnutls.so", "libmbed", "libpolarssl"}, func(l string) bool { return strings.HasPrefix(base, l) }) {
		return true
	}
	return strings.HasPrefix(p, "/usr/") && slices.ContainsFunc(strings.Split(path.Dir(p), "/"), func(el string) bool {
		return el == "tests" || el == "test" || el == "testdata" || el == "certdata"
	})
}

// again searches one path once more, which changed.
func (c *contents) again(h *Host, p string) {
	if !below(c.start, p) {
		return
	}
	c.found = slices.DeleteFunc(c.found, func(s secret) bool { return s.Path == p })
	in, err := h.Stat(p)
	if err != nil || in.Path != p || h.leavesOut(p) {
		return
	}
	files := c.files
	if o, ok := h.over[p]; ok && o.data != nil {
		err = c.look(context.Background(), bytes.NewReader(o.data), in)
	} else {
		err = c.see(context.Background(), h.tree, rel(p), in)
	}
	if err != nil && c.err == nil {
		c.err = err
	}
	c.files = files
}
