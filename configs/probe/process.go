// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Bounds of reading /proc.
const (
	maxProcesses   = 32768
	maxCommandLine = 8 << 10 // bytes of one command line
	maxStatFile    = 4 << 10
)

// errNotLive says that processes and sockets exist only on a running system.
var errNotLive = errors.New("it can only be judged on a running system")

// process is one entry of the process table.
type process struct {
	pid, ppid int
	name      string   // as the kernel has it, at most 15 bytes
	args      []string // nil for a kernel thread, or when they may not be read
	exe       string   // file of the program; "" for a kernel thread, or when it may not be read
	deleted   bool     // the file is no longer there
	uid       uint32   // effective
	zombie    bool     // it ended and its parent has not noticed
	started   uint64   // clock ticks after boot: with the pid it names a process for good
}

// program is the name under which it runs: of a busybox the applet.
func (p process) program() string {
	if len(p.args) == 0 {
		return p.name
	}
	words := unwrap(p.args)
	if baseName(p.args[0]) != "busybox" {
		words = p.args
	}
	if len(words) == 0 {
		return p.name
	}
	first, _, _ := strings.Cut(words[0], " ") // a program that rewrites its title
	return strings.TrimSuffix(baseName(first), ":")
}

// kernel reports whether it is a thread of the kernel.
func (p process) kernel() bool { return p.ppid == 2 || p.pid == 2 }

// processFacts is the process table.
type processFacts struct {
	list   []process
	hidden int   // processes whose program may not be read
	err    error // no table at all
}

// processes reads the process table of the running system, once for a run.
func (h *Host) processes(ctx context.Context) *processFacts {
	defer h.sharing("processes", h.running != nil)()
	if h.running == nil {
		f := h.readProcesses(ctx)
		if ctx.Err() != nil {
			return f
		}
		h.running = f
	}
	return h.running
}

func (h *Host) readProcesses(ctx context.Context) *processFacts {
	f := &processFacts{}
	if !h.live {
		f.err = errNotLive
		return f
	}
	for n, err := range h.tree.Names("proc") {
		if err != nil {
			f.err = fmt.Errorf("list /proc: %w", cause(err))
			return f
		}
		if f.err = ctx.Err(); f.err != nil {
			return f
		}
		pid, ok := number(n)
		if !ok {
			continue
		}
		if len(f.list) >= maxProcesses {
			f.err = fmt.Errorf("list /proc: %w: more than %d processes", ErrTooLarge, maxProcesses)
			return f
		}
		p, err := h.process(pid)
		if p.pid == 0 {
			continue // gone since the directory was read
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.hidden++
		}
		f.list = append(f.list, p)
	}
	if len(f.list) == 0 {
		f.err = errors.New("/proc shows no processes: is it mounted?")
	}
	slices.SortFunc(f.list, func(a, b process) int { return a.pid - b.pid })
	return f
}

// process reads one entry; with an error and a pid, what could be read of it.
func (h *Host) process(pid int) (process, error) {
	dir := "proc/" + strconv.Itoa(pid)
	stat, err := h.small(dir+"/stat", maxStatFile)
	if err != nil {
		return process{}, err
	}
	p, err := parseStat(stat)
	if err != nil {
		return process{}, err
	}
	if fi, err := h.tree.Lstat(dir); err == nil {
		p.uid = infoOf("", fi).UID
	}
	if line, err := h.small(dir+"/cmdline", maxCommandLine); err == nil && len(line) > 0 {
		p.args = strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	}
	exe, err := h.tree.ReadLink(dir + "/exe")
	if err != nil {
		if p.kernel() {
			err = nil
		}
		return p, err
	}
	p.exe, p.deleted = strings.CutSuffix(exe, " (deleted)")
	return p, nil
}

// small reads the head of a file of /proc, whose size is not known before.
func (h *Host) small(name string, limit int64) ([]byte, error) {
	f, err := openRegular(h.tree, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// parseStat reads /proc/PID/stat. The name is in parentheses and may itself have some, and spaces.
func parseStat(data []byte) (process, error) {
	bad := errors.New("read stat of a process: not understood")
	s := string(data)
	i, j := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if i < 0 || j < i {
		return process{}, bad
	}
	pid, ok := number(strings.TrimSpace(s[:i]))
	f := strings.Fields(s[j+1:])
	if !ok || len(f) < 20 {
		return process{}, bad
	}
	ppid, err := strconv.Atoi(f[1])
	if err != nil {
		return process{}, bad
	}
	started, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return process{}, bad
	}
	return process{pid: pid, ppid: ppid, name: s[i+1 : j], started: started, zombie: f[0] == "Z" || f[0] == "X"}, nil
}

// number reads a pid or descriptor: digits only.
func number(s string) (int, bool) {
	if s == "" || len(s) > 9 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// sockets lists the inodes of the sockets that a process has open.
func (h *Host) sockets(pid int) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		dir := "proc/" + strconv.Itoa(pid) + "/fd"
		tree, base := h.tree, dir
		if s, ok := tree.(subTree); ok {
			if sub, c, err := s.Sub(dir); err == nil {
				defer c.Close()
				tree, base = sub, "."
			}
		}
		for n, err := range tree.Names(base) {
			if err != nil {
				return
			}
			to, err := tree.ReadLink(path.Join(base, n))
			if err != nil {
				continue
			}
			if inode, ok := socketInode(to); ok && !yield(inode) {
				return
			}
		}
	}
}

// socketInode reads the target of a descriptor that is a socket: socket:[12345].
func socketInode(to string) (uint64, bool) {
	s, ok := strings.CutPrefix(to, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return inode, err == nil
}
