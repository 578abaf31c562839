// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// image is the directory of a log at one moment, with what had been promised by then.
type image struct {
	op    string
	files map[string][]byte
	epoch uint64
	acked uint64 // records that Append or Flush had called durable
	bodys map[uint64]string
}

// recorder takes an image before every durable effect.
type recorder struct {
	t      *testing.T
	dir    string
	log    *spool.Log
	images []image
	epoch  uint64
	acked  uint64
}

func (r *recorder) take(op string) {
	files := map[string][]byte{}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(r.dir, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.t.Fatal(err)
		}
		files[e.Name()] = b
	}
	r.images = append(r.images, image{op: op, files: files, epoch: r.epoch, acked: r.acked})
}

// durable notes that everything in the log now was promised to the caller.
func (r *recorder) durable() {
	s := r.log.State()
	r.epoch, r.acked = s.Origin.Epoch, s.Size
}

// record drives a log through everything it does and returns the images in between.
func record(t *testing.T, b *bench) []image {
	r := &recorder{t: t, dir: b.cfg.Dir}
	l, err := spool.OpenWithFuse(b.cfg, func(e spool.Effect) (bool, error) {
		r.take(e.Op)
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.log = l
	r.durable()
	c := b.collector()
	for round := range 4 {
		if err := l.Append(t.Context(), critical(round)); err != nil {
			t.Fatal(err)
		}
		r.durable()
		fillLog(t, l, 100)
		r.durable()
		if err := l.Receipt(t.Context(), c.take(l)); err != nil {
			t.Fatal(err)
		}
		if err := l.Prune(t.Context(), uint64(round*60)); err != nil {
			t.Fatal(err)
		}
	}
	// A receipt for what we do not have: the next epoch.
	far, err := b.signer.Sign(logging.Checkpoint{Origin: l.State().Origin, Size: 1 << 20}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, l.Receipt(t.Context(), far), logging.CodeRolledBack)
	r.durable()
	if err := l.Append(t.Context(), critical(9)); err != nil {
		t.Fatal(err)
	}
	r.durable()
	r.take("end")
	return r.images
}

const sector = 512

// cut returns what may be on flash when power fails between two images: of the sectors that differ, those chosen by pick
// are the new ones. The meta pages of bbolt are written only after the rest was synced.
func cut(before, after []byte, pick func(meta bool) bool) []byte {
	out := bytes.Clone(before)
	if len(after) > len(out) {
		out = append(out, make([]byte, len(after)-len(out))...) // the file is grown first
	}
	for at := 0; at < len(after); at += sector {
		end := min(at+sector, len(after))
		if !bytes.Equal(out[at:end], after[at:end]) && pick(at < 8192) {
			copy(out[at:end], after[at:end])
		}
	}
	return out
}

// TestPowerCuts cuts the power before, in the middle of and after every durable effect, and starts again. Every record that
// was promised to be durable is there, the log verifies, and it takes new records.
func TestPowerCuts(t *testing.T) {
	b := newBench(t)
	images := record(t, b)
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 5))
	random := 1
	if os.Getenv("BACKSTAY_LONG") == "1" {
		random = 200
	}
	cuts := 0
	for i := range len(images) - 1 {
		from, to := images[i], images[i+1]
		tryCut(t, b, from.files, from, seed)
		cuts++
		for _, name := range []string{"audit.db", "audit.db.new"} {
			before, after := from.files[name], to.files[name]
			if after == nil || bytes.Equal(before, after) || name == "audit.db" && before == nil {
				continue
			}
			// Between two images of one file lies one commit; for a file that is being created, anything.
			variants := []func(bool) bool{
				func(meta bool) bool { return !meta }, // all data, no meta
			}
			for range random {
				variants = append(variants,
					func(meta bool) bool { return !meta && rng.IntN(2) == 0 },             // some data
					func(meta bool) bool { return !meta || rng.IntN(2) == 0 },             // all data, some meta sectors
					func(bool) bool { return name == "audit.db.new" && rng.IntN(2) == 0 }) // an unfinished file is anything
			}
			for _, pick := range variants {
				files := map[string][]byte{}
				for n, data := range from.files {
					files[n] = data
				}
				files[name] = cut(before, after, pick)
				tryCut(t, b, files, from, seed)
				cuts++
			}
		}
	}
	tryCut(t, b, images[len(images)-1].files, images[len(images)-1], seed)
	t.Logf("%d cuts at %d durable effects", cuts+1, len(images))
}

