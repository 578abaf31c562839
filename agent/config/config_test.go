// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/agent/config"
)

var update = flag.Bool("update", false, "rewrite golden files")

// full is a configuration that uses everything.
const full = `{
  "state_dir": "/data/backstay", "run_dir": "/run/bs",
  "product": {"name": "acme-cam", "compatible": "acme-cam-v2", "serial_file": "/sys/serial"},
  "server": {"ca_file": "/etc/backstay/fleet.pem"},
  "update": {"root_file": "/etc/backstay/root.json", "metadata_url": "https://fw.example/metadata/", "targets_url": "https://cdn.example/targets/",
    "poll": "2h30m", "attempts": 2, "trial_timeout": "90s", "health": [
      {"name": "app", "kind": "exec", "argv": ["/bin/true", "-x"], "timeout": "10s"},
      {"name": "up", "kind": "file", "path": "/run/up"},
      {"name": "web", "kind": "http", "url": "http://127.0.0.1:8080/health", "status": 204},
      {"name": "ssh", "kind": "tcp", "addr": "127.0.0.1:22"},
      {"name": "line", "kind": "mqtt"},
      {"name": "base", "kind": "baseline", "max_severity": "low"}]},
  "slots": {"A": {"kind": "block", "path": "/dev/mmcblk0p2"}, "B": {"kind": "block", "path": "/dev/mmcblk0p3"}},
  "booted": {"cmdline": "/proc/cmdline", "key": "backstay.slot"},
  "boot": {"kind": "uboot", "fw_env_config": "/etc/fw_env.config", "convention": "bootcount"},
  "floor": {"kind": "file"},
  "reboot": {"method": "command", "command": ["/sbin/reboot", "-f"]},
  "identity": {"keys": "file", "est_url": "https://ca.example", "renew_after": "24h"},
  "baseline": {"profiles": [], "root": "/", "enforce": false, "period": "1h"},
  "audit": {"brokers": ["tls://mqtt.example:8883", "tls://mqtt2.example:8883"], "proxy": "socks5://gw:1080", "max_rate": 4096, "rejoin": "1m", "capacity_mib": 16, "quorum": 1,
    "receipt_keys": ["collector+0123abcd+AaBbCc+/=="]},
  "control": {"allow_uids": [0, 1000]}
}`

func TestParseFull(t *testing.T) {
	c, err := config.Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	h := c.Update.Health
	for _, tt := range []struct{ got, want any }{
		{c.Update.Poll.Std(), 150 * time.Minute}, {c.Update.TrialTimeout.String(), "1m30s"}, {c.Slots["B"].Path, "/dev/mmcblk0p3"},
		{h[0].Timeout.Std(), 10 * time.Second}, {h[2].Timeout.Std(), 30 * time.Second}, {h[2].Status, 204}, {h[3].Status, 200},
		{h[5].MaxSeverity, "low"}, {h[0].MaxSeverity, "medium"}, {c.Baseline.Profiles, []string{}}, {c.Baseline.Enforce, false},
		{c.Control.Socket, "/run/bs/control.sock"}, {c.Control.AllowUIDs, []int{0, 1000}}, {c.HasUpdate(), true},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("got %#v, want %#v", tt.got, tt.want)
		}
	}
}

