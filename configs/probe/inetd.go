// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

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

// denied gives the denied service of an entry, "" for none.
func (c inetdCheck) denied(e superService) string {
	service := e.name[strings.LastIndexByte(e.name, ':')+1:] // address:service
	for _, d := range c.Deny {
		also := services(d)
		if service == d || slices.Contains(also, service) || slices.Contains(also, path.Base(e.server)) || slices.Contains(also, path.Base(e.program)) {
			return d
		}
	}
	return ""
}

// fresh reads the super-servers alone: other start sources that cannot be read do not matter here.
func (c inetdCheck) read(ctx context.Context, h *Host) (list []superService, read []string, err error) {
	r := &startReader{ctx: ctx, h: h, f: &startFacts{}, seen: map[string]bool{}}
	list = r.superServices()
	return list, r.f.read, errors.Join(r.f.errs...)
}

func (c inetdCheck) Check(ctx context.Context, h *Host) Verdict {
	list, read, err := c.read(ctx, h)
	if len(read) == 0 && err == nil {
		return notApplicable("no inetd.conf and no xinetd.conf: nothing is started by a super-server")
	}
	var items []Item
	for _, e := range list {
		if d := c.denied(e); d != "" && e.on {
			items = append(items, Item{Subject: d, Where: at(e.file, e.line), Observed: printable(e.name + " " + e.server), Expected: "not offered"})
		}
	}
	if err != nil && len(items) == 0 {
		return unknown(err)
	}
	v := judged(items, "none of "+strings.Join(c.Deny, ", ")+" is offered", read...)
	v.Implementation = "inetd"
	if list != nil {
		v.Implementation = list[0].source
	}
	return v
}

func (c inetdCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	list, _, err := c.read(ctx, h)
	var stop []start
	for _, e := range list {
		if d := c.denied(e); d != "" && e.on && want(d) {
			stop = append(stop, start{source: e.source, file: e.file, line: e.line, entry: e.name, words: e.words, enabled: true})
		}
	}
	out, ferr := neutralise(ctx, h, stop)
	return out, errors.Join(err, ferr)
}
