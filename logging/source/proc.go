// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// process is what /proc tells of a process while it is there; -1 is unknown.
type process struct {
	ppid, uid, euid int
}

// procReader looks into /proc without allocating.
type procReader struct {
	root string // of /proc
	path []byte
	buf  [1024]byte // the lines wanted are among the first
}

func newProcReader(env *Env) procReader { return procReader{root: env.Path("/proc")} }

func (r *procReader) name(pid int, file string) string {
	r.path = append(r.path[:0], r.root...)
	r.path = append(r.path, '/')
	r.path = strconv.AppendInt(r.path, int64(pid), 10)
	r.path = append(r.path, file...)
	return string(r.path)
}

// owner returns the effective uid of a process with one call, -1 when it is gone. A process that may not be traced seems to
// belong to root.
func (r *procReader) owner(pid int) int {
	var st unix.Stat_t
	if unix.Stat(r.name(pid, ""), &st) != nil {
		return -1
	}
	return int(st.Uid)
}

// status reads PPid and Uid.
func (r *procReader) status(pid int) process {
	fd, err := unix.Open(r.name(pid, "/status"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return process{-1, -1, -1}
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, r.buf[:])
	if err != nil {
		return process{-1, -1, -1}
	}
	return parseStatus(r.buf[:n])
}

// parseStatus finds PPid and the first two of Uid in /proc/PID/status. The name of the process, of its own choice, comes
// first; the kernel escapes line ends in it.
func parseStatus(b []byte) process {
	p := process{-1, -1, -1}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("PPid:")); ok {
			p.ppid = number(bytes.TrimSpace(v))
		} else if v, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			if f := bytes.Fields(v); len(f) >= 2 {
				p.uid, p.euid = number(f[0]), number(f[1])
			}
			return p
		}
	}
	return p
}

// number reads a decimal number that fits an int on every machine but the last id of 32 bits, which nobody has; -1 otherwise.
func number(b []byte) int {
	n, err := strconv.ParseUint(string(b), 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}

// exe returns the program of a process, "" when it is gone or the kernel's own.
func (r *procReader) exe(pid int) string {
	s, err := os.Readlink(r.name(pid, "/exe"))
	if err != nil {
		return ""
	}
	return s
}
