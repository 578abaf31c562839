// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// The environment block of GRUB, as its grub-core/lib/envblk.c reads and writes it: a signature line, lines of comments and
// of "name=value", where a newline or a backslash of a value has a backslash before it, and "#" up to the end of the file.
// It has no checksum. Its size is that of the file, which GRUB cannot change when it saves; 1024 is usual.
//
// Everything here changes the bytes as grub-editenv does: a value in its place, what follows moved, a new variable appended.

const (
	grubSignature = "# GRUB Environment Block\n"
	maxGrubenv    = 64 << 10
)

// grubenv is a block. It is never changed in place.
type grubenv []byte

// parseGrubenv refuses what GRUB and grub-editenv would not read or not write again.
func parseGrubenv(raw []byte) (grubenv, error) {
	if !bytes.HasPrefix(raw, []byte(grubSignature)) {
		return nil, errors.New("it does not begin as a GRUB environment block")
	}
	g := grubenv(raw)
	if g[g.free()-1] != '\n' {
		return nil, errors.New("what is after its last variable is not filled with #")
	}
	p := len(grubSignature)
	for p < g.free() {
		p = g.nextLine(p)
	}
	if p != g.free() {
		return nil, errors.New("its last variable does not end")
	}
	return g, nil
}

// free is where the padding begins.
func (g grubenv) free() int { return len(bytes.TrimRight(g, "#")) }

// valueEnd returns the end of a value that begins at p, or -1 if it does not end.
func (g grubenv) valueEnd(p, end int) int {
	for p < end && g[p] != '\n' {
		if g[p] == '\\' {
			p++
		}
		p++
	}
	if p >= end {
		return -1
	}
	return p
}

// nextLine returns the line after the one at p. A newline after a backslash does not end one.
func (g grubenv) nextLine(p int) int {
	for p < len(g) && g[p] != '\n' {
		if g[p] == '\\' {
			p++
		}
		p++
	}
	return p + 1
}

// find returns where the value of a variable is, as it is stored. The first of that name counts.
func (g grubenv) find(name string) (from, to int, ok bool) {
	end := g.free()
	for p := len(grubSignature); p < end; p = g.nextLine(p) {
		if bytes.HasPrefix(g[p:end], []byte(name)) && p+len(name)+1 < end && g[p+len(name)] == '=' {
			from = p + len(name) + 1
			to = g.valueEnd(from, end)
			return from, to, to >= 0
		}
	}
	return 0, 0, false
}

func (g grubenv) get(name string) (string, bool) {
	from, to, ok := g.find(name)
	if !ok {
		return "", false
	}
	return grubUnescape(g[from:to]), true
}

// all returns the variables in their order, as "name=value".
func (g grubenv) all() []string {
	var out []string
	for p := len(grubSignature); p < len(g); p = g.nextLine(p) {
		line := g[p:]
		eq := bytes.IndexByte(line, '=')
		if line[0] == '#' || eq < 0 {
			continue
		}
		to := g.valueEnd(p+eq+1, len(g))
		if to < 0 {
			break
		}
		out = append(out, string(line[:eq+1])+grubUnescape(g[p+eq+1:to]))
		p = to
	}
	return out
}

func grubUnescape(raw []byte) string {
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\\' && i+1 < len(raw) {
			i++
		}
		b.WriteByte(raw[i])
	}
	return b.String()
}

var grubEscape = strings.NewReplacer("\\", "\\\\", "\n", "\\\n")

// set returns the block with one variable changed, or appended.
func (g grubenv) set(name, value string) (grubenv, error) {
	if err := checkVar(name, value); err != nil {
		return nil, err
	}
	if name[0] == '#' || strings.ContainsAny(name, "\\") {
		return nil, fmt.Errorf("set boot variable %q: GRUB would not read that name", name)
	}
	end := g.free()
	stored := grubEscape.Replace(value)
	line := stored
	from, to, ok := g.find(name)
	if !ok {
		from, to, line = end, end, name+"="+stored+"\n"
	}
	if end-(to-from)+len(line) > len(g) {
		return nil, fmt.Errorf("set boot variable %s: the environment block of %d bytes is full", name, len(g))
	}
	out := make(grubenv, 0, len(g))
	out = append(append(append(out, g[:from]...), line...), g[to:end]...)
	return append(out, bytes.Repeat([]byte("#"), len(g)-len(out))...), nil
}

// setAll changes several variables.
func (g grubenv) setAll(list ...assign) (grubenv, error) {
	for _, a := range list {
		if old, ok := g.get(a.name); ok && old == a.value {
			continue
		}
		next, err := g.set(a.name, a.value)
		if err != nil {
			return nil, err
		}
		g = next
	}
	return g, nil
}
