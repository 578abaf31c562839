// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

// What procps says it would set is what we say is set: the order of directories and files, hidden names, globs, and both
// kinds of separator. It reads fixed directories, so it runs in a mount name space of its own.
func TestSysctlAsProcpsReadsIt(t *testing.T) {
	tool, err := exec.LookPath("sysctl")
	if help, herr := exec.Command("sysctl", "--help").CombinedOutput(); err != nil || herr != nil || !strings.Contains(string(help), "--dry-run") {
		t.Skip("sysctl of procps 4 is not installed: package procps")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root for a mount name space")
	}
	trees := map[string]files{
		"order of names":   {"etc/sysctl.d/20-b.conf": "kernel.panic=2\n", "usr/lib/sysctl.d/10-a.conf": "kernel.panic=1\n", "usr/lib/sysctl.d/30-c.conf": "kernel.panic=3\n"},
		"hidden":           {"etc/sysctl.d/10-a.conf": "kernel.pid_max=65536\n", "usr/lib/sysctl.d/10-a.conf": "kernel.panic=1\n", "run/sysctl.d/10-a.conf": "kernel.panic=5\n"},
		"run before usr":   {"run/sysctl.d/10-a.conf": "kernel.panic=5\n", "usr/lib/sysctl.d/10-a.conf": "kernel.panic=1\n"},
		"the file is last": {"etc/sysctl.d/zz.conf": "kernel.panic=6\n", "etc/sysctl.conf": "kernel.panic = 7\n"},
		"separators":       {"etc/sysctl.conf": "kernel/panic = 8\nnet/ipv4/conf/lo/rp_filter = 1\n"},
		"ignored errors":   {"etc/sysctl.conf": "-kernel.panic = 9\n; kernel.panic=1\n# kernel.panic=2\n"},
		"twice":            {"etc/sysctl.conf": "kernel.panic = 1\nkernel.panic = 3\n"},
		"other names":      {"etc/sysctl.d/a.conf.bak": "kernel.panic=1\n", "etc/sysctl.d/b": "kernel.panic=2\n", "etc/sysctl.d/c.conf": "kernel.panic=3\n"},
		"spaces":           {"etc/sysctl.conf": "  kernel.panic\t=   4   \nkernel.printk = 4\t4 1   7\n"},
		"pattern":          {"etc/sysctl.conf": "net.ipv4.conf.*.rp_filter = 2\nnet.ipv4.conf.lo.rp_filter = 1\n"},
		"exception":        {"etc/sysctl.conf": "net.ipv4.conf.*.rp_filter = 2\n-net.ipv4.conf.lo.rp_filter\n"},
	}
	const script = `for d in etc/sysctl.d run/sysctl.d usr/lib/sysctl.d usr/local/lib/sysctl.d; do mkdir -p "/$d"; mount --bind "$1/$d" "/$d"; done
touch /etc/sysctl.conf; mount --bind "$1/etc/sysctl.conf" /etc/sysctl.conf; exec "$2" --system --dry-run`
	for name, fs := range trees {
		dir := tree(t, fs)
		for _, d := range []string{"etc/sysctl.d", "run/sysctl.d", "usr/lib/sysctl.d", "usr/local/lib/sysctl.d"} {
			must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
		}
		f, err := os.OpenFile(filepath.Join(dir, "etc/sysctl.conf"), os.O_CREATE, 0o644)
		must(t, err)
		f.Close()
		out, err := exec.Command("unshare", "-m", "sh", "-c", script, "sh", dir, tool).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "Applying") {
			t.Skipf("no mount name space: %v %s", err, out)
		}
		theirs := map[string]string{}
		for l := range strings.Lines(string(out)) {
			if k, v, ok := strings.Cut(strings.TrimSpace(l), " = "); ok && !strings.HasPrefix(l, "*") {
				theirs[k] = strings.Join(strings.Fields(v), " ")
			}
		}
		for _, key := range []string{"kernel.panic", "kernel.pid_max", "kernel.printk", "net.ipv4.conf.lo.rp_filter", "net.ipv4.conf.default.rp_filter"} {
			ours, err := probe.PersistedSysctl(context.Background(), host(t, dir), key)
			must(t, err)
			if ours != theirs[key] {
				t.Errorf("%s: %s is %q, procps sets %q\n%s", name, key, ours, theirs[key], out)
			}
		}
	}
}

