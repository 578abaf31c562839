// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

// initProcess makes /proc look alive.
var initProcess = files{"proc/1/stat": "1 (init) S 0 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 5 1 1", "proc/1/cmdline": "init\x00", "proc/1/exe": "-> /sbin/init"}

func TestDevice(t *testing.T) {
	with := func(more files) files {
		out := files{}
		for n, text := range initProcess {
			out[n] = text
		}
		for n, text := range more {
			out[n] = text
		}
		return out
	}
	bt := func(text string) files {
		return files{"usr/sbin/bluetoothd": "#!", "etc/bluetooth/main.conf": text}
	}
	const rf, usb, netdev = "sys/class/rfkill/rfkill0/", "sys/bus/usb/devices/", "sys/class/net/"
	for name, c := range map[string]struct {
		files          files
		aspect, result string
	}{
		"promiscuous, none":           {files{netdev + "eth0/flags": "0x1003\n"}, "promiscuous", "pass"},
		"promiscuous":                 {files{netdev + "eth0/flags": "0x1103\n", netdev + "lo/flags": "0x9\n"}, "promiscuous", "fail; /sys/class/net/eth0/flags takes"},
		"promiscuous, a bridge port":  {files{netdev + "eth0/flags": "0x1103\n", netdev + "eth0/brport/state": "3"}, "promiscuous", "pass"},
		"promiscuous, a bridge":       {files{netdev + "br0/flags": "0x1103\n", netdev + "br0/bridge/stp_state": "0"}, "promiscuous", "pass"},
		"promiscuous, nothing there":  {nil, "promiscuous", "not-applicable"},
		"radio, none":                 {initProcess, "radio", "not-applicable"},
		"radio, on and unused":        {with(files{rf + "type": "wlan\n", rf + "soft": "0\n", rf + "hard": "0\n"}), "radio", "fail; /sys/class/rfkill/rfkill0 wlan is on"},
		"radio, blocked":              {with(files{rf + "type": "wlan\n", rf + "soft": "1\n", rf + "hard": "0\n"}), "radio", "pass"},
		"radio, switched off by hand": {with(files{rf + "type": "wlan\n", rf + "soft": "0\n", rf + "hard": "1\n"}), "radio", "pass"},
		"radio, has a network":        {with(files{rf + "type": "wlan\n", rf + "soft": "0\n", "etc/hostapd.conf": goodAP}), "radio", "pass"},
		"radio, settings without one": {with(files{rf + "type": "wlan\n", rf + "soft": "0\n", "etc/wpa_supplicant.conf": "ctrl_interface=/run/w\n"}), "radio", "fail"},
		"radio, its interface is up":  {with(files{rf + "type": "wlan\n", rf + "soft": "0\n", netdev + "wlan0/phy80211/name": "phy0", netdev + "wlan0/operstate": "up\n"}), "radio", "pass"},
		"radio, another is up":        {with(files{rf + "type": "wlan\n", rf + "soft": "0\n", netdev + "eth0/operstate": "up\n"}), "radio", "fail"},
		"radio, Bluetooth, no daemon": {with(files{rf + "type": "bluetooth\n", rf + "soft": "0\n"}), "radio", "fail; /sys/class/rfkill/rfkill0 bluetooth is on"},
		"radio, Bluetooth in use": {with(files{rf + "type": "bluetooth\n", rf + "soft": "0\n", "proc/2/stat": "2 (bluetoothd) S 1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 5 1 1",
			"proc/2/cmdline": "/usr/sbin/bluetoothd\x00", "proc/2/exe": "-> /usr/sbin/bluetoothd"}), "radio", "pass"},
		"radio, of another kind":     {with(files{rf + "type": "wwan\n", rf + "soft": "0\n"}), "radio", "pass"},
		"Bluetooth, none":            {nil, "bluetooth", "not-applicable"},
		"Bluetooth, settings alone":  {files{"etc/bluetooth/main.conf": "[General]\nAlwaysPairable=true\n"}, "bluetooth", "not-applicable"},
		"Bluetooth, built in":        {files{"usr/sbin/bluetoothd": "#!"}, "bluetooth", "pass"},
		"Bluetooth, stock":           {bt("[General]\n#DiscoverableTimeout = 0\n#AlwaysPairable = true\n"), "bluetooth", "pass"},
		"Bluetooth, visible":         {bt("[General]\nDiscoverableTimeout = 0\n"), "bluetooth", "fail; /etc/bluetooth/main.conf:2 0: once visible"},
		"Bluetooth, pairable":        {bt("[General]\n AlwaysPairable=True\n"), "bluetooth", "fail; /etc/bluetooth/main.conf:2 True: anybody"},
		"Bluetooth, re-pairing":      {bt("[General]\nJustWorksRepairing = always\n"), "bluetooth", "fail; /etc/bluetooth/main.conf:2 always"},
		"Bluetooth, another section": {bt("[General]\n[Policy]\nDiscoverableTimeout = 0\n"), "bluetooth", "pass"},
		"USB, none":                  {nil, "usb-authorize", "not-applicable"},
		"USB":                        {files{usb + "usb1/authorized_default": "1\n", usb + "usb2/authorized_default": "2\n", usb + "1-1/bInterfaceClass": "08"}, "usb-authorize", "fail; /sys/bus/usb/devices/usb1/authorized_default every"},
		"USB, closed":                {files{usb + "usb1/authorized_default": "0\n"}, "usb-authorize", "pass"},
		"USB, wireless":              {files{usb + "usb1/authorized_default": "-1\n"}, "usb-authorize", "fail"},
		"keyboard":                   {files{usb + "1-1:1.0/bInterfaceClass": "03\n"}, "usb-keyboard", "fail; /sys/bus/usb/devices/1-1:1.0 a keyboard"},
		"keyboard, display":          {files{usb + "1-1:1.0/bInterfaceClass": "03\n", "sys/class/drm/card0-HDMI-A-1/status": "connected\n"}, "usb-keyboard", "not-applicable"},
		"keyboard, no display":       {files{usb + "1-1:1.0/bInterfaceClass": "03\n", "sys/class/drm/card0-HDMI-A-1/status": "disconnected\n"}, "usb-keyboard", "fail"},
		"keyboard, a stick":          {files{usb + "1-1:1.0/bInterfaceClass": "08\n"}, "usb-keyboard", "pass"},
		"keyboard, no USB":           {nil, "usb-keyboard", "not-applicable"},
	} {
		h := liveHost(t, tree(t, c.files))
		v := newCheck(t, "device", c.aspect, "").Check(context.Background(), h)
		if got := brief(v); !strings.HasPrefix(got, c.result) {
			t.Errorf("%s: %s (%s)", name, got, v.Reason)
		}
	}
}

