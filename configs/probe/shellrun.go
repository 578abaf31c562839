// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"path"
	"slices"
	"strings"
)

// wrapper is a command that runs another one: after its options and some operands comes what it runs.
type wrapper struct {
	values   string // options of one letter that take the next word
	operands int
}

// wrappers are commands whose operands are a command. Of programs that are not here operands are operands: "killall telnetd"
// starts nothing.
func wrappers(name string) (wrapper, bool) {
	switch name {
	case "exec", "nohup", "setsid", "command", "builtin", "time", "env", "stdbuf", "unshare", "busybox", "eval", "daemon", "start_daemon", "setarch",
		"service_start", "cttyhack", "daemonize", "rund", "proot":
		return wrapper{values: "aupioeS"}, true
	case "nice", "renice", "ionice", "softlimit", "chpst", "with-contenv", "linux32", "sudo", "doas", "setpriv", "watch":
		return wrapper{values: "ncpugmodafrstbeU/"}, true
	case "timeout", "chroot", "taskset", "chrt", "flock", "setuidgid", "s6-setuidgid", "su-exec", "gosu", "envdir":
		return wrapper{values: "skuUbewmnPoc", operands: 1}, true
	case "tcpsvd", "udpsvd":
		return wrapper{values: "ceubClitx", operands: 2}, true
	case "ip": // ip netns exec NAME command
		return wrapper{operands: 3}, true
	}
	return wrapper{}, false
}

func isShell(name string) bool {
	return slices.Contains([]string{"sh", "ash", "bash", "dash", "hush", "mksh", "ksh", "zsh"}, name)
}

// baseName is the program of a command word; init and login write a dash before a shell.
func baseName(w string) string { return strings.TrimLeft(path.Base(w), "-") }

// unwrap gives the command that words really run, nil for none. A text for a shell is left to the caller: see shellText.
func unwrap(words []string) []string {
	for range 8 {
		for len(words) > 0 && isAssignment(words[0]) {
			words = words[1:]
		}
		if len(words) == 0 {
			return nil
		}
		name := baseName(words[0])
		switch {
		case name == "start-stop-daemon":
			return daemonCommand(words[1:])
		case name == "procd_set_param" || name == "procd_append_param":
			if len(words) < 3 || words[1] != "command" {
				return nil
			}
			words = words[2:]
			continue
		case name == "ip" && !(len(words) > 4 && words[1] == "netns" && words[2] == "exec"):
			return words
		case strings.HasPrefix(name, "ld-") && strings.Contains(name, ".so") && len(words) > 1:
			words = words[1:]
			continue
		}
		w, ok := wrappers(name)
		if !ok {
			return words
		}
		inner := afterOptions(words[1:], w.values)
		if len(inner) <= w.operands {
			if w.operands > 0 || len(inner) == 0 {
				return words
			}
		}
		words = inner[w.operands:]
	}
	return words
}

func isAssignment(w string) bool {
	n := nameLen(w)
	return n > 0 && n < len(w) && w[n] == '='
}

// afterOptions skips options; those of one letter in values take the next word.
func afterOptions(words []string, values string) []string {
	for len(words) > 0 && strings.HasPrefix(words[0], "-") && len(words[0]) > 1 {
		w := words[0]
		words = words[1:]
		if w == "--" {
			break
		}
		if len(w) == 2 && strings.IndexByte(values, w[1]) >= 0 && len(words) > 0 {
			words = words[1:]
		}
	}
	return words
}

// daemonCommand reads the arguments of start-stop-daemon: nil when it stops something.
func daemonCommand(args []string) []string {
	var program string
	var rest []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		name, value, joined := strings.Cut(a, "=")
		next := func() string {
			if joined {
				return value
			}
			if i++; i < len(args) {
				return args[i]
			}
			return ""
		}
		switch {
		case a == "--":
			rest = args[i+1:]
			i = len(args)
		case name == "--stop" || name == "-K" || name == "--status" || name == "-T":
			return nil
		case slices.Contains([]string{"--exec", "--startas"}, name):
			program = next()
		case strings.HasPrefix(a, "--"):
			if !joined && slices.Contains([]string{"--pidfile", "--name", "--user", "--group", "--chuid", "--chdir", "--chroot", "--nicelevel", "--stdout", "--stderr", "--umask", "--retry", "--signal", "--iosched", "--procsched", "--ppid", "--pid", "--wait"}, a) {
				i++
			}
		case strings.HasPrefix(a, "-") && len(a) > 1: // merged: -SqbMx /sbin/x
			for j := 1; j < len(a); j++ {
				if a[j] == 'K' || a[j] == 'T' {
					return nil
				}
				if strings.IndexByte("xapncugdrNPIskRe", a[j]) < 0 {
					continue
				}
				v := a[j+1:]
				if v == "" {
					v = next()
				}
				if a[j] == 'x' || a[j] == 'a' {
					program = v
				}
				break
			}
		case program == "": // busybox and OpenRC take the program as an operand, too
			program = a
		default:
			rest = append(rest, a)
		}
	}
	if program == "" {
		return nil
	}
	return append([]string{program}, rest...)
}

// shellText gives the text that a command hands to a shell: of sh -c, su -c and eval.
func shellText(words []string) (string, bool) {
	if len(words) < 2 {
		return "", false
	}
	name := baseName(words[0])
	if name != "su" && name != "runuser" && name != "script" && !isShell(name) {
		return "", false
	}
	for i, w := range words[1:] {
		flag := strings.HasPrefix(w, "-") && !strings.HasPrefix(w, "--") && strings.HasSuffix(w, "c")
		if (flag || w == "--command") && i+2 < len(words) {
			return words[i+2], true
		}
		if isShell(name) && !strings.HasPrefix(w, "-") {
			break
		}
	}
	return "", false
}