// TestEmptyIsDefaults: a device with an empty file runs, keeps its log to itself and checks the base profile.
func TestEmptyIsDefaults(t *testing.T) {
	c, err := config.Parse([]byte(" {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.StateDir != "/var/lib/backstay" || c.Update.Poll.Std() != 6*time.Hour || !c.Baseline.Enforce || c.HasUpdate() ||
		!reflect.DeepEqual(c.Control.AllowUIDs, []int{0}) || c.Control.Socket != "/run/backstay/control.sock" {
		t.Errorf("%+v", c)
	}
	for _, s := range c.Effective() {
		if s.Origin != config.FromDefault {
			t.Errorf("%s comes from %s", s.Key, s.Origin)
		}
	}
}

func TestEffectiveNamesOrigin(t *testing.T) {
	c, err := config.Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range c.Effective() {
		got[s.Key] = fmt.Sprintf("%s %s", s.Origin, s.Value)
	}
	for key, want := range map[string]string{
		"update.poll": `file "2h30m"`, "update.health[0].timeout": `file "10s"`, "update.health[1].timeout": `default "30s"`,
		"slots.A.kind": `file "block"`, "baseline.profiles": `file []`, "control.socket": `default "/run/bs/control.sock"`,
		"product.os_release": `default "/etc/os-release"`, "control.allow_uids": `file [0,1000]`,
	} {
		if got[key] != want {
			t.Errorf("%s: %s, want %s", key, got[key], want)
		}
	}
}

// needed ends a configuration with what a device that is updated has.
const needed = `, "product": {"name": "p", "compatible": "c"}, "server": {"ca_file": "/c"},
	"update": {"root_file": "/r", "metadata_url": "https://m/", "targets_url": "https://t/"}}`

// TestLines: a problem of a file names the line of the key, or of the section the key is missing from.
func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	text := "{\n \"state_dir\": \"/s\",\n \"boot\": {\n  \"path\":\n   \"/p\"\n },\n \"slots\": {\"A\": {\"kind\": \"file\",\n  \"path\": \"a\"},\n  \"B\": {\"kind\": \"file\"}}" + needed
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := config.Load(path)
	got := map[string]int{}
	for _, p := range config.Problems(err) {
		got[p.Key] = p.Line
	}
	if want := map[string]int{"boot.path": 4, "slots.A.path": 8, "slots.B.path": 9}; !reflect.DeepEqual(got, want) {
		t.Errorf("lines %v, want %v\n%v", got, want, err)
	}
	if !strings.Contains(err.Error(), "line 4: boot.path: given") {
		t.Error(err)
	}
}

// TestRefusals: what is wrong, and the exact words for it.
func TestRefusals(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 9) + "1" + strings.Repeat("}", 9)
	for _, tt := range []struct{ in, want string }{
		{`{"update": {"pol": "1h"}}`, "update.pol: unknown key; the nearest known is update.poll"},
		{`{"Update": {}}`, "Update: unknown key; the nearest known is update"},
		{`{"state-dir": "/x"}`, "state-dir: unknown key; the nearest known is state_dir"},
		{`{"poll": "1h"}`, "poll: unknown key; there is update.poll"},
		{`{"floor": {"qqqqqqqqqq": 1}}`, "floor.qqqqqqqqqq: unknown key; known here: kind, device, index"},
		{`{"slots": {"A": {"knd": "file"}}}`, "slots.A.knd: unknown key; the nearest known is slots.A.kind"},
		{`{"update": {"health": [{"kind": "mqtt", "nmae": "x"}]}}`, "update.health[0].nmae: unknown key; the nearest known is update.health[0].name"},
		{`{"floor": {}, "floor": {}}`, "floor: given twice"},
		{`{"slots": {"A": {}, "A": {}}}`, "slots.A: given twice"},
		{`{"update": {"poll": null}}`, "update.poll: null is not a value; leave the key out to get the default"},
		{`{"update": {"poll": 5}}`, `update.poll: want a duration such as "6h", got 5`},
		{`{"update": {"poll": "soon"}}`, `update.poll: "soon" is not a duration such as "6h" or "90s"`},
		{`{"update": {"poll": "-1h"}}`, `update.poll: "-1h" is negative`},
		{`{"update": {"poll": "10ms"}}`, "update.poll: 10ms is below the minimum 1s"},
		{`{"update": {"poll": "9999h"}}`, "update.poll: 9999h is above the maximum 720h"},
		{`{"update": {"attempts": 0}}`, "update.attempts: 0 is below the minimum 1"},
		{`{"update": {"attempts": 10}}`, "update.attempts: 10 is above the maximum 9"},
		{`{"update": {"attempts": 1.5}}`, "update.attempts: 1.5 is not a whole number in range"},
		{`{"update": {"attempts": 3000000000}}`, "update.attempts: 3000000000 is not a whole number in range"},
		{`{"update": {"attempts": "3"}}`, `update.attempts: want a number, got "3"`},
		{`{"baseline": {"enforce": "yes"}}`, `baseline.enforce: want true or false, got "yes"`},
		{`{"baseline": {"profiles": "base"}}`, `baseline.profiles: want a list of text, got "base"`},
		{`{"baseline": {"profiles": [1]}}`, `baseline.profiles[0]: want text, got 1`},
		{`{"baseline": {"profiles": ["../x"]}}`, `baseline.profiles[0]: "../x" is not a name`},
		{`{"floor": []}`, "floor: want an object, got a list"},
		{`{"state_dir": {}}`, "state_dir: want text, got an object"},
		{`{"state_dir": "a/b"}`, `state_dir: "a/b" is not an absolute path`},
		{`{"state_dir": "/a/../b"}`, `state_dir: "/a/../b" is not in its shortest form, which is "/b"`},
		{`{"state_dir": "/a\u0000b"}`, "state_dir: holds a control character"},
		{`{"slots": {"A": {"kind": "file", "path": "/a", "bootname": "2"}, "B": {"kind": "file", "path": "/b", "bootname": "2"}}, "boot": {"kind": "grub", "convention": "bootcount", "fw_env_config": "/x"}` + needed,
			"boot.convention: \"bootcount\" is not one of rauc, mender\nboot.fw_env_config: given, but a boot loader of kind \"grub\" does not use it\nslots.B.bootname: \"2\" is the name of slot A too"},
		{`{"slots": {"A": {"kind": "file", "path": "/a", "bootname": "x"}, "B": {"kind": "file", "path": "/b"}}, "boot": {"path": "/p", "variable": "v", "counter": "/c"}` + needed,
			"boot.variable: given, but convention \"rauc\" does not use it\nboot.counter: given, but convention \"rauc\" does not use it\nboot.path: given, but a boot loader of kind \"uboot\" does not use it"},
		{`{"slots": {"A": {"kind": "mtd", "path": "mtd:rootfs_a"}, "B": {"kind": "block", "path": "ubi0:rootfs_b"}}` + needed,
			"slots.B.path: \"ubi0:rootfs_b\" names a slot of kind \"ubi\", not \"block\""},
		{`{"slots": {"A": {"kind": "ubi", "path": "/dev/ubi0:rootfs_a"}, "B": {"kind": "ubi", "path": "ubi0:"}}` + needed, "slots.B.path: \"ubi0:\" is not an absolute path"},
		{`{"slots": {"A": {"kind": "file", "path": "/a"}, "B": {"kind": "file", "path": "/b"}}, "boot": {"kind": "tryboot", "convention": "mender"}, "reboot": {"method": "exit"}` + needed,
			"reboot.method: \"exit\" cannot tell the boot loader which slot to try; boot.kind \"tryboot\" needs \"kernel\"\nboot.convention: given, but a boot loader of kind \"tryboot\" does not use it"},
		{`{"slots": {"A": {"kind": "file", "path": "/a"}, "B": {"kind": "file", "path": "/b"}}, "boot": {"kind": "command"}` + needed, `boot.command: missing; boot.kind is "command"`},
		{`{"slots": {"A": {"kind": "file", "path": "/a"}, "B": {"kind": "file", "path": "/b"}}, "boot": {"kind": "command", "command": ["sh"], "timeout": "0s"}` + needed,
			"boot.timeout: 0s is below the minimum 1s\nboot.command[0]: \"sh\" is not an absolute path"},
		{`{"slots": {"A": {"kind": "file", "path": "/a"}, "B": {"kind": "file", "path": "/b"}}, "boot": {"kind": "psa", "path": "/m", "copy": "/m", "offset": 4}` + needed,
			"boot.copy: \"/m\" is the first copy too\nboot.offset: given, but a boot loader of kind \"psa\" does not use it"},
		{`{"slots": {"A": {"kind": "file", "path": "/a"}, "B": {"kind": "file", "path": "/b"}}, "boot": {"kind": "barebox", "offset": -1}` + needed,
			"boot.offset: -1 is below the minimum 0\nboot.path: missing; it is the device of the state's backend"},
		{`{"boot": {"kind": "lilo"}}`, `boot.kind: "lilo" is not one of uboot, grub, efi, tryboot, barebox, android, psa, command`},
		{`{"reboot": {"method": "command"}}`, `reboot.command: missing; reboot.method is "command"`},
		{`{"reboot": {"command": ["/sbin/reboot"]}}`, `reboot.command: given, but reboot.method is "kernel"`},
		{`{"reboot": {"method": "command", "command": ["reboot"]}}`, `reboot.command[0]: "reboot" is not an absolute path`},
		{`{"identity": {"est_url": "http://ca"}, "server": {"ca_file": "/c"}}`, `identity.est_url: "http://ca" must begin with https://`},
		{`{"identity": {"est_url": "https://u:p@ca"}, "server": {"ca_file": "/c"}}`, "identity.est_url: holds a user name or password; servers know the device by its certificate"},
		{`{"identity": {"est_url": "https://ca?x"}, "server": {"ca_file": "/c"}}`, `identity.est_url: "https://ca?x" must be a host and a path, without ? and #`},
		{`{"identity": {"est_url": "https://ca"}}`, "server.ca_file: missing; identity.est_url is reached over TLS and the system's roots are not used"},
		{`{"audit": {"brokers": ["tcp://b:1883"], "quorum": 1, "receipt_keys": ["a+12345678+k"]}, "server": {"ca_file": "/c"}}`, `audit.brokers[0]: "tcp://b:1883" must begin with tls://`},
		{`{"audit": {"brokers": ["tls://b"], "receipt_keys": ["a+12345678+k"]}, "server": {"ca_file": "/c"}}`, `audit.brokers[0]: "tls://b" must be tls://host:port`},
		{`{"audit": {"brokers": ["tls://b:1", "tls://b:1"], "receipt_keys": ["a+12345678+k"]}, "server": {"ca_file": "/c"}}`, `audit.brokers[1]: "tls://b:1" is given twice`},
		{`{"audit": {"brokers": ["tls://b:1"], "receipt_keys": ["a+12345678+k"]}}`, "server.ca_file: missing; audit.brokers is reached over TLS and the system's roots are not used"},
		{`{"audit": {"brokers": ["tls://a:1","tls://b:1","tls://c:1","tls://d:1","tls://e:1","tls://f:1","tls://g:1","tls://h:1","tls://i:1"], "receipt_keys": ["a+12345678+k"]}, "server": {"ca_file": "/c"}}`, "audit.brokers: 9 of them; at most 8"},
		{`{"audit": {"proxy": "https://p:3128"}}`, `audit.proxy: "https://p:3128" must be http://host:port or socks5://host:port`},
		{`{"audit": {"proxy": "http://user:secret@p:3128"}}`, `audit.proxy: "http://user:secret@p:3128" must be http://host:port or socks5://host:port`},
		{`{"audit": {"max_rate": 100}}`, "audit.max_rate: 100 is below the minimum 256; 0 means no limit"},
		{`{"audit": {"brokers": ["tls://b:1"]}, "server": {"ca_file": "/c"}}`, "audit.receipt_keys: there are 0 and audit.quorum is 1: no record could ever be dropped"},
		{`{"audit": {"receipt_keys": ["nonsense"]}}`, "audit.receipt_keys[0]: not a verifier key name+hash+key"},
		{`{"audit": {"receipt_keys": ["a+12345678+k", "a+12345678+k"]}}`, "audit.receipt_keys[1]: given twice; a quorum counts different collectors"},
		{`{"control": {"socket": "/` + strings.Repeat("s", 107) + `"}}`, "control.socket: 108 bytes long, the kernel takes 107"},
		{`{"audit": {"intake": {"socket": "/` + strings.Repeat("s", 107) + `"}}}`, "audit.intake.socket: 108 bytes long, the kernel takes 107"},
		{`{"audit": {"intake": {"allow_gids": [-1]}}}`, "audit.intake.allow_gids[0]: -1 is not a group id"},
		{`{"audit": {"private": ["a b"]}}`, `audit.private[0]: "a b" is not a name`},
		{`{"audit": {"intake": {"rate": 0}}}`, "audit.intake.rate: 0 is below the minimum 1"},
		{`{"audit": {"intake": {"devlog_replace": true}}}`, "audit.intake.devlog_replace: given, but audit.intake.devlog names no socket"},
		{`{"floor": {"kind": "tpm", "index": 25168812}, "audit": {"counter": {"kind": "tpm"}}}`, "floor.index: is the log's counter too, which rises by itself"},
		{`{"control": {"allow_uids": [-1]}}`, "control.allow_uids[0]: -1 is not a user id"},
		{`{"update": {"health": [{"name": "x", "kind": "exec"}]}}`, `update.health[0].argv: missing; a check of kind "exec" needs it`},
		{`{"update": {"health": [{"name": "x", "kind": "exec", "argv": ["sh"]}]}}`, `update.health[0].argv[0]: "sh" is not an absolute path`},
		{`{"update": {"health": [{"name": "x", "kind": "mqtt", "addr": "a:1"}]}}`, `update.health[0].addr: given, but a check of kind "mqtt" does not use it`},
		{`{"update": {"health": [{"name": "x", "kind": "tcp", "addr": "a"}]}}`, `update.health[0].addr: "a" is not host:port`},
		{`{"update": {"health": [{"name": "x", "kind": "file", "path": "a"}]}}`, `update.health[0].path: "a" is not an absolute path`},
		{`{"update": {"health": [{"name": "x", "kind": "mount"}]}}`, `update.health[0].path: missing; a check of kind "mount" needs it`},
		{`{"update": {"health": [{"name": "x", "kind": "metric", "path": "/m", "min": 5, "max": 4}]}}`, `update.health[0].min: 5 is above max 4`},
		{`{"update": {"health": [{"name": "x", "kind": "http", "url": "ftp://a"}]}}`, `update.health[0].url: "ftp://a" must begin with http:// or https://`},
		{`{"update": {"health": [{"kind": "mqtt"}]}}`, "update.health[0].name: missing; reports and events use it"},
		{`{"update": {"health": [{"name": "x"}]}}`, "update.health[0].kind: missing; one of process, exec, file, mount, metric, http, tcp, mqtt, baseline"},
		{`{"update": {"health": [{"name": "x", "kind": "mqtt", "timeout": "0s"}]}}`, "update.health[0].timeout: 0s is below the minimum 1s"},
		{"{\n\"a\": }", "line 2: invalid character '}' looking for beginning of value"},
		{`{} {}`, "line 1: invalid character '{' after top-level value"},
		{`[]`, "configuration: want an object, got a list"},
		{`"x"`, `configuration: want an object, got "x"`},
		{``, "line 1: unexpected end of JSON input"},
		{"{\"a\": \"\xff\"}", "not valid UTF-8"},
		{deep, "nested deeper than 8 levels"},
		{`{"state_dir": "` + strings.Repeat("x", 64<<10) + `"}`, "larger than 64 KiB"},
	} {
		_, err := config.Parse([]byte(tt.in))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%.80s:\n got %v\nwant %s", tt.in, err, tt.want)
		}
	}
}

