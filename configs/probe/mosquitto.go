// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

const mosquittoConf = "/etc/mosquitto/mosquitto.conf"

// mosquittoCheck wants the MQTT broker to ask who is there.
type mosquittoCheck struct {
	Find []string `json:"find"` // anonymous, plain
}

func mosquittoKind() Kind {
	return Kind{
		Name: "mosquitto", Target: `"listeners"`,
		Want: `{"find": ["anonymous", "plain"]}; required: a listener that lets clients in without a name, one without TLS. What only this device reaches does not count. Before version 2 the built-in default lets everybody in`,
		Fix:  "write allow_anonymous false; a listener without TLS is left to a person, who has the certificate",
		New: func(target string, want []byte) (Check, error) {
			var c mosquittoCheck
			if err := decodeWant(want, &c); err != nil {
				return nil, err
			}
			if target != "listeners" {
				return nil, errors.New(`target: want "listeners"`)
			}
			if f, ok := subset(c.Find, []string{"anonymous", "plain"}); !ok || len(c.Find) == 0 {
				return nil, fmt.Errorf("want.find: %q, want anonymous or plain", f)
			}
			return c, nil
		},
	}
}

func (c mosquittoCheck) Claims() []string { return prefixed("mosquitto:", c.Find) }

func (c mosquittoCheck) Tightens(old Check) error {
	o, ok := old.(mosquittoCheck)
	if !ok {
		return errors.New("another kind")
	}
	if f, ok := subset(o.Find, c.Find); !ok {
		return fmt.Errorf("%s is not searched for", f)
	}
	return nil
}

// broker is what the configuration says.
type broker struct {
	files     []string
	listeners []brokerListener
	perListen bool
	anonymous mqttFlag // for all listeners, unless per_listener_settings is on
}

type mqttFlag struct {
	set, on bool
	file    string
	line    int
}

type brokerListener struct {
	name      string // port and address, as written
	file      string
	line      int
	bind      string
	local     bool // a unix socket
	tls       bool
	anonymous mqttFlag
}

func (l brokerListener) loopback() bool {
	if l.local || l.bind == "localhost" || l.bind == "lo" {
		return true
	}
	ip, err := netip.ParseAddr(l.bind)
	return err == nil && ip.IsLoopback()
}

// readBroker reads mosquitto.conf and its include_dir.
func readBroker(ctx context.Context, h *Host) (b broker, err error) {
	queue := []string{mosquittoConf}
	for i := 0; i < len(queue) && i < maxStartFiles; i++ {
		data, err := h.Read(ctx, queue[i])
		if err != nil {
			return b, err
		}
		file, err := h.Resolve(queue[i])
		if err != nil {
			return b, err
		}
		b.files = append(b.files, file)
		for _, dir := range b.parse(file, data) {
			more, err := h.expand([]string{path.Join(dir, "*.conf")})
			if err != nil {
				return b, err
			}
			for _, m := range more {
				if !slices.Contains(queue, m) {
					queue = append(queue, m)
				}
			}
		}
	}
	return b, nil
}

// parse adds one file and returns the directories it includes.
func (b *broker) parse(file string, data []byte) (include []string) {
	cur := func() *brokerListener {
		if len(b.listeners) == 0 {
			b.listeners = append(b.listeners, brokerListener{name: "1883", file: file, line: 1, bind: ""})
			b.listeners[0].name = ""
		}
		return &b.listeners[len(b.listeners)-1]
	}
	n := 0
	for l := range bytes.Lines(data) {
		n++
		f := strings.Fields(string(l))
		if len(f) == 0 || strings.HasPrefix(f[0], "#") || len(b.listeners) > maxVariables {
			continue
		}
		arg := func(i int) string {
			if i < len(f) {
				return f[i]
			}
			return ""
		}
		switch f[0] {
		case "include_dir":
			include = append(include, arg(1))
		case "per_listener_settings":
			b.perListen = arg(1) == "true"
		case "listener":
			if arg(1) == "" {
				continue
			}
			b.listeners = append(b.listeners, brokerListener{name: strings.Join(f[1:], " "), file: file, line: n, bind: arg(2), local: arg(1) == "0" && strings.HasPrefix(arg(2), "/")})
		case "port":
			if len(b.listeners) == 0 {
				c := cur()
				c.name, c.line = arg(1), n
			}
		case "bind_address", "bind_interface":
			cur().bind = arg(1)
		case "certfile", "psk_hint":
			cur().tls = true
		case "allow_anonymous":
			v := mqttFlag{true, arg(1) == "true", file, n}
			b.anonymous = v
			if len(b.listeners) > 0 {
				cur().anonymous = v
			}
		}
	}
	return include
}

// version is the main version of the broker in the tree, 0 when it cannot be told: packages know it, and the program itself
// has it as a text of its own.
func brokerVersion(ctx context.Context, h *Host, program string) int {
	for _, db := range []string{"/var/lib/dpkg/status", "/usr/lib/opkg/status", "/lib/apk/db/installed"} {
		data, err := h.Read(ctx, db)
		if err != nil {
			continue
		}
		for _, name := range []string{"\nPackage: mosquitto\n", "\nPackage: mosquitto-ssl\n", "\nPackage: mosquitto-nossl\n", "\nP:mosquitto\n"} {
			i := bytes.Index(append([]byte("\n"), data...), []byte(name))
			if i < 0 {
				continue
			}
			block, _, _ := strings.Cut(string(data[min(i, len(data)):]), "\n\n")
			for l := range strings.Lines(block) {
				for _, k := range []string{"Version: ", "V:"} {
					if v, ok := strings.CutPrefix(l, k); ok && len(v) > 1 {
						if v = v[strings.IndexByte(v, ':')+1:]; v[0] >= '0' && v[0] <= '9' {
							return int(v[0] - '0')
						}
					}
				}
			}
		}
	}
	return h.versionIn(ctx, program)
}