func TestDeviceFixes(t *testing.T) {
	ctx, all := context.Background(), func(string) bool { return true }
	for aspect, c := range map[string]struct {
		files         files
		name, becomes string
	}{
		"radio":         {files{"sys/class/rfkill/rfkill0/type": "wlan\n", "sys/class/rfkill/rfkill0/soft": "0\n"}, "sys/class/rfkill/rfkill0/soft", "1\n"},
		"usb-authorize": {files{"sys/bus/usb/devices/usb1/authorized_default": "1\n"}, "sys/bus/usb/devices/usb1/authorized_default", "2\n"},
		"bluetooth":     {files{"usr/sbin/bluetoothd": "#!", "etc/bluetooth/main.conf": "# x\n[General]\nAlwaysPairable=true\nName=a"}, "etc/bluetooth/main.conf", "# x\n[General]\nAlwaysPairable = false\nName=a"},
	} {
		for n, text := range initProcess {
			c.files[n] = text
		}
		dir := tree(t, c.files)
		h := liveHost(t, dir)
		check := newCheck(t, "device", aspect, "")
		plan, err := check.Fix(ctx, h, all)
		if err != nil || len(plan) != 1 {
			t.Errorf("%s: %v %+v", aspect, err, plan)
			continue
		}
		must(t, h.Apply(ctx, plan[0]))
		data, err := os.ReadFile(filepath.Join(dir, c.name))
		must(t, err)
		if string(data) != c.becomes {
			t.Errorf("%s: %q", aspect, data)
		}
		if v := check.Check(ctx, h); v.Result != probe.Pass {
			t.Errorf("%s: after the fix %+v", aspect, v)
		}
		if plan, err := check.Fix(ctx, h, all); err != nil || len(plan) != 0 {
			t.Errorf("%s: a second fix: %v %+v", aspect, err, plan)
		}
	}
}

