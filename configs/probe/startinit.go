// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"path"
	"slices"
	"strings"
)

// inittab notes what busybox or sysvinit runs.
func (c *startReader) inittab() {
	data, file, ok := c.file(inittabFile)
	if !ok {
		return
	}
	c.f.boot++
	for _, e := range parseInittab(data) {
		o := origin{source: "inittab", entry: e.id, enabled: e.starts()}
		for _, cmd := range readScript(strings.TrimLeft(e.cmd, "@+"), map[string]string{}, nil) {
			cmd.line = e.line
			c.add(o, file, cmd)
		}
	}
}

// scripts notes the start scripts. Where there are directories of links (rc.d of OpenWrt, rc2.d and its like of sysvinit) only
// what is linked there starts; elsewhere what init's own script runs, and S* in init.d.
func (c *startReader) scripts() {
	for _, p := range []string{"/etc/init.d/rcS", "/etc/rcS", "/etc/rc.d/rcS", "/etc/rc.d/rc.sysinit", "/etc/init.d/rc.sysinit"} {
		if c.h.executable(p) {
			c.boot(p, true)
		}
	}
	linked := false
	for _, dir := range []string{"/etc/rc.d", "/etc/rcS.d", "/etc/rc1.d", "/etc/rc2.d", "/etc/rc3.d", "/etc/rc4.d", "/etc/rc5.d",
		"/etc/init.d/rcS.d", "/etc/rc.d/rcS.d", "/etc/rc.d/rc2.d", "/etc/rc.d/rc3.d", "/etc/rc.d/rc4.d", "/etc/rc.d/rc5.d"} {
		for _, n := range c.names(dir) {
			p := path.Join(dir, n)
			if !isStartName(n) || c.h.isDir(p) {
				continue
			}
			linked = linked || dir != "/etc/rcS.d"
			c.boot(p, c.h.executable(p))
		}
	}
	for _, p := range []string{"/etc/rc.local", "/etc/rc.d/rc.local", "/etc/init.d/rc.local"} {
		if c.h.Exists(p) { // OpenWrt and others read it with "sh": it needs no execute bit
			c.boot(p, c.h.executable(p) || !c.h.hasSystemd())
		}
	}
	linked = linked || c.h.isDir("/etc/runlevels") || c.h.Exists("/etc/rc.common")
	for _, n := range c.names("/etc/init.d") {
		p := path.Join("/etc/init.d", n)
		if c.h.isDir(p) || strings.HasPrefix(n, ".") {
			continue
		}
		c.boot(p, !linked && isStartName(n) && (c.h.executable(p) || strings.HasSuffix(n, ".sh")))
	}
}

// isStartName knows S50name; K50name and README start nothing.
func isStartName(n string) bool {
	return len(n) > 2 && n[0] == 'S' && n[1] >= '0' && n[1] <= '9'
}

func (c *startReader) boot(p string, enabled bool) {
	if in, err := c.h.Stat(p); err == nil && in.Mode.IsRegular() && enabled {
		c.f.boot++
	}
	c.script(origin{source: "script", entry: c.h.entryPath(p), enabled: enabled}, p)
}

// openrc notes the services that are linked in a runlevel.
func (c *startReader) openrc() {
	for _, level := range c.names("/etc/runlevels") {
		if level == "shutdown" {
			continue
		}
		dir := path.Join("/etc/runlevels", level)
		for _, n := range c.names(dir) {
			p := path.Join(dir, n)
			in, err := c.h.Stat(p)
			if err != nil || !in.Mode.IsRegular() {
				continue
			}
			if n == "local" {
				c.localScripts()
			}
			c.f.boot++
			o := origin{source: "openrc", entry: c.h.entryPath(p), enabled: c.h.executable(p)}
			data, file, ok := c.file(p)
			if !ok || c.seen[in.Path] {
				continue
			}
			c.seen[in.Path] = true
			conf := ""
			if d, _, ok := c.file(path.Join("/etc/conf.d", n)); ok {
				conf = string(d)
			}
			c.openrcScript(o, file, string(data), conf)
		}
	}
}

// localScripts are what OpenRC's service "local" runs.
func (c *startReader) localScripts() {
	for _, n := range c.names("/etc/local.d") {
		if p := path.Join("/etc/local.d", n); strings.HasSuffix(n, ".start") {
			c.script(origin{source: "openrc", entry: c.h.entryPath(p), enabled: c.h.executable(p)}, p)
		}
	}
}

// openrcScript reads the settings of conf.d before the script, as openrc-run does, without disturbing its line numbers.
func (c *startReader) openrcScript(o origin, file, src, conf string) {
	c.textWith(o, file, src, func(vars map[string]string) { readScript(conf, vars, nil) })
}

// runDirs notes the services of runit, s6 and daemontools: a directory with a run script is one, unless it has a file "down".
func (c *startReader) runDirs() {
	for _, dir := range []string{"/etc/service", "/service", "/var/service", "/etc/runit/runsvdir/default", "/etc/services.d", "/etc/s6/services", "/run/service", "/etc/s6-overlay/s6-rc.d"} {
		for _, n := range c.names(dir) {
			d := path.Join(dir, n)
			run := path.Join(d, "run")
			if strings.HasPrefix(n, ".") || !c.h.isDir(d) || !c.h.Exists(run) {
				continue
			}
			if dir == "/etc/s6-overlay/s6-rc.d" && !c.h.Exists(path.Join(dir, "user/contents.d", n)) {
				continue
			}
			c.f.boot++
			c.script(origin{source: "run", entry: c.h.entryPath(d), enabled: c.h.executable(run) && !c.h.Exists(path.Join(d, "down"))}, run)
		}
	}
}

