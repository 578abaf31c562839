// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const (
	sshdFile        = "/etc/ssh/sshd_config"
	sshdDropIn      = "00-backstay.conf" // sorts before what packages bring: the first value counts
	maxIncludes     = 256
	maxIncludeDepth = 16 // as in OpenSSH
)

func sshdPrograms() []string {
	return []string{"/usr/sbin/sshd", "/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"}
}

// sshdLine is one directive with its place.
type sshdLine struct {
	file    string
	line    int    // 0: an option of the command line, in file's words
	keyword string // lower case, the name of today
	args    []string
	block   int  // number of the Match block it is in, 0 for none
	all     bool // the block is "Match all"
}

// where names the place in evidence.
func (l sshdLine) where() string {
	if l.line == 0 {
		return l.file
	}
	return at(l.file, l.line)
}

// sshdRenamed maps old names of keywords.
func sshdRenamed(keyword string) string {
	switch keyword {
	case "challengeresponseauthentication", "skeyauthentication":
		return "kbdinteractiveauthentication"
	case "pubkeyacceptedkeytypes":
		return "pubkeyacceptedalgorithms"
	case "hostbasedacceptedkeytypes":
		return "hostbasedacceptedalgorithms"
	case "dsaauthentication":
		return "pubkeyauthentication"
	case "authorizedkeysfile2":
		return "authorizedkeysfile"
	case "keepalive":
		return "tcpkeepalive"
	}
	return keyword
}