func TestModules(t *testing.T) {
	const ko, conf, want = "lib/modules/6.1/kernel/net/dccp/dccp.ko.xz", "etc/modprobe.d/a.conf", `{"names":["dccp","usb-storage"]}`
	for name, c := range map[string]struct {
		files  files
		result string
	}{
		"no modules":                    {files{"sbin/modprobe": "#!"}, "not-applicable"},
		"others":                        {files{"lib/modules/6.1/kernel/fs/squashfs.ko": "m"}, "pass"},
		"there":                         {files{ko: "m"}, "fail; /lib/modules/6.1/kernel/net/dccp/dccp.ko.xz can be loaded"},
		"an underscore":                 {files{"lib/modules/6.1/usb_storage.ko.gz": "m"}, "fail; /lib/modules/6.1/usb_storage.ko.gz"},
		"a name that begins so":         {files{"lib/modules/6.1/dccp_diag.ko": "m"}, "pass"},
		"below usr":                     {files{"lib": "-> usr/lib", "usr/lib/modules/6.1/dccp.ko": "m"}, "fail"},
		"installed as false":            {files{ko: "m", conf: "install dccp /bin/false\n"}, "pass"},
		"installed as true":             {files{ko: "m", conf: "  install   dccp /usr/bin/true\n"}, "pass"},
		"installed as what it is":       {files{ko: "m", conf: "install dccp /sbin/modprobe -i dccp\n"}, "fail"},
		"installed as true, and more":   {files{ko: "m", conf: "install dccp /bin/true ; /sbin/modprobe -i dccp\n"}, "fail"},
		"commented out":                 {files{ko: "m", conf: "#install dccp /bin/false\n"}, "fail"},
		"blacklisted":                   {files{ko: "m", conf: "blacklist dccp\n"}, "fail; /lib/modules/6.1/kernel/net/dccp/dccp.ko.xz can be loaded by name"},
		"blacklisted for busybox":       {files{ko: "m", conf: "blacklist dccp\n", "sbin/modprobe": "-> ../bin/busybox", "bin/busybox": "#!"}, "pass"},
		"installed for busybox":         {files{ko: "m", conf: "install dccp /bin/false\n", "sbin/modprobe": "-> ../bin/busybox", "bin/busybox": "#!"}, "fail"},
		"a file that is not read":       {files{ko: "m", "etc/modprobe.d/a.txt": "install dccp /bin/false\n"}, "fail"},
		"a file hidden by another":      {files{ko: "m", "lib/modprobe.d/a.conf": "install dccp /bin/false\n", conf: "# nothing\n"}, "fail"},
		"built in":                      {files{"lib/modules/6.1/modules.builtin": "kernel/net/dccp/dccp.ko\n", conf: "install dccp /bin/false\n"}, "fail; built into the kernel built into the kernel"},
		"a comment names it as a false": {files{ko: "m", conf: "options dccp false\n"}, "fail"},
	} {
		h := host(t, tree(t, c.files))
		check := newCheck(t, "module", "modules", want)
		v := check.Check(context.Background(), h)
		if got := brief(v); !strings.HasPrefix(got, c.result) {
			t.Errorf("%s: %s (%s)", name, got, v.Reason)
		}
	}
	k, err := probe.Find("module")
	must(t, err)
	for _, bad := range []string{`{}`, `{"names":["squashfs"]}`, `{"names":["overlay"]}`, `{"names":["a b"]}`, `{"names":[""]}`, `{"names":["dccp; rm"]}`} {
		if _, err := k.New("modules", []byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	small, err := k.New("modules", []byte(`{"names":["dccp"]}`))
	must(t, err)
	large, err := k.New("modules", []byte(`{"names":["sctp","dccp"]}`))
	must(t, err)
	if large.(probe.Tightener).Tightens(small) != nil || small.(probe.Tightener).Tightens(large) == nil {
		t.Error("more names are stricter")
	}
}

func TestModuleFixes(t *testing.T) {
	ctx, all := context.Background(), func(string) bool { return true }
	mods := files{"lib/modules/6.1/dccp.ko": "m", "lib/modules/6.1/sctp.ko": "m"}
	for name, c := range map[string]struct {
		files files
		after map[string]string
	}{
		"a new file":       {files{"etc/modprobe.d/a.conf": "# a\n"}, files{"etc/modprobe.d/zz-backstay.conf": "install dccp /bin/false\ninstall sctp /bin/false\n"}},
		"another line":     {files{"etc/modprobe.d/a.conf": "install dccp /x\n# end"}, files{"etc/modprobe.d/a.conf": "install dccp /bin/false\n# end", "etc/modprobe.d/zz-backstay.conf": "install sctp /bin/false\n"}},
		"our own file":     {files{"etc/modprobe.d/zz-backstay.conf": "install rds /bin/false"}, files{"etc/modprobe.d/zz-backstay.conf": "install rds /bin/false\ninstall dccp /bin/false\ninstall sctp /bin/false\n"}},
		"busybox modprobe": {files{"etc/modprobe.d/a.conf": "", "sbin/modprobe": "-> ../bin/busybox", "bin/busybox": "#!"}, files{"etc/modprobe.d/zz-backstay.conf": "blacklist dccp\nblacklist sctp\n"}},
	} {
		for n, text := range mods {
			c.files[n] = text
		}
		dir := tree(t, c.files)
		h := host(t, dir)
		check := newCheck(t, "module", "modules", `{"names":["dccp","sctp"]}`)
		plan, err := check.Fix(ctx, h, all)
		must(t, err)
		for _, p := range plan {
			must(t, h.Apply(ctx, p))
		}
		for n, text := range c.after {
			data, err := os.ReadFile(filepath.Join(dir, n))
			if err != nil || string(data) != text {
				t.Errorf("%s: %s: %v %q", name, n, err, data)
			}
		}
		if v := check.Check(ctx, h); v.Result != probe.Pass {
			t.Errorf("%s: after the fix %+v", name, v)
		}
		if plan, err := check.Fix(ctx, h, all); err != nil || len(plan) != 0 {
			t.Errorf("%s: a second fix: %v %+v", name, err, plan)
		}
	}
}

func FuzzModprobe(f *testing.F) {
	fuzzFile(f, "etc/modprobe.d/a.conf", "module", "modules", `{"names":["dccp"]}`, files{"lib/modules/6.1/dccp.ko": "m"},
		"install dccp /bin/false\n", "install dccp\n", "blacklist dccp\ninstall dccp x\ninstall dccp true")
}

func FuzzBluetooth(f *testing.F) {
	fuzzFile(f, "etc/bluetooth/main.conf", "device", "bluetooth", "", files{"usr/sbin/bluetoothd": "#!"},
		"[General]\nAlwaysPairable=true\nDiscoverableTimeout=0", "[General]\n[General]\r\nAlwaysPairable = TRUE\n")
}
