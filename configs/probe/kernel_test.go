// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

// conf makes /proc/sys/net/ipv4/conf: "all=1 default=0 eth0=0", and forwarding of an interface as "eth0!=1".
func conf(key, values string, others files) files {
	out := files{"proc/sys/kernel/x": "1\n", "etc/hostname": "x\n"}
	for f := range strings.FieldsSeq(values) {
		n, v, _ := strings.Cut(f, "=")
		name := key
		if i, ok := strings.CutSuffix(n, "!"); ok {
			n, name = i, "forwarding"
		}
		out["proc/sys/net/ipv4/conf/"+n+"/"+name] = v + "\n"
	}
	for k, v := range others {
		out[k] = v
	}
	return out
}

func TestInterfaceParameters(t *testing.T) {
	const (
		rp   = `{"combine":"max","one_of":["1","2"],"set":"2"}`
		or   = `{"combine":"or","one_of":["0"],"set":"0"}`
		and  = `{"combine":"and","one_of":["0"],"set":"0"}`
		red  = `{"combine":"redirects","one_of":["0"],"set":"0"}`
		mins = `{"combine":"min","max":0,"set":"0"}`
		ra   = `{"combine":"ra","one_of":["0"],"set":"0"}`
		redb = `{"combine":"redirects","builtin":1,"one_of":["0"],"set":"0"}`
		key  = "net.ipv4.conf.*.x"
	)
	reader := files{"usr/lib/systemd/systemd-sysctl": "x"}
	with := func(name, text string) files { return files{"usr/lib/systemd/systemd-sysctl": "x", name: text} }
	runChecks(t, map[string]checkCase{
		"max of all":                     {conf("x", "all=2 default=0 eth0=0 lo=0", nil), "sysctl-iface", key, rp, "pass"},
		"max of the interface":           {conf("x", "all=0 default=1 eth0=1", nil), "sysctl-iface", key, rp, "pass"},
		"max of nothing":                 {conf("x", "all=0 default=1 eth0=0", nil), "sysctl-iface", key, rp, "fail; /proc/sys/net/ipv4/conf/eth0/x 0 here and 0 in all is 0 in effect"},
		"only loopback":                  {conf("x", "all=0 default=1 eth0=1 lo=0", nil), "sysctl-iface", key, rp, "pass"},
		"interfaces to come":             {conf("x", "all=0 default=0 eth0=1", nil), "sysctl-iface", key, rp, "fail; /proc/sys/net/ipv4/conf/default/x"},
		"or, all is 0 and the other not": {conf("x", "all=0 default=0 eth0=1", nil), "sysctl-iface", key, or, "fail; /proc/sys/net/ipv4/conf/eth0/x"},
		"or, all":                        {conf("x", "all=1 default=0 eth0=0", nil), "sysctl-iface", key, or, "fail"},
		"and, all alone":                 {conf("x", "all=0 default=1 eth0=1", nil), "sysctl-iface", key, and, "pass"},
		"and, both":                      {conf("x", "all=1 default=0 eth0=1", nil), "sysctl-iface", key, and, "fail; /proc/sys/net/ipv4/conf/eth0/x"},
		"redirects of a host":            {conf("x", "all=0 default=0 eth0=1", nil), "sysctl-iface", key, red, "fail"},
		"redirects of a router":          {conf("x", "all=0 default=0 eth0=1 eth0!=1 all!=1 default!=1", nil), "sysctl-iface", key, red, "pass"},
		"min, negative is closed":        {conf("x", "all=-1 default=1 eth0=1", nil), "sysctl-iface", key, mins, "pass"},
		"advertisements to a router":     {conf("x", "all=1 default=0 eth0=1 eth0!=1", nil), "sysctl-iface", key, ra, "pass"},
		"advertisements, hybrid":         {conf("x", "all=0 default=0 eth0=2 eth0!=1", nil), "sysctl-iface", key, ra, "fail"},
		"the next start is worse":        {conf("x", "all=0 default=0 eth0=0", with("etc/sysctl.d/a.conf", "net.ipv4.conf.all.x = 1\n")), "sysctl-iface", key, or, "fail; /etc/sysctl.d/a.conf:1"},
		"a name with a dot":              {conf("x", "all=0 default=0 eth0.7=0", with("etc/sysctl.conf", "net.ipv4.conf.eth0/7.x = 1\n")), "sysctl-iface", key, or, "fail; /etc/sysctl.conf:1"},
		"a pattern":                      {conf("x", "all=0 default=0 eth0=0", with("etc/sysctl.conf", "net.ipv4.conf.*.x = 1\n-net.ipv4.conf.all.x\nnet.ipv4.conf.default.x=0\n")), "sysctl-iface", key, or, "fail; /etc/sysctl.conf:1 1 here and 0 in all"},
		"a named key beats a pattern":    {conf("x", "all=0 default=0 eth0=0", with("etc/sysctl.conf", "net.ipv4.conf.eth0.x=0\nnet.ipv4.conf.all.x=0\nnet.ipv4.conf.default.x=0\nnet.ipv4.conf.*.x = 1\n")), "sysctl-iface", key, or, "pass"},
		"not built":                      {files{"proc/sys/kernel/x": "1"}, "sysctl-iface", key, or, "not-applicable"},
		"no number":                      {conf("x", "all=y", nil), "sysctl-iface", key, or, "unknown"},
		"image, decided by all":          {with("etc/sysctl.conf", "net.ipv4.conf.all.x=0\n"), "sysctl-iface", key, and, "pass"},
		"image, all alone does not":      {with("etc/sysctl.conf", "net.ipv4.conf.all.x=0\n"), "sysctl-iface", key, or, "unknown"},
		"image, bad":                     {files{"etc/sysctl.conf": "net.ipv4.conf.all.x=1\n"}, "sysctl-iface", key, or, "fail; /etc/sysctl.conf:1"},
		"image, a host by all":           {files{"etc/sysctl.conf": "net.ipv4.conf.all.x=1\n"}, "sysctl-iface", key, red, "unknown"},
		"image, a router by all":         {files{"etc/sysctl.conf": "net.ipv4.ip_forward=1\nnet.ipv4.conf.all.x=1\n"}, "sysctl-iface", key, red, "unknown"},
		"image, a router, builtin":       {files{"etc/sysctl.conf": "net.ipv4.ip_forward=1\nnet.ipv4.conf.all.x=1\n"}, "sysctl-iface", key, redb, "fail; /etc/sysctl.conf:2"},
		"image, either, builtin":         {files{"etc/sysctl.conf": "net.ipv4.conf.all.x=1\n"}, "sysctl-iface", key, redb, "fail; /etc/sysctl.conf:1"},
		"image, own value, builtin":      {with("etc/sysctl.conf", "net.ipv4.ip_forward=1\nnet.ipv4.conf.all.x=1\nnet.ipv4.conf.default.x=0\n"), "sysctl-iface", key, redb, "pass"},
		"image, forwarding clears it":    {with("etc/sysctl.conf", "net.ipv4.conf.all.x=1\nnet.ipv4.ip_forward=1\n"), "sysctl-iface", key, redb, "pass"},
		"image, nothing, builtin":        {reader, "sysctl-iface", key, redb, "unknown"},
		"image, nothing":                 {reader, "sysctl-iface", key, or, "unknown"},
		"image, nothing reads the file":  {files{"etc/sysctl.conf": "net.ipv4.conf.all.x=0\n"}, "sysctl-iface", key, and, "unknown"},
		"value that nothing reads":       {files{"etc/sysctl.conf": "kernel.a=2\n"}, "sysctl", "kernel.a", `{"one_of":["2"]}`, "unknown"},
		"value that no script reads":     {files{"etc/sysctl.conf": "kernel.a=2\n", "etc/inittab": "::sysinit:/bin/true\n"}, "sysctl", "kernel.a", `{"one_of":["2"]}`, "unknown"},
		"bad value that nothing reads":   {files{"etc/sysctl.conf": "kernel.a=1\n"}, "sysctl", "kernel.a", `{"one_of":["2"]}`, "fail; /etc/sysctl.conf:1"},
		"read by a script":               {files{"etc/sysctl.conf": "kernel.a=2\n", "etc/init.d/S01x": "#!/bin/sh\nsysctl -p\n", "etc/init.d/rcS": "#!/bin/sh\nfor i in /etc/init.d/S??*; do $i start; done\n", "etc/inittab": "::sysinit:/etc/init.d/rcS\n"}, "sysctl", "kernel.a", `{"one_of":["2"]}`, "pass"},
		"first word":                     {files{"proc/sys/kernel/printk": "4\t4\t1\t7\n"}, "sysctl", "kernel.printk", `{"max":4,"first":true}`, "pass"},
		"first word is loud":             {files{"proc/sys/kernel/printk": "7\t4\t1\t7\n"}, "sysctl", "kernel.printk", `{"max":4,"first":true}`, "fail"},
		"an exception is no value":       {files{"proc/sys/kernel/a": "1\n", "etc/sysctl.conf": "-kernel.a\n"}, "sysctl", "kernel.a", `{"one_of":["1"]}`, "pass"},
		"a hidden file":                  {files{"proc/sys/kernel/a": "1\n", "etc/sysctl.d/a.conf": "-> /dev/null", "usr/lib/sysctl.d/a.conf": "kernel.a=0\n"}, "sysctl", "kernel.a", `{"one_of":["1"]}`, "pass"},
		"one file under two names":       {files{"proc/sys/kernel/a": "1\n", "etc/sysctl.d/99.conf": "-> ../sysctl.conf", "etc/sysctl.conf": "kernel.a=0\n"}, "sysctl", "kernel.a", `{"one_of":["1"]}`, "fail; /etc/sysctl.conf:1"},
		"a key that the kernel lacks":    {files{"proc/sys/kernel/x": "1\n", "etc/sysctl.conf": "kernel.a=0\n"}, "sysctl", "kernel.a", `{"one_of":["1"]}`, "not-applicable"},
	})
}