// TestUpdateNeedsEverything: half an update section is a mistake, and every missing part is named at once.
func TestUpdateNeedsEverything(t *testing.T) {
	_, err := config.Parse([]byte(`{"update": {"metadata_url": "https://fw/"}, "slots": {"A": {"kind": "file", "path": "/img"}}}`))
	want := []string{"update.root_file", "update.targets_url", "product.name", "product.compatible", "slots", "server.ca_file"}
	var got []string
	for _, p := range config.Problems(err) {
		got = append(got, p.Key)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q\n%v", got, want, err)
	}
	same := strings.Replace(full, "/dev/mmcblk0p3", "/dev/mmcblk0p2", 1)
	if _, err := config.Parse([]byte(same)); err == nil || err.Error() != "slots: A and B are the same place /dev/mmcblk0p2" {
		t.Errorf("two slots in one place: %v", err)
	}
	for _, bad := range []string{"acme/cam", "../up", "a b", strings.Repeat("x", 65)} {
		if _, err := config.Parse([]byte(strings.Replace(full, `"acme-cam"`, `"`+bad+`"`, 1))); err == nil {
			t.Errorf("product name %q is accepted", bad)
		}
	}
	for _, bad := range []string{"a/b", "", strings.Repeat("x", 17)} {
		if _, err := config.Parse([]byte(strings.Replace(full, `"A": {"kind"`, `"`+bad+`": {"kind"`, 1))); err == nil {
			t.Errorf("slot name %q is accepted", bad)
		}
	}
}

