// SPDX-License-Identifier: Apache-2.0

// Command deltabench measures deltas beside other ways to send less than an image; run.sh calls it, and docs/delta.md has the
// table.
//
//	deltabench encode BASE IMAGE PAYLOAD   makes a payload (BASE "-": a compressed image)
//	deltabench apply BASE IMAGE PAYLOAD    makes the image as a device does, and prints the time and the memory it took
//	deltabench others BASE IMAGE           prints what chunks and block hashes would fetch
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/delta"
	"github.com/backstay/backstay/update/delta/encode"
)

func main() {
	args := append(os.Args[1:], "", "", "", "")
	var err error
	switch args[0] {
	case "encode":
		err = makePayload(args[1], args[2], args[3])
	case "apply":
		err = apply(args[1], args[2], args[3])
	case "others":
		err = others(args[1], args[2])
	default:
		err = fmt.Errorf("deltabench: unknown command %q", args[0])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// signed is what a repository would sign.
type signed struct {
	Payload update.Payload
	Image   update.Release
}

func makePayload(base, image, payload string) error {
	var b []byte
	var err error
	if base != "-" {
		if b, err = os.ReadFile(base); err != nil {
			return err
		}
	}
	i, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	f, err := os.Create(payload)
	if err != nil {
		return err
	}
	defer f.Close()
	start := time.Now()
	r, err := encode.Write(context.Background(), f, b, i, encode.Options{})
	if err != nil {
		return err
	}
	fmt.Printf("payload %d bytes, index %d, encoded in %.1f s\n", r.Length, r.IndexLength, time.Since(start).Seconds())
	s, err := json.Marshal(signed{
		Payload: update.Payload{Path: payload, Length: r.Length, SHA256: r.SHA256, IndexLength: r.IndexLength, IndexSHA256: r.IndexSHA256, Base: r.Base, BaseLength: r.BaseLength},
		Image:   update.Release{Path: image, Length: int64(len(i)), SHA256: sha256.Sum256(i)},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(payload+".json", s, 0o644)
}

// files opens targets as files.
type files struct{}

func (files) Latest(context.Context) (update.Release, error) {
	return update.Release{}, update.ErrNothing
}
func (files) Open(_ context.Context, r update.Release, off int64) (io.ReadCloser, error) {
	f, err := os.Open(r.Path)
	if err != nil {
		return nil, err
	}
	_, err = f.Seek(off, io.SeekStart)
	return f, err
}

// slot is a file as a slot.
type slot struct{ *os.File }

func (s slot) Size() int64 {
	fi, err := s.Stat()
	if err != nil {
		return 0
	}
	return fi.Size()
}

func apply(base, image, payload string) error {
	debug.SetGCPercent(20)
	raw, err := os.ReadFile(payload + ".json")
	if err != nil {
		return err
	}
	var s signed
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	r := s.Image
	r.Payloads = []update.Payload{s.Payload}
	src := &delta.Source{Inner: files{}, Running: func(context.Context) (delta.Running, error) {
		f, err := os.Open(base)
		return delta.Running{SlotReader: slot{f}, Length: s.Payload.BaseLength, SHA256: s.Payload.Base}, err
	}}
	start := time.Now()
	body, err := src.Open(context.Background(), r, 0)
	if err != nil {
		return err
	}
	defer body.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, body, make([]byte, 128<<10)); err != nil {
		return err
	}
	if [32]byte(h.Sum(nil)) != r.SHA256 {
		return fmt.Errorf("the image is wrong")
	}
	status, _ := os.ReadFile("/proc/self/status")
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	peak, _, _ = strings.Cut(peak, "\n")
	_ = image
	fmt.Printf("applied in %.2f s, peak RSS %s\n", time.Since(start).Seconds(), strings.TrimSpace(peak))
	return nil
}

// others prints what a device would fetch if the image were cut into chunks by content, or into blocks of 4 KiB, and it had
// those of the base.
func others(base, image string) error {
	b, err := os.ReadFile(base)
	if err != nil {
		return err
	}
	i, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	missing := func(cut func([]byte) int) (n, bytes int) {
		have := map[[32]byte]bool{}
		for d := b; len(d) > 0; {
			k := cut(d)
			have[sha256.Sum256(d[:k])], d = true, d[k:]
		}
		for d := i; len(d) > 0; {
			k := cut(d)
			if sum := sha256.Sum256(d[:k]); !have[sum] {
				have[sum] = true
				bytes += len(w.EncodeAll(d[:k], nil))
			}
			n, d = n+1, d[k:]
		}
		return n, bytes
	}
	for _, avg := range []int{8 << 10, 16 << 10, 64 << 10} {
		n, bytes := missing(chunker(avg))
		fmt.Printf("chunks of %d KiB on average: %d bytes and an index of %d entries of 40 bytes\n", avg>>10, bytes, n)
	}
	n, blocks := missing(func(d []byte) int { return min(4096, len(d)) })
	fmt.Printf("blocks of 4 KiB: %d bytes compressed one by one, and an index of %d hashes of 32 bytes\n", blocks, n)
	return nil
}

// chunker cuts where a rolling hash of 48 bytes has enough low zeros, between a quarter and four times the average.
func chunker(avg int) func([]byte) int {
	var table [256]uint64
	for i, x := 0, uint64(1); i < len(table); i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		table[i] = x * 0x2545F4914F6CDD1D
	}
	return func(d []byte) int {
		var h uint64
		for i := range d {
			h = h<<1 + table[d[i]]
			if i >= avg/4 && h>>40&uint64(avg-1) == 0 || i+1 >= 4*avg {
				return i + 1
			}
		}
		return len(d)
	}
}
