// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
)

func operator(t testing.TB, body string) configs.Policy {
	t.Helper()
	p, err := configs.ParsePolicy([]byte(`{"schema":1,"id":"site","serial":7,"issued":"2026-11-01T00:00:00Z","expires":"2027-06-01T00:00:00Z"` + body + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMergeRefusesWhatLoosens(t *testing.T) {
	floor := load(t, "base")
	for i := range floor.Rules {
		switch floor.Rules[i].ID {
		case "kernel.aslr":
			floor.Rules[i].Tunable = configs.TunableNone
		case "kernel.links":
			floor.Rules[i].Tunable = configs.TunableTighten
		}
	}
	waiver := func(rule, expires string) string {
		return `,"waivers":[{"rule":"` + rule + `","reason":"the case is sealed","by":"sec@site","expires":"` + expires + `"}]`
	}
	adjust := func(rule, what string) string { return `,"adjust":[{"rule":"` + rule + `",` + what + `}]` }
	for name, c := range map[string]struct{ body, code, want string }{
		"mode off":          {adjust("mount.tmp", `"mode":"off"`), configs.CodeLoosens, `mode "off" is looser than "enforce"`},
		"mode trial":        {adjust("mount.tmp", `"mode":"trial"`), configs.CodeLoosens, "is looser than"},
		"severity":          {adjust("mount.tmp", `"severity":"low"`), configs.CodeLoosens, `severity "low" is lower than "medium"`},
		"sysctl":            {adjust("kernel.pointers", `"want":{"min":0}`), configs.CodeLoosens, "looser than the floor: min is below 1"},
		"sysctl no limit":   {adjust("kernel.pointers", `"want":{"max":9}`), configs.CodeLoosens, "min is below 1"},
		"sysctl values":     {adjust("kernel.messages", `"want":{"one_of":["0","1"]}`), configs.CodeLoosens, `"0" is allowed`},
		"mount":             {adjust("mount.tmp", `"want":{"options":["nosuid"]}`), configs.CodeLoosens, "nodev is missing"},
		"setuid":            {adjust("file.setuid", `"want":{"allow":["/usr/bin/helper"]}`), configs.CodeLoosens, "/usr/bin/helper may not be allowed"},
		"sshd":              {adjust("ssh.sshd-root-login", `"want":{"one_of":["yes"],"default":"prohibit-password"}`), configs.CodeLoosens, `"yes" is allowed`},
		"sshd default":      {adjust("ssh.sshd-root-login", `"want":{"one_of":["no"],"default":"no"}`), configs.CodeLoosens, "another keyword, default"},
		"dropbear":          {adjust("ssh.dropbear-forwarding", `"want":{"require_all":["-j"]}`), configs.CodeLoosens, "-k is not required"},
		"inetd":             {adjust("service.inetd-login", `"want":{"deny":["ftp"]}`), configs.CodeLoosens, "telnet is missing"},
		"start":             {adjust("service.telnet", `"want":{"deny":["telnetd"]}`), configs.CodeLoosens, "is missing"},
		"console":           {adjust("console.shell", `"want":{"deny":["login"]}`), configs.CodeLoosens, "shell is missing"},
		"files":             {adjust("file.start-scripts", `"want":{"also":[]}`), configs.CodeLoosens, "is missing"},
		"secret skip":       {adjust("key.private", `"want":{"find":["key"],"skip":["/etc"]}`), configs.CodeLoosens, "/etc is left out"},
		"combined":          {adjust("account.file-modes", `"want":{"max":"0777"}`), configs.CodeLoosens, "combines several checks"},
		"hash":              {adjust("account.weak-hash", `"want":{"deny":["descrypt"]}`), configs.CodeLoosens, "bsdicrypt is not denied"},
		"uid zero":          {adjust("account.single-root", `"want":{"allow":["root","toor"]}`), configs.CodeLoosens, "toor is allowed"},
		"pinned":            {adjust("kernel.aslr", `"severity":"critical"`), configs.CodeLoosens, "does not let anybody change it"},
		"unknown rule":      {adjust("mount.tpm", `"mode":"enforce"`), configs.CodeLoosens, `did you mean "mount.tmp"?`},
		"rule again":        {`,"rules":[` + strings.Replace(aRule, "x.y", "kernel.pointers", 1) + `]`, configs.CodeLoosens, "the floor has it"},
		"extends":           {`,"extends":["base"]`, configs.CodeLoosens, "belong to the maker's floor"},
		"omits":             {`,"omits":["mount.tmp"]`, configs.CodeLoosens, "belong to the maker's floor"},
		"waiver days":       {`,"max_waiver_days":700`, configs.CodeLoosens, "belong to the maker's floor"},
		"long waiver":       {waiver("mount.tmp", "2027-11-02T00:00:00Z"), configs.CodeWaiver, "longer than the 365 days"},
		"waiver of tighten": {waiver("kernel.links", "2027-01-01T00:00:00Z"), configs.CodeWaiver, "does not let anybody waive it"},
		"waiver of nothing": {waiver("mount.tpm", "2027-01-01T00:00:00Z"), configs.CodeWaiver, "no such rule"},
		"other floor":       {`,"floor":"camera"`, configs.CodeWrongFloor, `this device has "base"`},
		"fights the floor":  {`,"rules":[` + aRule + `]`, configs.CodeInvalid, "which rule kernel.pointers sets too"},
		"one of two":        {`,"adjust":[{"rule":"mount.tmp","severity":"high"},{"rule":"kernel.links","mode":"audit"}]`, configs.CodeLoosens, "kernel.links"},
	} {
		merged, err := configs.Merge(floor, operator(t, c.body))
		if configs.Code(err) != c.code || !errors.Is(err, configs.ErrRefused) || !strings.Contains(fmt.Sprint(err), c.want) || len(merged.Rules) > 0 {
			t.Errorf("%s: %v (code %q), want %q", name, err, configs.Code(err), c.want)
		}
	}
}

// A policy that does not say when it was issued cannot have waivers: their length is counted from there.
func TestMergeRefusesAWaiverWithoutIssue(t *testing.T) {
	p, err := configs.ParsePolicy([]byte(`{"schema":1,"id":"site","serial":7,"waivers":[{"rule":"mount.tmp","reason":"the case is sealed","by":"sec@site","expires":"2026-12-01T00:00:00Z"}]}`))
	must(t, err)
	if _, err := configs.Merge(load(t, "base"), p); configs.Code(err) != configs.CodeWaiver || !strings.Contains(fmt.Sprint(err), "issued is missing") {
		t.Error(err)
	}
}

func TestMergeTightens(t *testing.T) {
	floor := load(t, "base")
	site := operator(t, `,"floor":"base","defaults":{"mode":"off"},
		"adjust":[{"rule":"mount.tmp","severity":"high","want":{"options":["nosuid","nodev","noexec"]}},{"rule":"console.serial-login","mode":"enforce"}],
		"rules":[{"id":"site.debug","title":"The application is not in debug mode","why":"It then writes passwords to its log.","severity":"high","mode":"enforce",
			"kind":"file-line","target":"/etc/app.conf","want":{"key":"debug","sep":"=","one_of":["0"],"set":"0"},"fix":"fix"}],
		"waivers":[{"rule":"console.shell","match":["ttyS0"],"reason":"RMA console, the case is sealed","by":"sec@site","expires":"2027-02-01T00:00:00Z"}]`)
	p, err := configs.Merge(floor, site)
	must(t, err)
	if p.ID != "site" || p.Serial != 7 || len(p.Rules) != len(floor.Rules)+1 || len(p.Waivers) != 1 {
		t.Errorf("merged: id %s serial %d, %d rules, %d waivers", p.ID, p.Serial, len(p.Rules), len(p.Waivers))
	}
	for _, r := range p.Rules {
		if r.Mode == configs.Off {
			t.Errorf("the operator's default switched %s off", r.ID)
		}
	}
	r, _ := p.Rule("mount.tmp")
	if r.Severity != configs.High || !strings.Contains(string(r.Want), "noexec") {
		t.Errorf("%+v", r)
	}
	if r, _ := floor.Rule("mount.tmp"); r.Severity != configs.Medium || r.Mode != configs.Enforce {
		t.Errorf("the merge changed the floor: %+v", r)
	}
}

func TestCheckSerial(t *testing.T) {
	a, b := [32]byte{1}, [32]byte{2}
	for _, c := range []struct {
		stored, offered configs.Accepted
		code            string
	}{
		{configs.Accepted{}, configs.Accepted{Serial: 1, SHA256: a}, ""},
		{configs.Accepted{Serial: 4, SHA256: a}, configs.Accepted{Serial: 5, SHA256: b}, ""},
		{configs.Accepted{Serial: 4, SHA256: a}, configs.Accepted{Serial: 4, SHA256: a}, ""},
		{configs.Accepted{Serial: 4, SHA256: a}, configs.Accepted{Serial: 4, SHA256: b}, configs.CodeFork},
		{configs.Accepted{Serial: 4, SHA256: a}, configs.Accepted{Serial: 3, SHA256: a}, configs.CodeRollback},
	} {
		if err := configs.CheckSerial(c.stored, c.offered); configs.Code(err) != c.code || (err != nil) != errors.Is(err, configs.ErrRefused) {
			t.Errorf("%d then %d: %v, want code %q", c.stored.Serial, c.offered.Serial, err, c.code)
		}
	}
}

func TestWaivers(t *testing.T) {
	dir, _ := plant(t)
	waiver := `,"waivers":[{"rule":"console.shell","match":["ttyS0"],"reason":"RMA console, the case is sealed","by":"sec@site","expires":"2027-02-01T00:00:00Z"},
		{"rule":"service.inetd-login","match":["telnet"],"reason":"needed until the gateway is replaced","by":"sec@site","expires":"2027-08-01T00:00:00Z"}]`
	p, err := configs.Merge(load(t, "base"), operator(t, waiver))
	must(t, err)
	e := engine(t, dir, p)
	r := check(t, e)
	if f := finding(t, r, "console.shell"); f.Result != configs.Waived || f.Waiver == nil || f.Waiver.By != "sec@site" {
		t.Errorf("%s %v", f.Result, f.Evidence)
	}
	// A waiver of one subject does not cover the others.
	f := finding(t, r, "service.inetd-login")
	if f.Result != configs.Fail || len(f.Evidence) != 2 || !f.Evidence[0].Waived || f.Evidence[1].Waived {
		t.Errorf("%s %v", f.Result, f.Evidence)
	}
	// A fix leaves what is waived.
	r = apply(t, e, false, "console.shell", "service.inetd-login")
	if got := read(t, dir, "etc/inittab"); !strings.Contains(got, "\nttyS0::respawn:-/bin/sh\n") {
		t.Errorf("the waived console was taken away:\n%s", got)
	}
	if got := read(t, dir, "etc/inetd.conf"); !strings.Contains(got, "\ntelnet\t") || !strings.Contains(got, "# disabled by backstay: 21\t") {
		t.Errorf("inetd.conf:\n%s", got)
	}
	if f := finding(t, r, "service.inetd-login"); f.Result != configs.Waived {
		t.Errorf("after the fix: %s %v", f.Result, f.Evidence)
	}
	for _, late := range []time.Time{time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC)} {
		e.Now = func() time.Time { return late }
		if f := finding(t, check(t, e), "console.shell"); f.Result != configs.Fail {
			t.Errorf("on %v the waiver still holds", late)
		}
	}
	// The policy ends before the second waiver does.
	if f := finding(t, check(t, e), "service.inetd-login"); f.Result != configs.Fail {
		t.Errorf("a waiver outlives its policy: %s", f.Result)
	}
}
