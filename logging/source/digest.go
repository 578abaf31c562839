// SPDX-License-Identifier: Apache-2.0

package source

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// smallFile is what most implants and scripts are, in bytes.
const smallFile = 256 << 10

// digester hashes content of files within bounds of bytes and time: a source may not keep a slow flash busy, and may not be
// kept from its queue by a file an attacker made large.
type digester struct {
	max    int64          // bytes of one file
	during time.Duration  // for one file
	budget logging.Bucket // bytes over time
	small  logging.Bucket // the same for small files, so that large ones never cost them their hash
	hash   hash.Hash
	buf    []byte
}

func newDigester(max int64, during time.Duration, perSecond, burst int) *digester {
	b := logging.NewBucket(logging.Rate{Per: float64(perSecond), Burst: burst}, time.Now())
	return &digester{
		max: max, during: during, budget: b, small: b,
		hash: sha256.New(), buf: make([]byte, 32<<10),
	}
}

// digest is the SHA-256 of the first bytes of a file; whole says that it is of all of it.
type digest struct {
	sum   [sha256.Size]byte
	bytes int64
	whole bool
}

func (d digest) String() string { return hex.EncodeToString(d.sum[:]) }

var errBudget = errors.New("too much to hash just now")

// file hashes an open file from its start. What is larger than the bounds is hashed in part. The descriptor's position does
// not change.
func (d *digester) file(fd int) (digest, error) {
	now := time.Now()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return digest{}, err
	}
	budget := &d.budget
	if st.Size <= smallFile {
		budget = &d.small
	}
	if !budget.Fill(now) {
		return digest{}, errBudget
	}
	d.hash.Reset()
	var out digest
	for out.bytes < d.max {
		n, err := unix.Pread(fd, d.buf[:min(int64(len(d.buf)), d.max-out.bytes)], out.bytes)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return digest{}, err
		}
		if n == 0 {
			out.whole = true
			break
		}
		_, _ = d.hash.Write(d.buf[:n])
		out.bytes += int64(n)
		if time.Since(now) > d.during {
			break
		}
	}
	if !out.whole { // it may end exactly here
		n, err := unix.Pread(fd, d.buf[:1], out.bytes)
		out.whole = err == nil && n == 0
	}
	budget.Tokens -= float64(out.bytes)
	d.hash.Sum(out.sum[:0])
	return out, nil
}

// path hashes a regular file by name, without following a link at its end.
func (d *digester) path(name string) (digest, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return digest{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return digest{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return digest{}, unix.EINVAL
	}
	return d.file(fd)
}

// readBounded returns the content of a small file, and whether it is all of it.
func readBounded(name string, max int64) (b []byte, whole bool, err error) {
	f, err := openRegular(name)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	b, err = io.ReadAll(io.LimitReader(f, max+1))
	if int64(len(b)) > max {
		return b[:max], false, err
	}
	return b, true, err
}

// openRegular opens a file to read, and nothing but a file: to open a pipe that lies in its place must not stop a source.
func openRegular(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(&os.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}, err, f.Close())
	}
	return f, nil
}
