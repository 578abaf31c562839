// SPDX-License-Identifier: Apache-2.0

package plantroot

import (
	"maps"
	"slices"
)

// parameter is one file below /proc/sys: its value in the clean tree, in the planted one, and the rule that tells them apart.
type parameter struct {
	key, clean, planted, rule string
}

// parameters are the kernel's. Those without a rule are there because the rules of others need them.
func parameters() []parameter {
	return []parameter{
		{"kernel/randomize_va_space", "2", "0", "kernel.aslr"},
		{"kernel/kptr_restrict", "2", "0", "kernel.pointers"},
		{"kernel/dmesg_restrict", "1", "0", "kernel.messages"},
		{"kernel/sysrq", "0", "438", "kernel.sysrq"},
		{"kernel/perf_event_paranoid", "3", "1", "kernel.perf-events"},
		{"kernel/yama/ptrace_scope", "1", "0", "kernel.ptrace"},
		{"kernel/unprivileged_bpf_disabled", "2", "0", "kernel.bpf"},
		{"net/core/bpf_jit_harden", "2", "0", "kernel.bpf-jit"},
		{"dev/tty/ldisc_autoload", "0", "1", "kernel.line-disciplines"},
		{"dev/tty/legacy_tiocsti", "0", "1", "kernel.terminal-input"},
		{"vm/mmap_min_addr", "32768", "0", "kernel.low-memory"},
		{"vm/unprivileged_userfaultfd", "0", "1", "kernel.userfaultfd"},
		{"fs/suid_dumpable", "0", "2", "kernel.core-of-setuid"},
		{"fs/protected_symlinks", "1", "0", "kernel.links"},
		{"fs/protected_hardlinks", "1", "0", "kernel.hard-links"},
		{"fs/protected_fifos", "1", "0", "kernel.fifos"},
		{"fs/protected_regular", "2", "0", "kernel.regular-files"},
		{"kernel/panic", "10", "0", "kernel.panic-restart"},
		{"kernel/panic_on_oops", "1", "0", "kernel.panic-on-oops"},
		{"kernel/ftrace_enabled", "0", "1", "kernel.ftrace"},
		{"user/max_user_namespaces", "0", "15000", "kernel.user-namespaces"},
		{"kernel/io_uring_disabled", "2", "0", "kernel.io-uring"},
		{"kernel/kexec_load_disabled", "1", "0", "kernel.kexec"},
		{"net/ipv4/ip_forward", "0", "1", "net.forwarding"},
		{"net/ipv6/conf/all/forwarding", "0", "0", ""},
		{"net/ipv4/icmp_echo_ignore_broadcasts", "1", "0", "net.broadcast-echo"},
		{"net/ipv4/icmp_ignore_bogus_error_responses", "1", "0", "net.bogus-errors"},
		{"net/ipv4/tcp_syncookies", "1", "0", "net.syn-cookies"},
	}
}

// interfaceParameters are those of every interface: the clean value of all, of default and of eth0, then the planted ones.
// In the clean tree all and the interfaces differ where the kernel combines them to what is wanted.
func interfaceParameters() map[string][2][3]string {
	return map[string][2][3]string{
		"net.reverse-path":          {{"ipv4/rp_filter:2", "0", "1"}, {"0", "0", "0"}},
		"net.redirects":             {{"ipv4/accept_redirects:0", "0", "0"}, {"0", "1", "1"}},
		"net.secure-redirects":      {{"ipv4/secure_redirects:0", "0", "0"}, {"1", "1", "1"}},
		"net.send-redirects":        {{"ipv4/send_redirects:0", "0", "0"}, {"0", "0", "1"}},
		"net.source-route":          {{"ipv4/accept_source_route:0", "1", "1"}, {"1", "1", "0"}},
		"net.route-localnet":        {{"ipv4/route_localnet:0", "0", "0"}, {"0", "0", "1"}},
		"net.proxy-arp":             {{"ipv4/proxy_arp:0", "0", "0"}, {"0", "0", "1"}},
		"net.arp-own-interface":     {{"ipv4/arp_ignore:1", "0", "2"}, {"0", "0", "0"}},
		"net.log-martians":          {{"ipv4/log_martians:1", "0", "0"}, {"0", "0", "0"}},
		"net.router-advertisements": {{"ipv6/accept_ra:1", "0", "0"}, {"1", "1", "1"}},
	}
}

func kernelSkeleton() []file {
	var out []file
	for _, p := range parameters() {
		out = append(out, file{name: "proc/sys/" + p.key, mode: 0o644, text: p.clean + "\n"})
	}
	for _, rule := range slices.Sorted(maps.Keys(interfaceParameters())) {
		out = append(out, interfaceFiles(interfaceParameters()[rule], 0)...)
	}
	return out
}

// interfaceFiles writes one parameter of every interface; lo is as the kernel makes it, which is no defect.
func interfaceFiles(p [2][3]string, tree int) []file {
	fam, name, all := cut(p[0][0])
	values := p[tree]
	if tree == 0 {
		values[0] = all
	}
	dir := "proc/sys/net/" + fam + "/conf/"
	out := []file{{name: dir + "lo/" + name, mode: 0o644, text: "1\n"}}
	for i, n := range []string{"all", "default", "eth0"} {
		out = append(out, file{name: dir + n + "/" + name, mode: 0o644, text: values[i] + "\n"})
	}
	return out
}

func cut(s string) (fam, name, value string) {
	for i := range s {
		switch s[i] {
		case '/':
			fam = s[:i]
		case ':':
			name, value = s[len(fam)+1:i], s[i+1:]
		}
	}
	return fam, name, value
}

func kernelDefects() []defect {
	var out []defect
	for _, p := range parameters() {
		if p.rule != "" {
			out = append(out, defect{rules: []string{p.rule}, files: []file{{name: "proc/sys/" + p.key, mode: 0o644, text: p.planted + "\n"}}})
		}
	}
	for _, rule := range slices.Sorted(maps.Keys(interfaceParameters())) {
		out = append(out, defect{rules: []string{rule}, files: interfaceFiles(interfaceParameters()[rule], 1)})
	}
	return out
}
