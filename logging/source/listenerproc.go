// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Bounds of looking into /proc.
const (
	maxProcNet  = 1 << 20 // bytes of one table
	maxPids     = 4096
	maxFDs      = 1024 // of one process
	maxFDsAll   = 8192 // links read in one scan
	maxWantedFD = 2 * maxListeners
)

// procNet reads the tables of sockets that the kernel writes as text.
type procNet struct{ buf []byte }

// read hands fn each socket of the table that listens. A file that is not there is a protocol the kernel does not have.
func (p *procNet) read(name string, t *table, fn func(endpoint, socketOwner)) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if p.buf == nil {
		p.buf = make([]byte, 8<<10)
	}
	kept := 0
	for total := 0; total < maxProcNet; {
		n, err := f.Read(p.buf[kept:])
		total += n
		data := p.buf[:kept+n]
		for {
			line, rest, whole := bytes.Cut(data, []byte("\n"))
			if !whole {
				break
			}
			data = rest
			e, o, st := parseProcNet(line, t)
			if st == socketListens {
				fn(e, o)
			} else if st == socketConnected && t.protocol == unix.IPPROTO_TCP {
				return nil // those that listen come first, and there may be thousands of the others
			}
		}
		kept = copy(p.buf, data)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if kept == len(p.buf) {
			return errTruncated
		}
	}
	return errTruncated
}

type socketState uint8

const (
	socketUnknown socketState = iota // the heading, or nothing we understand
	socketListens
	socketConnected
)

// parseProcNet reads one line of /proc/net/{tcp,tcp6,udp,udp6}:
//
//	0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 ...
func parseProcNet(line []byte, t *table) (endpoint, socketOwner, socketState) {
	var f [10][]byte
	n := 0
	for field := range bytes.FieldsSeq(line) {
		if n == len(f) {
			break
		}
		f[n] = field
		n++
	}
	if n < len(f) || len(f[3]) != 2 {
		return endpoint{}, socketOwner{}, socketUnknown
	}
	e := endpoint{protocol: t.protocol, family: t.family}
	_, remotePort, ok := bytes.Cut(f[2], []byte(":"))
	if !ok || !e.parse(f[1]) {
		return endpoint{}, socketOwner{}, socketUnknown
	}
	uid, err1 := strconv.ParseUint(string(f[7]), 10, 32)
	inode, err2 := strconv.ParseUint(string(f[9]), 10, 32)
	if err1 != nil || err2 != nil {
		return endpoint{}, socketOwner{}, socketUnknown
	}
	o := socketOwner{inode: uint32(inode), uid: uint32(uid)}
	tcp := t.protocol == unix.IPPROTO_TCP && string(f[3]) == "0A"
	udp := t.protocol == unix.IPPROTO_UDP && string(f[3]) == "07" && string(remotePort) == "0000"
	if e.port == 0 || !tcp && !udp {
		return e, o, socketConnected
	}
	return e, o, socketListens
}

// parse reads ADDRESS:PORT. The address is printed as numbers of 32 bits of this machine.
func (e *endpoint) parse(b []byte) bool {
	addr, port, ok := bytes.Cut(b, []byte(":"))
	want := 8
	if e.family == unix.AF_INET6 {
		want = 32
	}
	var raw [16]byte
	var p [2]byte
	if !ok || len(addr) != want || len(port) != 4 {
		return false
	}
	if _, err := hex.Decode(raw[:], addr); err != nil {
		return false
	}
	if _, err := hex.Decode(p[:], port); err != nil {
		return false
	}
	for i := 0; i < want/2; i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	e.port = binary.BigEndian.Uint16(p[:])
	e.setAddr(raw[:])
	return true
}

// ownerScan finds the processes that hold sockets. It costs a look at every descriptor of every process, so it is made only
// for sockets that are new, and has bounds; a process that hides behind them has no name in the record, but its port is there.
type ownerScan struct {
	root   string
	wanted map[uint32]procOwner
	left   int // wanted and not found
	pids   []int
}

type procOwner struct {
	pid int
	exe string
}

func (s *ownerScan) begin() {
	s.left = 0
	clear(s.wanted)
}

func (s *ownerScan) want(inode uint32) {
	if s.wanted == nil {
		s.wanted = map[uint32]procOwner{}
	}
	if _, twice := s.wanted[inode]; twice || inode == 0 || len(s.wanted) >= maxWantedFD {
		return
	}
	s.wanted[inode] = procOwner{}
	s.left++
}

func (s *ownerScan) of(inode uint32) (pid int, exe string) {
	o := s.wanted[inode]
	return o.pid, o.exe
}

// scan begins with the youngest processes: who opened a port a moment ago is likely among them.
func (s *ownerScan) scan() {
	if s.left == 0 {
		return
	}
	proc, err := os.Open(s.root)
	if err != nil {
		return
	}
	defer proc.Close()
	s.pids = s.pids[:0]
	for len(s.pids) < maxPids {
		names, err := proc.Readdirnames(256)
		for _, name := range names {
			if pid, err := strconv.Atoi(name); err == nil && pid > 0 {
				s.pids = append(s.pids, pid)
			}
		}
		if err != nil {
			break
		}
	}
	links := 0
	for i := len(s.pids) - 1; i >= 0 && s.left > 0 && links < maxFDsAll; i-- {
		links += s.process(s.pids[i])
	}
}

// process looks at one process, and returns how many links it read.
func (s *ownerScan) process(pid int) int {
	dir := s.root + "/" + strconv.Itoa(pid)
	d, err := os.Open(dir + "/fd")
	if err != nil {
		return 1
	}
	defer d.Close()
	names, _ := d.Readdirnames(maxFDs) //nolint:errcheck // what is there counts
	var link [64]byte
	for _, name := range names {
		n, err := unix.Readlinkat(int(d.Fd()), name, link[:])
		if err != nil {
			continue
		}
		v, ok := bytes.CutPrefix(link[:n], []byte("socket:["))
		if !ok {
			continue
		}
		inode, err := strconv.ParseUint(string(bytes.TrimSuffix(v, []byte("]"))), 10, 32)
		if err != nil {
			continue
		}
		if o, want := s.wanted[uint32(inode)]; want && o.pid == 0 {
			exe, _ := os.Readlink(dir + "/exe") //nolint:errcheck // it may be gone
			s.wanted[uint32(inode)] = procOwner{pid: pid, exe: exe[:min(len(exe), maxListenName)]}
			s.left--
		}
	}
	return len(names) + 1
}