func tryCut(t *testing.T, b *bench, files map[string][]byte, promised image, seed uint64) {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := b.cfg
	cfg.Dir = dir
	l, err := spool.Open(cfg)
	if err != nil {
		t.Fatalf("seed %d: cut at %q: %v", seed, promised.op, err)
	}
	defer l.Close()
	s := l.State()
	switch {
	case s.Origin.Epoch < promised.epoch, s.Origin.Epoch == promised.epoch && s.Size < promised.acked:
		t.Errorf("seed %d: cut at %q: epoch %d with %d records, promised were %d and %d", seed, promised.op, s.Origin.Epoch, s.Size, promised.epoch, promised.acked)
	case s.Origin.Epoch > promised.epoch && promised.epoch > 0:
		// Only an epoch that was being begun may have begun.
		reason, _ := decode(t, l, 0).Attr("reason")
		if promised.op == "receipt" || promised.op == "prune" || reason != "rolled-back" && reason != "store-missing" {
			t.Errorf("seed %d: cut at %q: a new epoch because of %q", seed, promised.op, reason)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "audit.db.new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("seed %d: cut at %q: the unfinished store is still there", seed, promised.op)
	}
	if err := l.Append(t.Context(), critical(1)); err != nil {
		t.Errorf("seed %d: cut at %q: append: %v", seed, promised.op, err)
	}
	if _, err := l.Verify(t.Context()); err != nil {
		t.Errorf("seed %d: cut at %q: verify: %v", seed, promised.op, err)
	}
}

// TestEveryEffectFails lets each durable effect fail in turn, with and without having happened, while the process lives on.
// Nothing is lost and nothing is there twice.
func TestEveryEffectFails(t *testing.T) { eachStore(t, testEveryEffectFails) }

func testEveryEffectFails(t *testing.T) {
	broken := errors.New("input/output error")
	for n := 0; ; n++ {
		hit := false
		for _, applied := range []bool{false, true} {
			b := newBench(t)
			count := 0
			l, err := spool.OpenWithFuse(b.cfg, func(e spool.Effect) (bool, error) {
				if count++; count == n+1 {
					hit = true
					return applied, broken
				}
				return true, nil
			})
			if err != nil { // the first start failed: the next one works
				if !errors.Is(err, broken) {
					t.Fatal(err)
				}
				if l, err = spool.Open(b.cfg); err != nil {
					t.Fatalf("effect %d, applied %v: %v", n, applied, err)
				}
			}
			c := b.collector()
			for i := range 3 {
				l.Append(t.Context(), critical(i))
				if r := c.take(l); r != nil {
					l.Receipt(t.Context(), r)
				}
				l.Prune(t.Context(), l.State().Acked)
			}
			if err := l.Flush(t.Context()); err != nil {
				t.Errorf("effect %d, applied %v: flush: %v", n, applied, err)
			}
			c.take(l)
			var got []string
			for _, leaf := range c.leaves[l.State().Origin] {
				if r, err := logging.DecodeLeaf(leaf.Body); err == nil && r.Code == "update.installed" {
					got = append(got, r.Message)
				}
			}
			if want := "installed release 1.0.0,installed release 1.0.1,installed release 1.0.2"; strings.Join(got, ",") != want {
				t.Errorf("effect %d, applied %v: the consumer has %q", n, applied, got)
			}
			l.Close()
		}
		if !hit {
			t.Logf("%d durable effects failed, each in two ways", n)
			return
		}
	}
}