func TestManyErrorsAreCapped(t *testing.T) {
	var b strings.Builder
	b.WriteString("{")
	for i := range 1000 {
		fmt.Fprintf(&b, `"zz%d": %d,`, i, i)
	}
	_, err := config.Parse([]byte(strings.TrimSuffix(b.String(), ",") + "}"))
	if n := len(config.Problems(err)); n != 20 {
		t.Errorf("%d errors reported, want 20", n)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	if _, err := config.Load(path); !os.IsNotExist(underlying(err)) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte(full), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(path, 0o646); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err == nil || !strings.Contains(err.Error(), "everybody may write it (mode 0646)") {
		t.Errorf("file everybody may write: %v", err)
	}
	if _, err := config.Load("/dev/zero"); err == nil {
		t.Error("an endless file is accepted")
	}
}

func underlying(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err
		}
		err = u.Unwrap()
		if _, ok := err.(*os.PathError); ok {
			return err
		}
	}
}

func TestExplain(t *testing.T) {
	for key, n := range map[string]int{"update.poll": 1, "slots.A.path": 1, "slots.SLOT.path": 1, "update.health[3].kind": 1, "update.health.kind": 1, "reboot": 3} {
		if f, err := config.Explain(key); err != nil || len(f) != n {
			t.Errorf("%s: %d fields, %v, want %d", key, len(f), err, n)
		}
	}
	for key, want := range map[string]string{
		"update.pol": "update.pol: unknown key; the nearest known is update.poll", "quorum": "quorum: unknown key; there is audit.quorum",
		"zzzzzzzzzzzz": "zzzzzzzzzzzz: unknown key",
	} {
		if _, err := config.Explain(key); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", key, err, want)
		}
	}
}