// cron notes the commands of tables and the scripts of cron.daily and its like.
func (c *startReader) cron() {
	c.cronTable("/etc/crontab", true)
	for _, n := range c.names("/etc/cron.d") {
		if !strings.ContainsAny(n, ".~") { // as cron itself leaves them out
			c.cronTable(path.Join("/etc/cron.d", n), true)
		}
	}
	for _, dir := range []string{"/etc/crontabs", "/var/spool/cron/crontabs", "/var/spool/cron"} {
		for _, n := range c.names(dir) {
			if p := path.Join(dir, n); !c.h.isDir(p) {
				c.cronTable(p, false)
			}
		}
	}
	for _, dir := range []string{"/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly",
		"/etc/periodic/15min", "/etc/periodic/hourly", "/etc/periodic/daily", "/etc/periodic/weekly", "/etc/periodic/monthly"} {
		c.each("periodic", dir, func(n string) bool { return !strings.Contains(n, ".") || strings.HasPrefix(dir, "/etc/periodic") })
	}
}

// each notes the executable scripts of a directory.
func (c *startReader) each(source, dir string, use func(name string) bool) {
	for _, n := range c.names(dir) {
		p := path.Join(dir, n)
		if use(n) && !c.h.isDir(p) && !strings.HasPrefix(n, ".") {
			c.script(origin{source: source, entry: c.h.entryPath(p), enabled: c.h.executable(p)}, p)
		}
	}
}

// cronTable reads one table; a system table has a user before the command.
func (c *startReader) cronTable(name string, system bool) {
	data, file, ok := c.file(name)
	if !ok {
		return
	}
	for i, l := range strings.Split(string(data), "\n") {
		user, cmd, ok := cronCommand(l, system)
		if !ok {
			continue
		}
		if !system {
			user = path.Base(file)
		}
		for _, k := range readScript(cmd, map[string]string{}, nil) {
			k.line = i + 1
			c.add(origin{source: "cron", entry: file, user: user, enabled: true}, file, k)
		}
	}
}

// cronCommand takes the command out of one line: five fields of time or @daily, the user, the command up to a plain %.
func cronCommand(l string, system bool) (user, cmd string, ok bool) {
	l = strings.TrimSpace(l)
	if l == "" || l[0] == '#' || isAssignment(strings.ReplaceAll(l, " ", "")) && !strings.HasPrefix(l, "@") && (l[0] < '0' || l[0] > '9') && l[0] != '*' {
		return "", "", false
	}
	fields := 5
	if l[0] == '@' {
		fields = 1
	}
	if system {
		fields++
	}
	for range fields {
		i := strings.IndexAny(l, " \t")
		if i < 0 {
			return "", "", false
		}
		user, l = l[:i], strings.TrimLeft(l[i:], " \t")
	}
	if !system {
		user = ""
	}
	for i := range len(l) {
		if l[i] == '%' && (i == 0 || l[i-1] != '\\') {
			l = l[:i]
			break
		}
	}
	return user, l, l != ""
}

// profiles notes what runs at a login, when a link comes up and when a lease is got.
func (c *startReader) profiles() {
	for _, p := range []string{"/etc/profile", "/root/.profile", "/root/.bashrc", "/root/.bash_profile", "/etc/bash.bashrc", "/etc/bashrc"} {
		if c.h.Exists(p) {
			c.script(origin{source: "profile", entry: p, enabled: true}, p)
		}
	}
	for _, n := range c.names("/etc/profile.d") {
		if p := path.Join("/etc/profile.d", n); strings.HasSuffix(n, ".sh") {
			c.script(origin{source: "profile", entry: c.h.entryPath(p), enabled: true}, p)
		}
	}
	for _, p := range []string{"/etc/udhcpc.user", "/etc/udhcpc.script", "/usr/share/udhcpc/default.script", "/etc/udhcpc/default.script", "/etc/dhclient-script", "/etc/firewall.user"} {
		if c.h.Exists(p) {
			c.script(origin{source: "hook", entry: c.h.entryPath(p), enabled: true}, p)
		}
	}
	dirs := []string{"/etc/udhcpc/default.script.d", "/etc/udhcpc.d", "/usr/share/udhcpc/default.script.d", "/etc/network/if-pre-up.d", "/etc/network/if-up.d", "/etc/uci-defaults"}
	for _, n := range c.names("/etc/hotplug.d") {
		dirs = append(dirs, path.Join("/etc/hotplug.d", n))
	}
	for _, d := range dirs {
		for _, n := range c.names(d) { // OpenWrt reads those of hotplug.d and uci-defaults with ".": no execute bit
			p := path.Join(d, n)
			plain := strings.HasPrefix(d, "/etc/hotplug.d") || d == "/etc/uci-defaults"
			if !c.h.isDir(p) && !strings.HasPrefix(n, ".") {
				c.script(origin{source: "hook", entry: c.h.entryPath(p), enabled: plain || c.h.executable(p)}, p)
			}
		}
	}
	c.interfaces()
}

// interfaces notes the up and pre-up commands of ifupdown.
func (c *startReader) interfaces() {
	data, file, ok := c.file("/etc/network/interfaces")
	if !ok {
		return
	}
	for i, l := range strings.Split(string(data), "\n") {
		w, rest, ok := strings.Cut(strings.TrimSpace(l), " ")
		if !ok || !slices.Contains([]string{"up", "pre-up", "post-up"}, w) {
			continue
		}
		for _, k := range readScript(rest, map[string]string{}, nil) {
			k.line = i + 1
			c.add(origin{source: "hook", entry: file, enabled: true}, file, k)
		}
	}
}
