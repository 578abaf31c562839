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

// inetdLine is one service of inetd.conf.
type inetdLine struct {
	line                     int
	service, server, program string // program is the first argument, which names the applet of a busybox
}

// parseInetd reads the services: service type protocol wait user server args.
func parseInetd(data []byte) []inetdLine {
	var out []inetdLine
	n := 0
	for l := range bytes.Lines(data) {
		n++
		f := strings.Fields(string(l))
		if len(f) < 6 || strings.HasPrefix(f[0], "#") {
			continue
		}
		e := inetdLine{line: n, service: f[0], server: f[5]}
		if len(f) > 6 {
			e.program = f[6]
			if path.Base(f[6]) == "busybox" && len(f) > 7 {
				e.program = f[7]
			}
		}
		out = append(out, e)
	}
	return out
}

// services gives the ports and programs of a service beside its name.
func services(name string) []string {
	return map[string][]string{
		"telnet": {"23", "telnetd", "in.telnetd", "utelnetd"}, "ftp": {"21", "ftpd", "in.ftpd", "vsftpd", "proftpd"},
		"tftp": {"69", "tftpd", "in.tftpd"}, "shell": {"514", "rshd", "in.rshd"}, "login": {"513", "rlogind", "in.rlogind"},
		"exec": {"512", "rexecd", "in.rexecd"}, "echo": {"7"}, "discard": {"9"}, "daytime": {"13"}, "chargen": {"19"}, "time": {"37"},
		"finger": {"79", "fingerd", "in.fingerd"}, "talk": {"517", "talkd"}, "ntalk": {"518", "ntalkd"}, "netstat": {"15"}, "systat": {"11"},
	}[name]
}

type inetdCheck struct {
	Deny []string `json:"deny"`
}

func inetdKind() Kind {
	return Kind{
		Name: "inetd", Target: `"inetd": /etc/inetd.conf and the files in /etc/inetd.d`,
		Want: `{"deny": [services]} by name; their ports and servers count as well; required`,
		Fix:  "put the line out of use",
		New: func(target string, want []byte) (Check, error) {
			var c inetdCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "inetd" {
				return nil, errors.New(`target: want "inetd"`)
			}
			if len(c.Deny) == 0 {
				return nil, errors.New("want.deny: name at least one service")
			}
			return c, nil
		},
	}
}

func (c inetdCheck) Claims() []string { return prefixed("inetd:", c.Deny) }

func (c inetdCheck) Tightens(old Check) error {
	o, ok := old.(inetdCheck)
	if !ok {
		return errors.New("another kind")
	}
	if p, ok := subset(o.Deny, c.Deny); !ok {
		return fmt.Errorf("%s is missing", p)
	}
	return nil
}

// denied gives the denied service of a line, "" for none.
func (c inetdCheck) denied(e inetdLine) string {
	service := e.service[strings.LastIndexByte(e.service, ':')+1:] // address:service
	for _, d := range c.Deny {
		also := services(d)
		if service == d || slices.Contains(also, service) || slices.Contains(also, path.Base(e.server)) || slices.Contains(also, path.Base(e.program)) {
			return d
		}
	}
	return ""
}

// files lists the configuration files that are there.
func (c inetdCheck) files(h *Host) ([]string, error) {
	var out []string
	if h.Exists("/etc/inetd.conf") {
		out = append(out, "/etc/inetd.conf")
	}
	names, err := h.Names("/etc/inetd.d", maxStartFiles)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	for _, n := range names {
		out = append(out, path.Join("/etc/inetd.d", n))
	}
	return out, err
}

func (c inetdCheck) Check(ctx context.Context, h *Host) Verdict {
	files, err := c.files(h)
	if err != nil {
		return unknown(err)
	}
	if len(files) == 0 {
		if h.Exists("/etc/xinetd.conf") {
			return Verdict{Result: Unknown, Reason: "/etc/xinetd.conf is there: xinetd is not understood yet"}
		}
		return notApplicable("no inetd.conf: nothing is started by inetd")
	}
	var items []Item
	var read []string
	for _, f := range files {
		data, err := h.Read(ctx, f)
		if errors.Is(err, ErrNotRegular) {
			continue
		}
		if err != nil {
			return unknown(err)
		}
		read = append(read, printable(f))
		for _, e := range parseInetd(data) {
			if d := c.denied(e); d != "" {
				items = append(items, Item{Subject: d, Where: at(f, e.line), Observed: printable(e.service + " " + e.server), Expected: "not offered"})
			}
		}
	}
	v := judged(items, "none of "+strings.Join(c.Deny, ", ")+" is offered", read...)
	v.Implementation = "inetd"
	return v
}

func (c inetdCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	files, err := c.files(h)
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, f := range files {
		t, err := openText(ctx, h, f)
		if errors.Is(err, ErrNotRegular) {
			continue
		}
		if err != nil {
			return out, err
		}
		for _, e := range parseInetd(t.before) {
			if d := c.denied(e); d != "" && want(d) {
				t.disable(e.line)
			}
		}
		out = append(out, t.changes(true)...)
	}
	return out, nil
}