// TestEveryKeyIsDocumented: no key without a meaning, and no path without a word on who is trusted with it.
func TestEveryKeyIsDocumented(t *testing.T) {
	var walk func(t reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := f.Tag.Get("json")
			if name == "" {
				continue
			}
			key := path + name
			if f.Tag.Get("doc") == "" {
				t.Errorf("%s has no doc", key)
			}
			if f.Tag.Get("path") != "" && f.Tag.Get("trust") == "" {
				t.Errorf("%s is a path and does not say who is trusted with it", key)
			}
			for _, end := range []string{"_file", "_dir", "path", "root", "socket", "command", "argv", "cmdline", "_config"} {
				if strings.HasSuffix(name, end) && f.Tag.Get("trust") == "" {
					t.Errorf("%s looks like a path and does not say who is trusted with it", key)
				}
			}
			sub := f.Type
			if sub.Kind() == reflect.Map || sub.Kind() == reflect.Slice {
				sub = sub.Elem()
			}
			if sub.Kind() == reflect.Struct {
				walk(sub, key+".")
			}
		}
	}
	walk(reflect.TypeFor[config.Config](), "")
}

func TestPage(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "config.md")
	got := []byte(config.Page())
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date, run `go test -update` here", path)
	}
	for _, f := range config.Fields() {
		if !f.Section && !bytes.Contains(got, []byte("| `"+f.Key+"` |")) {
			t.Errorf("%s is not on the page", f.Key)
		}
	}
}

