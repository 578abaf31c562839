// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

func FuzzScript(f *testing.F) {
	for _, s := range []string{"a && b || c\n", "A=x\nf() { $A ${B:-c}; }\nf\n", "case $1 in a|b) c ;; esac\n", "cat <<E\nx\nE\n", "a `b $(c \"$(d)\")` 'e\n", "if false; then x; fi", "$(((((", "\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		if n := len(probe.Script(src)); n > 2*4096 {
			t.Fatalf("%d commands", n)
		}
		probe.Unwrap(src)
	})
}

func FuzzUnit(f *testing.F) {
	f.Add("[Service]\nExecStart=/a \\\n -b\n# c\nUser=x\n")
	f.Add("[\n]=\\")
	f.Fuzz(func(t *testing.T, text string) { probe.ParseUnit(text) })
}

func FuzzXinetd(f *testing.F) {
	fuzzFile(f, "etc/xinetd.conf", "inetd", "inetd", `{"deny":["telnet"]}`, nil,
		"service telnet\n{\n server = /usr/sbin/in.telnetd\n disable = no\n}\n", "defaults\n{\n disabled = telnet\n}\nservice telnet {\n}\n", "service telnet\n}\nservice telnet\n disable\n disable=\n}")
}

func FuzzCronTable(f *testing.F) {
	dir := f.TempDir()
	must(f, os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
	root, err := os.OpenRoot(dir)
	must(f, err)
	f.Cleanup(func() { root.Close() })
	f.Add([]byte("* * * * * root a %x\n@daily b c\nA = b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(filepath.Join(dir, "etc/crontab"), data, 0o644))
		probe.Starts(probe.NewHost(root, false))
		probe.CronCommand(string(data), false)
	})
}

func FuzzProcStat(f *testing.F) {
	f.Add([]byte("1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1 1 2"))
	f.Fuzz(func(t *testing.T, data []byte) { _ = probe.ParseStat(data) })
}

func FuzzProcNet(f *testing.F) {
	f.Add("tcp", "h\n"+socketLine("0.0.0.0", 22, "0A", 5))
	f.Add("packet", "h\nf 3 3 88cc 2 1 0 0 18\n")
	f.Fuzz(func(t *testing.T, proto, data string) { probe.ParseSockets(proto, data) })
}