// everyConfig compares all of the checker's configurations: 1815 verdicts, in some minutes.
const everyConfig = false

// differs are options that we judge otherwise than kernel-hardening-checker, on purpose.
var differs = map[string]string{
	"CONFIG_DEFAULT_MMAP_MIN_ADDR": "it wants 65536 (32768 on ARM); the parameter may be set at run time, so we want what stops a null pointer",
	"CONFIG_RANDOMIZE_BASE":        "it does not ask on 32 bit ARM and RISC-V; we ask where the kernel has it",
	"CONFIG_MODULE_SIG_FORCE":      "it does not take a kernel without modules for as good",
	"CONFIG_STRICT_DEVMEM":         "it asks on fewer architectures",
	"CONFIG_IO_STRICT_DEVMEM":      "it asks on fewer architectures",
	"CONFIG_KEXEC_FILE":            "it does not ask for it",
	"CONFIG_DEBUG_FS":              "it wants none at all; without access to it is as good",
	"CONFIG_MODULE_SIG_SHA512":     "it takes SHA-512 and SHA-3 only; SHA-256 is as good against collisions",
}

// On stored configurations of many kernels, each option of ours that kernel-hardening-checker has too gets the same verdict,
// where ours applies.
func TestKernelConfigAsTheCheckerJudgesIt(t *testing.T) {
	tool, err := exec.LookPath("kernel-hardening-checker")
	if err != nil {
		t.Skip("kernel-hardening-checker is not installed")
	}
	real, err := filepath.EvalSymlinks(tool)
	must(t, err)
	configs, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(real)), "kernel_hardening_checker/config_files/d*/*.config"))
	if len(configs) == 0 {
		t.Skip("kernel-hardening-checker has no stored configurations beside it")
	}
	rules := kernelConfigRules(t)
	compared := 0
	for i, c := range configs {
		if i%8 != 0 && !everyConfig { // each run of it takes seconds
			continue
		}
		out, err := exec.Command(tool, "-m", "json", "-c", c).Output()
		if err != nil {
			continue // an architecture that it refuses
		}
		var theirs []struct {
			Name   string `json:"option_name"`
			Type   string `json:"type"`
			Result bool   `json:"check_result_bool"`
		}
		must(t, json.Unmarshal(out, &theirs))
		text, err := os.ReadFile(c)
		must(t, err)
		h := host(t, tree(t, files{"boot/config-1": string(text)}))
		for _, their := range theirs {
			r, ok := rules[their.Name]
			if !ok || their.Type != "kconfig" || differs[their.Name] != "" {
				continue
			}
			v := newCheck(t, "kernel-config", their.Name, r).Check(context.Background(), h)
			if v.Result == probe.NotApplicable {
				continue
			}
			compared++
			if (v.Result == probe.Pass) != their.Result {
				t.Errorf("%s: %s is %s for us, %v for the checker: %s", filepath.Base(c), their.Name, brief(v), their.Result, v.Reason)
			}
		}
	}
	if compared < 150 {
		t.Errorf("only %d verdicts compared", compared)
	}
	t.Logf("%d verdicts on %d configurations", compared, len(configs))
}

// kernelConfigRules are the wants of the shipped rules, by option.
func kernelConfigRules(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, set := range []string{"kernel-config", "kernel-config-strict"} {
		data, err := os.ReadFile(filepath.Join("../baseline/rules", set+".json"))
		must(t, err)
		type test struct {
			Kind   string          `json:"kind"`
			Target string          `json:"target"`
			Want   json.RawMessage `json:"want"`
		}
		var doc struct {
			Rules []struct {
				test
				Any []test `json:"any"`
			} `json:"rules"`
		}
		must(t, json.Unmarshal(data, &doc))
		for _, r := range doc.Rules {
			for _, k := range append(r.Any, r.test) {
				if k.Kind == "kernel-config" {
					out[k.Target] = string(k.Want)
				}
			}
		}
	}
	return out
}