func TestCheckPaths(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sub := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, prog := file("good", 0o644), file("prog", 0o755)
	private, open := sub("private", 0o700), sub("open", 0o755)
	base := map[string]any{
		"state_dir": private, "run_dir": open, "server": map[string]any{"ca_file": good},
		"product": map[string]any{"name": "p", "compatible": "c", "os_release": good, "serial_file": good},
		"update": map[string]any{"root_file": good, "metadata_url": "https://m", "targets_url": "https://t",
			"health": []any{map[string]any{"name": "h", "kind": "exec", "argv": []string{prog}}}},
		"slots":    map[string]any{"A": map[string]any{"kind": "file", "path": good}, "B": map[string]any{"kind": "file", "path": prog}},
		"boot":     map[string]any{"fw_env_config": good},
		"reboot":   map[string]any{"method": "command", "command": []string{prog}},
		"baseline": map[string]any{"root": dir},
	}
	check := func(in map[string]any) map[string]string {
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		c, err := config.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, p := range c.CheckPaths() {
			got[p.Key] = strings.TrimPrefix(p.Problem, dir)
		}
		return got
	}
	if got := check(base); len(got) != 0 {
		t.Fatalf("a good configuration has problems: %v", got)
	}
	for _, tt := range []struct {
		section, key string
		value        any
		where, want  string
	}{
		{"", "state_dir", open, "state_dir", "mode 0755 lets others in"},
		{"", "state_dir", good, "state_dir", "is not a directory"},
		{"", "state_dir", dir + "/none", "", ""},
		{"", "run_dir", sub("wide", 0o777), "control.socket", "mode 0777 lets everybody write it"},
		{"server", "ca_file", dir + "/none", "server.ca_file", "no such file or directory"},
		{"server", "ca_file", file("group", 0o664), "server.ca_file", "mode 0664 lets others write it"},
		{"update", "root_file", file("all", 0o666), "update.root_file", "mode 0666 lets everybody write it"},
		{"update", "root_file", open, "update.root_file", "is a directory"},
		{"boot", "fw_env_config", dir + "/none", "boot.fw_env_config", "no such file"},
		{"reboot", "command", []string{good}, "reboot.command[0]", "is not an executable file"},
		{"update", "health", []any{map[string]any{"name": "h", "kind": "exec", "argv": []string{good}}}, "update.health[0].argv[0]", "is not an executable file"},
		{"slots", "A", map[string]any{"kind": "block", "path": "/dev/null"}, "slots.A.path", "is not a block device"},
		{"slots", "A", map[string]any{"kind": "emmc-boot", "path": good}, "slots.A.path", "is not a block device"},
		{"slots", "A", map[string]any{"kind": "file", "path": "/dev/null"}, "slots.A.path", "is not a regular file"},
		{"slots", "A", map[string]any{"kind": "mtd", "path": good}, "slots.A.path", "is not a character device"},
		{"slots", "A", map[string]any{"kind": "ubi", "path": good}, "slots.A.path", "is not a character device"},
		{"baseline", "root", good, "baseline.root", "is not a directory"},
	} {
		in := map[string]any{}
		for k, v := range base {
			in[k] = v
		}
		if tt.section == "" {
			in[tt.key] = tt.value
		} else {
			s := map[string]any{}
			for k, v := range base[tt.section].(map[string]any) {
				s[k] = v
			}
			s[tt.key] = tt.value
			in[tt.section] = s
		}
		got := check(in)
		if tt.where == "" && len(got) != 0 || tt.where != "" && !strings.Contains(got[tt.where], tt.want) {
			t.Errorf("%s.%s = %v: %v, want %s: %s", tt.section, tt.key, tt.value, got, tt.where, tt.want)
		}
	}
}

