// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// secretCheck wants no private key in the files below a directory.
type secretCheck struct {
	start string
	Find  []string `json:"find"` // key, ssh-host-key
	Skip  []string `json:"skip"` // directories left out
}

func secretKind() Kind {
	return Kind{
		Name: "secret", Target: "a directory; what is below it on the same file system is searched",
		Want: `{"find": ["key", "ssh-host-key"], "skip": [directories]}; find is required: unencrypted private keys in PEM, or host keys of an SSH server`,
		New: func(target string, want []byte) (Check, error) {
			c := secretCheck{start: target}
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if f, ok := subset(c.Find, []string{"key", "ssh-host-key"}); !ok || len(c.Find) == 0 {
				return nil, fmt.Errorf(`want.find: %q, want "key" or "ssh-host-key"`, f)
			}
			paths := c.Skip
			if target != "/" {
				paths = append([]string{target}, paths...)
			}
			return c, checkPaths(paths)
		},
	}
}

// Fix is not possible: what uses the key is not known, and a key that was published stays published.
func (c secretCheck) Fix(context.Context, *Host, func(string) bool) ([]Change, error) {
	return nil, ErrNoFix
}

// Claims is empty: nothing is set.
func (c secretCheck) Claims() []string { return nil }

func (c secretCheck) Tightens(old Check) error {
	o, ok := old.(secretCheck)
	if !ok || o.start != c.start {
		return errors.New("another target")
	}
	if f, ok := subset(o.Find, c.Find); !ok {
		return fmt.Errorf("%s is not searched for", f)
	}
	if s, ok := subset(c.Skip, o.Skip); !ok {
		return fmt.Errorf("%s is left out", s)
	}
	return nil
}

// Bounds of a search: of a longer file its head is searched, and the whole search ends when it has read so much.
const (
	secretHead  = 1 << 20
	secretTotal = 1 << 30
)

type secretSearch struct {
	secretCheck
	buf   []byte
	files int
	cut   int // files of which only the head was searched
	read  int64
	items []Item
}

func (c secretCheck) Check(ctx context.Context, h *Host) Verdict {
	s := &secretSearch{secretCheck: c, buf: make([]byte, secretHead)}
	err := s.hostKeys(ctx, h)
	if err == nil && slices.Contains(c.Find, "key") {
		s.files = 0
		err = h.Walk(ctx, c.start, s.visit)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return notApplicable(err.Error())
	}
	if err != nil && len(s.items) == 0 {
		return unknown(err)
	}
	slices.SortFunc(s.items, func(a, b Item) int { return cmp.Compare(a.Where, b.Where) })
	what := fmt.Sprintf("%s (%d files, of %d the first MiB)", c.start, s.files, s.cut)
	return judged(s.items, fmt.Sprintf("%d files, none with %s", s.files, strings.Join(c.Find, " or ")), what)
}

// hostKeys knows them by their names.
func (s *secretSearch) hostKeys(ctx context.Context, h *Host) error {
	found, files, err := h.searched(ctx, s.start, hostKey)
	if !slices.Contains(s.Find, "ssh-host-key") {
		return err
	}
	s.files = files
	for _, f := range found {
		if !s.skipped(f.Path) {
			s.found(f.Info, "private host key of an SSH server: every device with this image has it")
		}
	}
	return err
}

func (s *secretSearch) visit(tree Tree, name string, in Info) error {
	if !in.Mode.IsRegular() || in.Size < 32 || len(s.items) > maxFound || s.skipped(in.Path) {
		return nil
	}
	s.files++
	if isHostKey(path.Base(name)) {
		return nil
	}
	if s.read > secretTotal {
		return fmt.Errorf("search %s: %w: more than %d bytes", printable(s.start), ErrTooLarge, int64(secretTotal))
	}
	f, err := openRegular(tree, name)
	if err != nil {
		return fmt.Errorf("search %s: %w", printable(in.Path), err)
	}
	defer f.Close()
	n, err := io.ReadFull(f, s.buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("search %s: %w", printable(in.Path), cause(err))
	}
	s.read += int64(n)
	if in.Size > int64(n) {
		s.cut++
	}
	if hasPrivateKey(s.buf[:n]) {
		s.found(in, "unencrypted private key")
	}
	return nil
}

func (s *secretSearch) skipped(p string) bool {
	return slices.ContainsFunc(s.Skip, func(d string) bool { return strings.HasPrefix(p, d+"/") })
}

func (s *secretSearch) found(in Info, what string) {
	s.items = append(s.items, Item{Subject: printable(in.Path), Where: printable(in.Path),
		Observed: fmt.Sprintf("%s, mode %s", what, OctalMode(in.Mode)), Expected: "none in an image"})
}

// isHostKey knows the names under which servers keep host keys.
func isHostKey(base string) bool {
	ok, _ := path.Match("ssh_host_*_key", base)
	also, _ := path.Match("dropbear_*_host_key", base)
	return ok || also
}

// hasPrivateKey finds a PEM block with a private key that no passphrase protects. Text that only names the marker (a
// script, a manual) has no base64 after it.
func hasPrivateKey(data []byte) bool {
	for {
		i := bytes.Index(data, []byte("PRIVATE KEY-----"))
		if i < 0 {
			return false
		}
		head := data[max(0, i-32):i]
		data = data[i+len("PRIVATE KEY-----"):]
		j := bytes.LastIndex(head, []byte("-----BEGIN "))
		if j < 0 {
			continue
		}
		label := strings.TrimSpace(string(head[j+len("-----BEGIN "):]))
		if slices.Contains([]string{"", "RSA", "EC", "DSA", "OPENSSH", "ED25519"}, label) && plainKey(label, data) {
			return true
		}
	}
}

// plainKey looks at what follows the marker. Line breaks may be written as \n, as inside JSON and shell strings.
func plainKey(label string, data []byte) bool {
	body := strings.NewReplacer(`\r`, "", `\n`, "\n").Replace(string(data[:min(len(data), 512)]))
	if strings.Contains(body, "ENCRYPTED") {
		return false
	}
	var b64 strings.Builder
	for l := range strings.Lines(body) {
		l = strings.Trim(l, " \t\r\n\"'+,")
		if l == "" && b64.Len() == 0 {
			continue
		}
		if l == "" || strings.HasPrefix(l, "-----") || strings.Trim(l, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") != "" {
			break
		}
		b64.WriteString(l)
	}
	s := b64.String()
	if len(s) < 56 {
		return false
	}
	if label != "OPENSSH" {
		return true
	}
	raw, err := base64.StdEncoding.DecodeString(s[:56])
	return err != nil || bytes.HasPrefix(raw, []byte("openssh-key-v1\x00\x00\x00\x00\x04none"))
}
