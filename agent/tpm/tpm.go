// SPDX-License-Identifier: Apache-2.0

// Package tpm speaks the few TPM 2.0 commands that the agent needs beside keys: those of a counter in non-volatile memory.
//
// A counter of the TPM only rises: it survives power loss, a clear of the owner hierarchy and a new definition under the same
// index, which continues from the highest value any counter of this TPM ever had (TPM 2.0 Library Part 3, 31.3). What it
// proves: a value read now is not smaller than one read before. What it does not: who incremented it. Root can raise it, and
// can put an ordinary index in its place; [OpenCounter] refuses an index that is not a counter.
//
// It owns no state but the NV index it is given. Every program that may open the device can raise the counter: raising is an
// alarm, never a way around one. The replies of a TPM, or of whoever sits on the bus in its place, are parsed with limits.
package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Device is an open TPM 2.0. Its methods are safe for concurrent use; each command takes 1 ms to some 100 ms.
type Device struct {
	mu sync.Mutex
	rw io.ReadWriteCloser
}

// Code is a response code of the TPM.
type Code uint32

func (c Code) Error() string { return fmt.Sprintf("tpm: response code 0x%03x", uint32(c)) }

// Response codes the package looks at. Codes of format one carry the number of a handle or parameter in bits 8 to 11.
const (
	codeHandle   Code = 0x08b // format one: no such handle
	codeDefined  Code = 0x14c
	codeUnset    Code = 0x14a // a counter that was never incremented
	codeRetry    Code = 0x922
	codeYielded  Code = 0x908
	codeTesting  Code = 0x90a
	codeNVRate   Code = 0x920 // too many writes for the memory; later
	formatOne    Code = 0x080
	maskFormat1  Code = 0x0bf
	maxReply          = 4096
	retries           = 20
	replyHeader       = 10
	tagPlain          = 0x8001
	tagSessions       = 0x8002
	replyTimeout      = 5 * time.Second
)

// is reports whether the error is the code, whatever handle it is about.
func is(err error, want Code) bool {
	var c Code
	if !errors.As(err, &c) {
		return false
	}
	if c&formatOne != 0 {
		c &= maskFormat1
	}
	return c == want
}

// Open opens a TPM: the path of the kernel's resource manager, /dev/tpmrm0, or "unix:PATH" for a TPM in software. Never
// /dev/tpm0: what a program leaves behind there makes every other user's command fail.
func Open(path string) (*Device, error) {
	if name, ok := strings.CutPrefix(path, "unix:"); ok {
		c, err := net.DialTimeout("unix", name, replyTimeout)
		if err != nil {
			return nil, fmt.Errorf("open tpm: %w", err)
		}
		return &Device{rw: c}, nil
	}
	// A blocking descriptor of our own: os.Open makes it non-blocking, then a read comes before the TPM has answered.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open tpm: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	return &Device{rw: rawFile(fd)}, nil
}

// Close closes the connection.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rw.Close()
}

// rawFile is a blocking file descriptor.
type rawFile int

func (f rawFile) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(f), p)
		if err == unix.EINTR {
			continue
		}
		if n == 0 && err == nil {
			return 0, io.EOF
		}
		return max(n, 0), err
	}
}

func (f rawFile) Write(p []byte) (int, error) {
	for {
		n, err := unix.Write(int(f), p)
		if err == unix.EINTR {
			continue
		}
		return max(n, 0), err
	}
}

func (f rawFile) Close() error { return unix.Close(int(f)) }

// command runs one command and returns the parameters of the reply. With auth, the first handle is authorised by an empty
// password.
func (d *Device) command(code uint32, handles []uint32, auth bool, params []byte) ([]byte, error) {
	tag := uint16(tagPlain)
	var body []byte
	for _, h := range handles {
		body = binary.BigEndian.AppendUint32(body, h)
	}
	if auth {
		tag = tagSessions
		body = binary.BigEndian.AppendUint32(body, 9)          // size of the authorisation
		body = binary.BigEndian.AppendUint32(body, 0x40000009) // TPM_RS_PW
		body = append(body, 0, 0, 0, 0, 0)                     // no nonce, no attributes, empty password
	}
	body = append(body, params...)
	msg := binary.BigEndian.AppendUint16(nil, tag)
	msg = binary.BigEndian.AppendUint32(msg, uint32(replyHeader+len(body)))
	msg = append(binary.BigEndian.AppendUint32(msg, code), body...)

	d.mu.Lock()
	defer d.mu.Unlock()
	for try := 0; ; try++ {
		reply, err := d.exchange(msg)
		if err == nil {
			reply, err = parseReply(reply, auth)
		}
		if again := is(err, codeRetry) || is(err, codeYielded) || is(err, codeTesting); !again || try == retries {
			return reply, err
		}
		time.Sleep(min(time.Duration(try+1)*10*time.Millisecond, 200*time.Millisecond))
	}
}

// exchange sends a command and reads the whole reply. The kernel gives it in one read; a stream may cut it anywhere.
func (d *Device) exchange(msg []byte) ([]byte, error) {
	if c, ok := d.rw.(net.Conn); ok {
		if err := c.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
			return nil, err
		}
	}
	if _, err := d.rw.Write(msg); err != nil {
		return nil, fmt.Errorf("tpm: write command: %w", err)
	}
	buf := make([]byte, maxReply)
	n := 0
	for {
		k, err := d.rw.Read(buf[n:])
		n += k
		if err != nil {
			return nil, fmt.Errorf("tpm: read reply: %w", err)
		}
		if n < replyHeader {
			continue
		}
		size := binary.BigEndian.Uint32(buf[2:])
		if size < replyHeader || size > maxReply || uint32(n) > size {
			return nil, errMalformed
		}
		if uint32(n) == size {
			return buf[:n], nil
		}
	}
}

var errMalformed = errors.New("tpm: malformed reply")

// parseReply takes the header and the authorisation area off.
func parseReply(b []byte, auth bool) ([]byte, error) {
	if len(b) < replyHeader || binary.BigEndian.Uint32(b[2:]) != uint32(len(b)) {
		return nil, errMalformed
	}
	if rc := Code(binary.BigEndian.Uint32(b[6:])); rc != 0 {
		return nil, rc
	}
	tag, rest := binary.BigEndian.Uint16(b), b[replyHeader:]
	if !auth {
		if tag != tagPlain {
			return nil, errMalformed
		}
		return rest, nil
	}
	if tag != tagSessions || len(rest) < 4 {
		return nil, errMalformed
	}
	n := binary.BigEndian.Uint32(rest)
	if uint64(n) > uint64(len(rest)-4) {
		return nil, errMalformed
	}
	return rest[4 : 4+n], nil
}

// sized takes a buffer with a length of two bytes off the front.
func sized(b []byte) (buf, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errMalformed
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > len(b)-2 {
		return nil, nil, errMalformed
	}
	return b[2 : 2+n], b[2+n:], nil
}