// versionIn looks in a program for a text that is nothing but a version 1.x.y or 2.x.y.
func (h *Host) versionIn(ctx context.Context, program string) int {
	p, err := h.Resolve(program)
	if err != nil {
		return 0
	}
	f, err := openRegular(h.tree, rel(p))
	if err != nil {
		return 0
	}
	defer f.Close()
	found := 0
	_, err = h.inPieces(ctx, f, func(piece []byte, _ bool) bool {
		for i := 0; i+6 < len(piece) && found == 0; i++ {
			if piece[i] == 0 && (piece[i+1] == '1' || piece[i+1] == '2') && piece[i+2] == '.' {
				end := bytes.IndexByte(piece[i+1:], 0)
				if end >= 5 && end <= 8 && bytes.Count(piece[i+1:i+1+end], []byte(".")) == 2 && len(bytes.Trim(piece[i+1:i+1+end], "0123456789.")) == 0 {
					found = int(piece[i+1] - '0')
				}
			}
		}
		return found == 0
	})
	if err != nil {
		return 0
	}
	return found
}

func (c mosquittoCheck) Check(ctx context.Context, h *Host) Verdict {
	program := h.findProgram("mosquitto")
	b, err := readBroker(ctx, h)
	if !h.Exists(mosquittoConf) {
		if program == "" {
			return notApplicable("no mosquitto, and " + mosquittoConf + " is not there")
		}
		b, err = broker{files: []string{program}}, nil
	}
	if err != nil {
		return unknown(err)
	}
	version := brokerVersion(ctx, h, program)
	items, unclear := c.bad(b, version)
	if unclear && len(items) == 0 {
		return Verdict{Result: Unknown, Reason: "allow_anonymous is not set, and the version of mosquitto, which decides the default, is not known", Implementation: "mosquitto"}
	}
	v := judged(items, fmt.Sprintf("%d listeners, each as wanted", len(b.listeners)), b.files...)
	v.Implementation = "mosquitto"
	return v
}

// bad judges each listener. Without any, version 2 serves this device alone, and older ones everybody on port 1883.
func (c mosquittoCheck) bad(b broker, version int) (items []Item, unclear bool) {
	list := b.listeners
	if len(list) == 0 {
		list = []brokerListener{{name: "1883", file: b.files[0], anonymous: b.anonymous}}
		if version >= 2 {
			return nil, false
		}
		unclear = version == 0
		if unclear {
			return nil, true
		}
	}
	for _, l := range list {
		if l.loopback() {
			continue
		}
		a := b.anonymous
		if b.perListen {
			a = l.anonymous
		}
		name := "listener " + l.name
		where := printable(l.file)
		if l.line > 0 {
			where = at(l.file, l.line)
		}
		if slices.Contains(c.Find, "anonymous") {
			switch {
			case a.set && a.on:
				items = append(items, Item{Subject: printable(name), Where: at(a.file, a.line), Observed: "allow_anonymous true", Expected: "allow_anonymous false"})
			case !a.set && version == 0:
				unclear = true
			case !a.set && version < 2:
				items = append(items, Item{Subject: printable(name), Where: where, Observed: "allow_anonymous is not set, which means true before version 2", Expected: "allow_anonymous false"})
			}
		}
		if slices.Contains(c.Find, "plain") && !l.tls {
			items = append(items, Item{Subject: printable(name), Where: where, Observed: "no certfile: clear text", Expected: "TLS, or loopback"})
		}
	}
	return items, unclear
}

func (c mosquittoCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if !slices.Contains(c.Find, "anonymous") {
		return nil, ErrNoFix
	}
	b, err := readBroker(ctx, h)
	if err != nil {
		return nil, err
	}
	items, unclear := mosquittoCheck{Find: []string{"anonymous"}}.bad(b, brokerVersion(ctx, h, h.findProgram("mosquitto")))
	items = slices.DeleteFunc(items, func(i Item) bool { return !want(i.Subject) })
	if len(items) == 0 || unclear {
		return nil, nil
	}
	var out []Change
	for _, f := range b.files {
		t, err := openText(ctx, h, f)
		if err != nil {
			return nil, err
		}
		for n := len(t.lines); n > 0; n-- {
			w := strings.Fields(t.line(n))
			if slices.ContainsFunc(items, func(i Item) bool { return i.Where == at(f, n) }) && len(w) > 1 && w[0] == "allow_anonymous" {
				t.set(n, "allow_anonymous false")
			}
			if len(w) > 1 && w[0] == "listener" && b.perListen && slices.ContainsFunc(items, func(i Item) bool { return i.Where == at(f, n) }) && !b.at(f, n).anonymous.set {
				t.insert(n+1, "allow_anonymous false")
			}
		}
		if f == b.files[0] && (!b.perListen || len(b.listeners) == 0) && !b.anonymous.set {
			t.insert(1, "allow_anonymous false")
		}
		out = append(out, t.changes(true)...)
	}
	return out, nil
}

// at is the listener whose line is n.
func (b broker) at(file string, n int) brokerListener {
	for _, l := range b.listeners {
		if l.file == file && l.line == n {
			return l
		}
	}
	return brokerListener{}
}