// A fix writes all and default first, then only what is still not as wanted, and the next check passes.
func TestInterfaceFix(t *testing.T) {
	all := func(string) bool { return true }
	for name, c := range map[string]struct {
		files      files
		want, plan string
	}{
		"max":   {conf("x", "all=0 default=0 eth0=0 lo=0", nil), `{"combine":"max","min":1,"set":"2"}`, "create /etc/sysctl.conf, kernel all/x, kernel default/x"},
		"or":    {conf("x", "all=0 default=0 eth0=1 eth1=0", nil), `{"combine":"or","one_of":["0"],"set":"0"}`, "create /etc/sysctl.conf, kernel eth0/x"},
		"and":   {conf("x", "all=1 default=1 eth0=1", nil), `{"combine":"and","one_of":["0"],"set":"0"}`, "create /etc/sysctl.conf, kernel all/x, kernel default/x"},
		"files": {conf("x", "all=0 default=0 eth0=0", files{"etc/sysctl.conf": "net.ipv4.conf.all.x=1 \nkernel.y=1\n"}), `{"combine":"or","one_of":["0"],"set":"0"}`, "edit /etc/sysctl.conf"},
		"one interface in a file": {conf("x", "all=0 default=0 eth0=0", files{"etc/sysctl.conf": "net.ipv4.conf.eth0.x=1\n"}), `{"combine":"or","one_of":["0"],"set":"0"}`,
			"edit /etc/sysctl.conf"},
	} {
		h := host(t, tree(t, c.files))
		check := newCheck(t, "sysctl-iface", "net.ipv4.conf.*.x", c.want)
		plan, err := check.Fix(context.Background(), h, all)
		must(t, err)
		var got []string
		for _, p := range plan {
			got = append(got, string(p.Op)+" "+strings.TrimPrefix(p.Path, "/proc/sys/net/ipv4/conf/"))
			h.Pretend(p)
		}
		if s := strings.Join(got, ", "); s != c.plan {
			t.Errorf("%s: the plan is %s, want %s", name, s, c.plan)
		}
		if v := check.Check(context.Background(), h); v.Result != probe.Pass {
			t.Errorf("%s: after the fix %s", name, brief(v))
		}
		if plan, err = check.Fix(context.Background(), h, all); err != nil || len(plan) > 0 {
			t.Errorf("%s: a second fix plans %v %v", name, plan, err)
		}
	}
}

// A parameter that only a restart takes back is not written into a file.
func TestOneWayParameter(t *testing.T) {
	h := host(t, tree(t, files{"proc/sys/kernel/a": "0\n", "etc/sysctl.conf": "# empty\n"}))
	c := newCheck(t, "sysctl", "kernel.a", `{"one_of":["1"],"set":"1","one_way":true}`)
	plan, err := c.Fix(context.Background(), h, func(string) bool { return true })
	must(t, err)
	if len(plan) != 1 || plan[0].Op != probe.Kernel || !plan[0].OneWay {
		t.Errorf("plan is %+v", plan)
	}
}
