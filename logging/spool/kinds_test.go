// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// A directory keeps the kind of store it has, whatever is configured; where nothing is configured and maps work, it is bbolt.
func TestStoreKindIsKept(t *testing.T) {
	eachStore(t, func(t *testing.T) {
		b := newBench(t)
		kind := b.cfg.Store
		l := b.open()
		for _, want := range []string{spool.StoreAuto, spool.StoreBolt, spool.StoreSegments, ""} {
			b.cfg.Store = want
			l = b.reopen(l)
			if s := l.State(); s.Store != kind || s.Origin.Epoch != 1 {
				t.Errorf("configured %q, state %+v", want, s)
			}
		}
	})
	b := newBench(t)
	b.cfg.Store = ""
	if s := b.open().State(); s.Store != spool.StoreBolt {
		t.Errorf("state = %+v", s)
	}
	if entries, err := os.ReadDir(b.cfg.Dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v: want the store and the epoch alone", entries, err)
	}
	b.cfg.Store, b.cfg.Dir = "sqlite", t.TempDir()
	if _, err := spool.Open(b.cfg); !errors.Is(err, logging.ErrSetup) {
		t.Errorf("unknown kind: %v", err)
	}
}

// Somebody puts a second log beside the first: it is moved aside, not mixed with the log.
func TestSecondStoreIsMovedAside(t *testing.T) {
	other := newBench(t)
	other.cfg.Store = spool.StoreSegments
	other.open().Close()
	b := newBench(t)
	l := b.open()
	fillLog(t, l, 10)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(b.cfg.Dir, "audit.log"), os.DirFS(filepath.Join(other.cfg.Dir, "audit.log"))); err != nil {
		t.Fatal(err)
	}
	l = b.open()
	if s := l.State(); s.Store != spool.StoreBolt || s.Size != 11 || s.Origin.Epoch != 1 {
		t.Errorf("state = %+v", s)
	}
	if _, err := os.Stat(filepath.Join(b.cfg.Dir, "audit.log.bad")); err != nil {
		t.Error(err)
	}
}
