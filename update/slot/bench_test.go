// SPDX-License-Identifier: Apache-2.0

package slot_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/slot"
	"github.com/backstay/backstay/update/updatetest"
)

// BenchmarkInstall hashes and writes 64 MiB to a slot with a checkpoint every 4 MiB, and reads them again. BACKSTAY_BENCH_SLOT
// names a block device of at least that size to use instead of a file. Metric "written" is what went to the slot, in MiB.
func BenchmarkInstall(b *testing.B) {
	const n, every = 64 << 20, 4 << 20
	dir := b.TempDir()
	c := slot.Config{Cmdline: filepath.Join(dir, "cmdline"), Slots: map[update.SlotID]slot.Device{
		"A": {Kind: slot.File, Path: filepath.Join(dir, "a"), Size: 1 << 20},
		"B": {Kind: slot.File, Path: filepath.Join(dir, "b"), Size: n}}}
	if dev := os.Getenv("BACKSTAY_BENCH_SLOT"); dev != "" {
		c.Slots["B"] = slot.Device{Kind: slot.Block, Path: dev}
	}
	if err := os.WriteFile(c.Cmdline, []byte("backstay.slot=A"), 0o600); err != nil {
		b.Fatal(err)
	}
	s, err := slot.Open(c)
	if err != nil {
		b.Fatal(err)
	}
	images := [2][]byte{updatetest.Image("bench", n), updatetest.Image("other", n)}
	for name, pick := range map[string]func(i int) []byte{
		"new": func(i int) []byte { return images[i%2] }, "same": func(int) []byte { return images[0] },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(n)
			written := int64(0)
			for i := 0; b.Loop(); i++ {
				image := pick(i)
				w, err := s.Writer("B", n)
				if err != nil {
					b.Fatal(err)
				}
				h := sha256.New()
				if _, err := w.Prefix(b.Context(), h, 0); err != nil {
					b.Fatal(err)
				}
				for at := 0; at < n; at += 128 << 10 {
					h.Write(image[at : at+128<<10])
					if _, err := w.Write(image[at : at+128<<10]); err != nil {
						b.Fatal(err)
					}
					if (at+128<<10)%every == 0 {
						if err := w.Sync(); err != nil {
							b.Fatal(err)
						}
					}
				}
				written += slot.Written(w)
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
				sum, err := s.Digest(b.Context(), "B", n)
				if err != nil || sum != [32]byte(h.Sum(nil)) {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(written)/float64(b.N)/(1<<20), "written")
		})
	}
}