// sshdWords splits a line as OpenSSH does: white space or one "=" after the keyword, quotes, # starts a comment.
func sshdWords(s string) []string {
	var out []string
	var w strings.Builder
	open, equals := false, false
	quote := byte(0)
	end := func() {
		if open {
			out = append(out, w.String())
		}
		w.Reset()
		open = false
	}
	s = strings.Trim(s, " \t\r\n\f")
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && len(out) > 0 && i+1 < len(s) && (strings.IndexByte(`"'\`, s[i+1]) >= 0 || s[i+1] == ' ' && quote == 0):
			i++
			w.WriteByte(s[i])
			open = true
		case quote != 0:
			w.WriteByte(c)
		case c == '"' || c == '\'' && len(out) > 0:
			quote, open = c, true
		case c == '#' && !open:
			return out
		case c == ' ' || c == '\t':
			end()
		case c == '=' && !equals && (len(out) == 0 || len(out) == 1 && !open):
			end()
			equals = true
		default:
			w.WriteByte(c)
			open = true
		}
	}
	end()
	return out
}

// sshdReader reads the configuration with its includes in place.
type sshdReader struct {
	h      *Host
	files  []string
	blocks int
}

// read gives the directives of a file. block is that of the Include that names it.
func (r *sshdReader) read(ctx context.Context, file string, block int, all bool, depth int) ([]sshdLine, error) {
	if depth > maxIncludeDepth || len(r.files) >= maxIncludes {
		return nil, fmt.Errorf("read %s: %w: too many includes", printable(file), ErrTooLarge)
	}
	data, err := r.h.Read(ctx, file)
	if err != nil {
		return nil, err
	}
	r.files = append(r.files, printable(file))
	var out []sshdLine
	n := 0
	for raw := range bytes.Lines(data) {
		n++
		words := sshdWords(string(raw))
		if len(words) == 0 {
			continue
		}
		l := sshdLine{file: file, line: n, keyword: sshdRenamed(strings.ToLower(words[0])), args: words[1:]}
		if l.keyword == "match" {
			r.blocks++
			block, all = r.blocks, len(l.args) == 1 && strings.EqualFold(l.args[0], "all")
		}
		l.block, l.all = block, all
		out = append(out, l)
		if l.keyword != "include" {
			continue
		}
		for _, pattern := range l.args {
			sub, err := r.include(ctx, pattern, block, all, depth)
			if err != nil {
				return nil, err
			}
			out = append(out, sub...)
		}
	}
	return out, nil
}

func (r *sshdReader) include(ctx context.Context, pattern string, block int, all bool, depth int) ([]sshdLine, error) {
	names, err := r.glob(pattern)
	if err != nil {
		return nil, err
	}
	var out []sshdLine
	for _, n := range names {
		sub, err := r.read(ctx, n, block, all, depth+1)
		if err != nil && !errors.Is(err, ErrNotRegular) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		out = append(out, sub...)
	}
	return out, nil
}

// glob expands the pattern of an include, element by element.
func (r *sshdReader) glob(pattern string) ([]string, error) {
	if !strings.HasPrefix(pattern, "/") {
		pattern = path.Join("/etc/ssh", pattern)
	}
	found := []string{"/"}
	for el := range strings.SplitSeq(strings.Trim(path.Clean(pattern), "/"), "/") {
		var next []string
		for _, dir := range found {
			if !strings.ContainsAny(el, "*?[") {
				if p := path.Join(dir, el); r.h.Exists(p) {
					next = append(next, p)
				}
				continue
			}
			names, err := r.h.Names(dir, 1024)
			if errors.Is(err, fs.ErrNotExist) || err != nil && !r.h.isDir(dir) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if r.h.Exists(path.Join(dir, sshdDropIn)) && !slices.Contains(names, sshdDropIn) { // pretended
				names = append([]string{sshdDropIn}, names...)
			}
			for _, n := range names {
				ok, err := path.Match(el, n)
				if err != nil {
					return nil, fmt.Errorf("include %s: %w", printable(pattern), err)
				}
				if ok && (!strings.HasPrefix(n, ".") || strings.HasPrefix(el, ".")) {
					next = append(next, path.Join(dir, n))
				}
			}
		}
		if found = next; len(found) > maxIncludes {
			return nil, fmt.Errorf("include %s: %w: more than %d files", printable(pattern), ErrTooLarge, maxIncludes)
		}
	}
	slices.Sort(found)
	return found, nil
}

var (
	errNoSshd       = errors.New("OpenSSH is not here: no sshd in /usr/sbin, /sbin, /usr/local/sbin, /usr/bin and no " + sshdFile)
	errNoSshdConfig = errors.New("an sshd is there, its configuration is not: where its settings are is not known")
)

// sshdSetup is the server with everything that sets its options, the command line first: it wins.
type sshdSetup struct {
	program string // "" when only the configuration is there
	config  string
	lines   []sshdLine
	read    []string
}

// findSshd reads what sshd is started with and its configuration.
func findSshd(ctx context.Context, h *Host) (sshdSetup, error) {
	s := sshdSetup{config: sshdFile}
	for _, p := range sshdPrograms() {
		if h.Exists(p) {
			s.program = p
			break
		}
	}
	if s.program == "" && !h.Exists(sshdFile) {
		return s, errNoSshd
	}
	for _, st := range h.starts(ctx).on("sshd") {
		s.commandLine(st.where(), st.args())
		s.read = append(s.read, printable(st.file))
	}
	if h.Live() {
		for _, p := range h.processes(ctx).list {
			if p.program() == "sshd" && p.ppid == 1 {
				s.commandLine(fmt.Sprintf("/proc/%d/cmdline", p.pid), sshdTitle(p.args))
			}
		}
	}
	r := sshdReader{h: h}
	lines, err := r.read(ctx, s.config, 0, false, 0)
	if errors.Is(err, fs.ErrNotExist) && len(r.files) == 0 {
		return s, errNoSshdConfig
	}
	if err != nil {
		return s, err
	}
	s.lines = append(s.lines, lines...)
	s.read = append(s.read, r.files...)
	return s, nil
}

// sshdTitle gives the arguments of a listener, which writes "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups".
func sshdTitle(args []string) []string {
	var out []string
	for _, w := range strings.Fields(strings.Join(args, " ")) {
		if strings.HasPrefix(w, "[listener") {
			break
		}
		if strings.HasPrefix(w, "-") || len(out) > 0 {
			out = append(out, w)
		}
	}
	return out
}

// commandLine takes -o Keyword=value, -p, -f and what sets the same as a keyword.
func (s *sshdSetup) commandLine(where string, args []string) {
	add := func(words []string) {
		if len(words) > 1 {
			k := sshdRenamed(strings.ToLower(words[0]))
			dup := slices.ContainsFunc(s.lines, func(l sshdLine) bool { return l.keyword == k && slices.Equal(l.args, words[1:]) })
			if !dup { // a running server has the options of its start script
				s.lines = append(s.lines, sshdLine{file: where, keyword: k, args: words[1:]})
			}
		}
	}
	for i := 0; i < len(args); i++ {
		w := args[i]
		if len(w) < 2 || w[0] != '-' {
			continue
		}
		j := 1
		for ; j < len(w) && !strings.ContainsRune("CEbcfghkopu", rune(w[j])); j++ {
		}
		if j == len(w) {
			continue // flags without a value
		}
		value := w[j+1:]
		if value == "" && i+1 < len(args) {
			i++
			value = args[i]
		}
		switch w[j] {
		case 'o':
			add(sshdWords(value))
		case 'p':
			add([]string{"port", value})
		case 'f':
			if strings.HasPrefix(value, "/") {
				s.config = value
			}
		}
	}
}