func TestSecretNeverPrints(t *testing.T) {
	s := config.NewSecret("hunter2")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "p", &s)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "wrapped", struct{ S config.Secret }{s})
	b, err := json.Marshal(map[string]any{"s": s, "p": &s, "w": struct{ S config.Secret }{s}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(b) + string(text) + s.String() + s.GoString() + fmt.Sprintf("%v %+v %#v %s %q %x %d %v", s, s, s, s, s, s, s, &s) +
		fmt.Sprintf("%v %+v %#v", struct{ S config.Secret }{s}, []config.Secret{s}, map[string]config.Secret{"k": s})
	if strings.Contains(all, "hunter2") || strings.Contains(all, "68756e74657232") {
		t.Errorf("the secret shows: %s", all)
	}
	if s.Reveal() != "hunter2" {
		t.Error("Reveal does not give the secret out")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{full, "{}", `{"update":{"poll":"1h"}}`, `{"slots":{"A":{"kind":"file","path":"/a"}}}`, `{"a":[[[[[[[[[]]]]]]]]]}`,
		`{"update":{"health":[{"kind":"exec","argv":[]},{}]}}`, `[1,{"a":null}]`, `{"":{"":""}}`, `{"floor":{},"floor":3}`, "\"\\u0000\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := config.Parse(b)
		if err != nil {
			if c != nil {
				t.Error("an error comes with a configuration")
			}
			return
		}
		// What is accepted can be written down and read again, and says the same.
		out, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		d, err := config.Parse(dropNull(out))
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !reflect.DeepEqual(values(c), values(d)) {
			t.Errorf("%v\n%v", values(c), values(d))
		}
	})
}

func values(c *config.Config) map[string]string {
	out := map[string]string{}
	for _, s := range c.Effective() {
		out[s.Key] = string(s.Value)
	}
	return out
}

// dropNull removes the nulls Go writes for nil lists and maps.
func dropNull(b []byte) []byte {
	var v map[string]any
	if json.Unmarshal(b, &v) != nil {
		return b
	}
	var drop func(m map[string]any)
	drop = func(m map[string]any) {
		for k, x := range m {
			switch x := x.(type) {
			case nil:
				delete(m, k)
			case map[string]any:
				drop(x)
			case []any:
				for _, e := range x {
					if o, ok := e.(map[string]any); ok {
						drop(o)
					}
				}
			}
		}
	}
	drop(v)
	out, err := json.Marshal(v)
	if err != nil {
		return b
	}
	return out
}

func TestVersionNamesTheValuesInForce(t *testing.T) {
	version := func(text string) string {
		c, err := config.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c.Version()
	}
	if a, b := version(`{}`), version(`{"update": {"poll": "6h"}}`); a != b || len(a) != 12 {
		t.Errorf("a default and the same value given: %s, %s", a, b)
	}
	if a, b := version(`{}`), version(`{"update": {"poll": "7h"}}`); a == b {
		t.Error("another value has the same version")
	}
}
