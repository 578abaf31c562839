// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/agent/store"
	"github.com/backstay/backstay/logging/source"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
)

func open(t *testing.T, path string) *store.DB {
	t.Helper()
	db, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestEveryCellComesBackAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := open(t, path)
	if job, err := db.Load(); err != nil || job.State != "" {
		t.Fatalf("new file: job %+v, %v", job, err)
	}
	if b, err := db.LoadIdentity(); err != nil || b != nil {
		t.Fatalf("new file: identity %q, %v", b, err)
	}
	err := errors.Join(db.Save(update.Job{State: update.Trial, Slot: "B"}), db.SaveIdentity([]byte("who")),
		db.SaveTrust(trust.State{Timestamp: []byte("{}"), Floors: trust.Floors{Root: 7}}), db.Close())
	if err != nil {
		t.Fatal(err)
	}
	db = open(t, path)
	job, jobErr := db.Load()
	who, whoErr := db.LoadIdentity()
	state, trustErr := db.LoadTrust()
	if err := errors.Join(jobErr, whoErr, trustErr); err != nil {
		t.Fatal(err)
	}
	if job.State != update.Trial || job.Slot != "B" || string(who) != "who" || state.Floors.Root != 7 || string(state.Timestamp) != "{}" {
		t.Fatalf("came back as %+v, %q, %+v", job, who, state)
	}
}

func TestASecondAgentIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	open(t, path)
	if _, err := store.Open(path); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
}

func TestDamageIsNamed(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string][]byte{"empty": nil, "text": []byte("not a database"), "zeroes": make([]byte, 64<<10)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := store.Open(path)
		if err == nil {
			db.Close()
		}
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestACutDuringCreationLeavesNoHalfFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path+".new", []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("temporary file: %v", err)
	}
}

func TestANewerSchemaIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	b, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = b.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte{0, 0, 0, 0, 0, 0, 0, 99})
	})
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(path); !errors.Is(err, store.ErrNewer) {
		t.Fatalf("open: %v", err)
	}
}

// A database of an agent that knew no sources gets their bucket and keeps its number: an older agent, back after a failed
// update, must be able to open it.
func TestSourcesInAnOlderDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	b, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = b.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"meta", "trust", "update", "identity"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte{0, 0, 0, 0, 0, 0, 0, 1})
	})
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	for round, want := range []string{"", "seen"} {
		db, err := store.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := db.Sources().Load("crash")
		if err != nil || string(got) != want {
			t.Errorf("round %d: %q, %v", round, got, err)
		}
		if err := db.Sources().Save("crash", []byte("seen")); err != nil {
			t.Error(err)
		}
		if err := db.Sources().Save("crash", make([]byte, source.MaxState+1)); err == nil {
			t.Error("a value without bounds is kept")
		}
		db.Close()
	}
	b, err = bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_ = b.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket([]byte("meta")).Get([]byte("schema")); v[7] != 1 {
			t.Errorf("the number is %d now", v[7])
		}
		return nil
	})
}
