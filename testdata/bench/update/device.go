// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// makeImage writes an image of n bytes that does not compress: the key stream of AES-128-CTR with key and counter fixed, so
// that everybody who runs this has the same.
func makeImage(path string, n int64) (image, error) {
	block, err := aes.NewCipher(append(make([]byte, 15), 1))
	if err != nil {
		return image{}, err
	}
	f, err := os.Create(path)
	if err != nil {
		return image{}, err
	}
	defer f.Close()
	h := sha256.New()
	w := cipher.StreamWriter{S: cipher.NewCTR(block, make([]byte, 16)), W: io.MultiWriter(f, h)}
	if _, err := io.CopyN(w, zeros{}, n); err != nil {
		return image{}, err
	}
	return image{path: path, size: n, sha256: [32]byte(h.Sum(nil))}, f.Sync()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// loop is a loop device over a file.
type loop struct{ dev string }

func newLoop(ctx context.Context, path string, n int64) (*loop, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	// Written once, so that no run pays for blocks that the file system has to find first.
	_, err = io.CopyN(f, zeros{}, n)
	if err == nil {
		err = f.Sync()
	}
	f.Close()
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("losetup: %w: %s", err, out)
	}
	return &loop{dev: strings.TrimSpace(string(out))}, nil
}

func (l *loop) detach() { _ = exec.Command("losetup", "--detach", l.dev).Run() }

// written is how many bytes the kernel has written to the device.
func (l *loop) written() int64 {
	b, _ := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(l.dev), "stat"))
	f := strings.Fields(string(b))
	if len(f) < 7 {
		return 0
	}
	n, _ := strconv.ParseInt(f[6], 10, 64)
	return n * 512
}

// spoil makes sure that nothing of the image is there already, as backstay does not write what a slot holds, and that nothing is
// left to be written by somebody else.
func (l *loop) spoil(n int64) error {
	f, err := os.OpenFile(l.dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	other := bytes.Repeat([]byte{0x5a}, 1<<20)
	for at := int64(0); at < n; at += int64(len(other)) {
		if _, err := f.WriteAt(other[:min(int64(len(other)), n-at)], at); err != nil {
			return err
		}
	}
	return flush(f)
}

// holds compares the device with the image.
func (l *loop) holds(img image) error {
	f, err := os.Open(l.dev)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := flush(f); err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.CopyN(h, f, img.size); err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), img.sha256[:]) {
		return fmt.Errorf("%s does not hold the image", l.dev)
	}
	return nil
}

func flush(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	_, err := unix.IoctlRetInt(int(f.Fd()), unix.BLKFLSBUF)
	return err
}
