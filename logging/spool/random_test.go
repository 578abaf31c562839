// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// TestRandomDamage flips bits and erases sectors of a closed store, hundreds of times. Opening it must neither crash nor
// hang, and must end with the same log, complete and verified, or with a new epoch (or one commit back, see below).
func TestRandomDamage(t *testing.T) { eachStoreNative(t, testRandomDamage) }

func testRandomDamage(t *testing.T) {
	b := newBench(t)
	b.cfg.Capacity = spool.MinCapacity // several segments
	l := b.open()
	fillLog(t, l, 200)
	if err := l.Receipt(t.Context(), b.collector().take(l)); err != nil {
		t.Fatal(err)
	}
	fillLog(t, l, 100)
	l.Close()
	paths := b.files()
	goods := make([][]byte, len(paths))
	for i, path := range paths {
		var err error
		if goods[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 3))
	rounds := 80
	if os.Getenv("BACKSTAY_LONG") == "1" {
		rounds = 10000
	}
	same, fresh, back := 0, 0, 0
	for i := range rounds {
		which := rng.IntN(len(paths))
		good := goods[which]
		data := bytes.Clone(good)
		switch i % 4 {
		case 0: // one bit anywhere
			data[rng.IntN(len(data))] ^= 1 << rng.IntN(8)
		case 1: // one bit in a page header or its elements, where bbolt trusts most
			page := rng.IntN((len(data) + 4095) / 4096)
			data[page*4096+rng.IntN(min(64, len(data)-page*4096))] ^= 1 << rng.IntN(8)
		case 2: // an erased sector
			at := rng.IntN((len(data)+511)/512) * 512
			copy(data[at:min(at+512, len(data))], bytes.Repeat([]byte{0xff}, 512))
		case 3: // a cut file
			data = data[:rng.IntN(len(data))]
		}
		dir := t.TempDir()
		for i, path := range paths {
			to := filepath.Join(dir, strings.TrimPrefix(path, b.cfg.Dir))
			put := goods[i]
			if i == which {
				put = data
			}
			if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, put, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "audit.epoch"), []byte("1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := b.cfg
		cfg.Dir = dir
		l, err := spool.Open(cfg)
		if err != nil {
			t.Fatalf("seed %d, round %d: %v", seed, i, err)
		}
		switch s := l.State(); {
		case s.Origin.Epoch == 1 && s.Size == 301:
			same++
		case s.Origin.Epoch == 2 && s.Size == 1:
			fresh++
		case b.cfg.Store == spool.StoreBolt && s.Origin.Epoch == 1 && s.Size >= 257 && !bytes.Equal(data[:min(8192, len(data))], good[:8192]),
			b.cfg.Store == spool.StoreSegments && s.Origin.Epoch == 1 && s.Size >= 257 && which == len(paths)-1:
			// The newer of bbolt's two meta pages is gone and the one before it counts, or the last group of a segment looks
			// torn: the store is one commit older. That is a rollback like any other; only somebody who holds a receipt can
			// see it, and then it is seen.
			back++
		default:
			t.Errorf("seed %d, round %d: epoch %d with %d records", seed, i, s.Origin.Epoch, s.Size)
		}
		if err := l.Append(t.Context(), critical(i)); err != nil {
			t.Errorf("seed %d, round %d: append: %v", seed, i, err)
		}
		if _, err := l.Verify(t.Context()); err != nil {
			// The start verifies the newest signature, which covers everything; a damaged older one is found here, or by
			// Batch before it is sent. A personal value that was hit is found here and costs nothing else.
			if r := new(logging.Refusal); !errors.As(err, &r) || r.Code != logging.CodeSideMismatch {
				wantCode(t, err, logging.CodeBadCheckpoint)
			}
		}
		l.Close()
	}
	t.Logf("%d damaged stores: %d times the same log, %d times a new epoch, %d times one commit back", rounds, same, fresh, back)
}

func FuzzCheckPages(f *testing.F) {
	b := newBench(f)
	l := b.open()
	fillLog(f, l, 3)
	l.Close()
	data, err := os.ReadFile(filepath.Join(b.cfg.Dir, "audit.db"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:8192])
	path := filepath.Join(f.TempDir(), "x.db")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if spool.CheckPages(path) != nil {
			return
		}
		// What passed must open without taking the process down.
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true})
		if err == nil {
			db.Close()
		}
	})
}
