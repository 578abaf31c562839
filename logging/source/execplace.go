// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// device is the number of a file system, as in mountinfo and in stat(2).
type device struct{ major, minor uint32 }

func deviceOf(st *unix.Stat_t) device {
	return device{unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))}
}

// memoryTypes are file systems that hold what somebody put there since the device started.
var memoryTypes = [...]string{"tmpfs", "ramfs", "devtmpfs"}

// pseudoTypes hold no programs: the kernel's own interfaces.
var pseudoTypes = [...]string{
	"autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "functionfs", "fusectl",
	"mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sysfs", "tracefs",
}

// remoteTypes are served by somebody else, a program or another machine. They are left alone unless they are asked for by name:
// the kernel opens the file of each event for the agent, and whoever serves it could let the agent wait for ever.
var remoteTypes = [...]string{"9p", "afs", "ceph", "cifs", "fuse", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"}

// workDirs are for data that comes and goes, whatever they are mounted on.
var workDirs = [...]string{"/tmp/", "/var/tmp/", "/dev/", "/run/", "/var/run/", "/var/lock/"}

// places knows where programs belong.
type places struct {
	env  *Env
	root device
	// why tells of a file system that no program belongs on.
	why map[device]string
	// watched are the file systems, by their mount points, for the inventory.
	watched []string
	remote  []string // and those that are not, because somebody else serves them

	dirs  [32]dirEntry
	at    int
	walks logging.Bucket // looks at directories
}

func newPlaces(env *Env) places {
	return places{env: env, walks: logging.NewBucket(logging.Rate{Per: 100, Burst: 500}, time.Now())}
}

// chosen returns the mounts to watch, one for each file system: those of Env.Mounts, or all that can hold programs.
func chosen(env *Env, list []mount) []mount {
	var out []mount
	seen := make(map[device]bool)
	for _, m := range list {
		dev := device{m.major, m.minor}
		if seen[dev] || slices.Contains(pseudoTypes[:], m.fsType) {
			continue
		}
		if len(env.Mounts) > 0 && !slices.Contains(env.Mounts, m.point) || len(env.Mounts) == 0 && remote(m.fsType) {
			continue
		}
		seen[dev] = true
		out = append(out, m)
	}
	return out
}

func remote(fsType string) bool {
	return slices.Contains(remoteTypes[:], fsType) || strings.HasPrefix(fsType, "fuse.")
}

// learn takes the mount table.
func (p *places) learn(list []mount) {
	var st unix.Stat_t
	if unix.Stat(p.env.Path("/"), &st) == nil {
		p.root = deviceOf(&st)
	}
	p.why = make(map[device]string)
	for _, m := range list {
		dev := device{m.major, m.minor}
		switch {
		case dev == p.root: // a system that lives in memory, or on a stick, has its programs there
		case slices.Contains(memoryTypes[:], m.fsType):
			p.why[dev] = "file system in memory"
		case p.removable(dev):
			p.why[dev] = "removable medium"
		}
	}
}

// removable asks sysfs whether a block device, or the disk it is a part of, can be taken out or hangs on USB.
func (p *places) removable(dev device) bool {
	if dev.major == 0 {
		return false
	}
	link := p.env.Path("/sys/dev/block/" + strconv.Itoa(int(dev.major)) + ":" + strconv.Itoa(int(dev.minor)))
	dir, err := filepath.EvalSymlinks(link)
	if err != nil {
		return false
	}
	if strings.Contains(dir, "/usb") {
		return true
	}
	for _, d := range [...]string{dir, filepath.Dir(dir)} {
		if b, err := os.ReadFile(filepath.Join(d, "removable")); err == nil {
			return strings.TrimSpace(string(b)) == "1"
		}
	}
	return false
}

// unfit says why no program belongs where path is, "" when one may be there. sure is false when there was no time to look at
// the directories above it.
func (p *places) unfit(path string, st *unix.Stat_t, now time.Time) (why string, sure bool) {
	if why := p.why[deviceOf(st)]; why != "" {
		return why, true
	}
	for _, dir := range workDirs {
		if strings.HasPrefix(path, dir) {
			return "directory for data: " + strings.TrimSuffix(dir, "/"), true
		}
	}
	if st.Mode&unix.S_IWOTH != 0 {
		return "everybody may write the program", true
	}
	return p.open(filepath.Dir(path), now)
}

// dirEntry is what was found out of one directory.
type dirEntry struct {
	dir, why string
	until    time.Time
}

// open says whether everybody may write a directory or one above it. Who may write a directory may replace what is in it, the
// sticky bit or not: that stops only those who do not own the file. The answers are kept for a minute.
func (p *places) open(dir string, now time.Time) (why string, sure bool) {
	for i := range p.dirs {
		if p.dirs[i].dir == dir && now.Before(p.dirs[i].until) {
			return p.dirs[i].why, true
		}
	}
	if !p.walks.Take(now) {
		return "", false
	}
	for d := dir; ; d = filepath.Dir(d) {
		var st unix.Stat_t
		if unix.Lstat(p.env.Path(d), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_IWOTH != 0 {
			why = "everybody may write " + d
			break
		}
		if d == "/" || d == "." {
			break
		}
	}
	if len(dir) <= maxMountText {
		p.dirs[p.at] = dirEntry{dir, why, now.Add(classKept)}
		p.at = (p.at + 1) % len(p.dirs)
	}
	return why, true
}

// loader reports whether path is the dynamic loader, which the kernel opens with every dynamic program.
func loader(path string) bool {
	base := filepath.Base(path)
	for _, prefix := range [...]string{"ld-linux", "ld-musl", "ld-uClibc", "ld64-uClibc", "ld.so", "ld64.so", "ld-2.", "klibc-"} {
		if strings.HasPrefix(base, prefix) {
			return true
		}
	}
	return false
}

// markAll marks what is not marked yet, and returns what could not be.
func markAll(g *fanGroup, env *Env, list []mount, marked map[device]bool) (failed []string, err error) {
	for _, m := range list {
		dev := device{m.major, m.minor}
		if marked[dev] {
			continue
		}
		err := g.mark(env.Path(m.point))
		switch {
		case errors.Is(err, unix.EINVAL) && g.mask&unix.FAN_OPEN_EXEC != 0 && len(marked) == 0 && len(failed) == 0:
			return nil, fmt.Errorf("kernel before 5.0, without FAN_OPEN_EXEC: %w", ErrUnavailable)
		case errors.Is(err, unix.EPERM):
			return nil, fmt.Errorf("no right: needs CAP_SYS_ADMIN in the first user namespace: %w", ErrUnavailable)
		case err != nil: // gone again, or a file system that cannot
			failed = append(failed, m.point)
		default:
			marked[dev] = true
		}
	}
	return failed, nil
}
