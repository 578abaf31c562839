// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
	"github.com/backstay/backstay/logging/spool/spooltest"
)

// wantNewEpoch checks that the log began anew for that reason, repeats what it knew before, kept the refused store, and works.
func wantNewEpoch(t *testing.T, b *bench, l *spool.Log, reason string, previousSize uint64) {
	t.Helper()
	s := l.State()
	if s.Origin.Epoch != 2 {
		t.Fatalf("epoch %d, want 2", s.Origin.Epoch)
	}
	r := decode(t, l, 0)
	if got, _ := r.Attr("reason"); r.Code != "log.start" || got != reason {
		t.Errorf("first record of the new epoch: %s because of %q, want %q", r.Code, got, reason)
	}
	if r.Severity != logging.SeverityHigh {
		t.Errorf("severity %s", r.Severity)
	}
	if previousSize > 0 {
		size, _ := r.Attr("previous_size")
		origin, _ := r.Attr("previous_origin")
		note, _ := r.Attr("previous_checkpoint")
		c, err := logging.OpenCheckpoint([]byte(note), l.SPKI())
		if size != strconv.FormatUint(previousSize, 10) || origin != (logging.Origin{Device: s.Origin.Device, Epoch: 1}).String() || err != nil || c.Size != previousSize {
			t.Errorf("last known checkpoint: %s of %s, %v", size, origin, err)
		}
	}
	if _, err := os.Stat(filepath.Join(b.cfg.Dir, b.file()+".bad")); err != nil {
		t.Errorf("refused store: %v", err)
	}
	if err := l.Append(t.Context(), critical(1)); err != nil {
		t.Errorf("the new epoch does not take events: %v", err)
	}
	if _, err := l.Verify(t.Context()); err != nil {
		t.Errorf("the new epoch does not verify: %v", err)
	}
	b.collector().take(l)
}

func TestTamperedRecordIsNamed(t *testing.T) { eachStore(t, testTamperedRecordIsNamed) }

func testTamperedRecordIsNamed(t *testing.T) {
	b := newBench(t)
	l := b.open()
	fillLog(t, l, 300)
	if err := spooltest.Tamper(b.cfg.Dir, 123); err != nil {
		t.Fatal(err)
	}
	for range 2 { // looking does not change anything
		report, err := l.Verify(t.Context())
		wantCode(t, err, logging.CodeRecordAltered)
		if report.Bad == nil || *report.Bad != (logging.Range{First: 123, Last: 123}) {
			t.Fatalf("bad = %v", report.Bad)
		}
	}
	// An export shows it to others.
	var out bytes.Buffer
	if err := l.Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	h, items, err := logging.ReadExport(&out)
	if err != nil {
		t.Fatal(err)
	}
	_, err = logging.Verify(t.Context(), h, items, logging.Expect{})
	wantCode(t, err, logging.CodeRecordAltered)
	// Reading refuses it too, and what is before it can still be read.
	n := 0
	for _, err := range l.From(t.Context(), 0) {
		if err != nil {
			wantCode(t, err, logging.CodeRecordAltered)
			break
		}
		n++
	}
	if n > 123 {
		t.Errorf("%d records read", n)
	}
	// It is never sent: the good part is, then a new epoch begins.
	if batch, err := l.Batch(t.Context(), 0); err != nil || batch.End() > 123 {
		t.Errorf("good part: %d records, %v", len(batch.Leaves), err)
	}
	_, err = l.Batch(t.Context(), 65)
	wantCode(t, err, logging.CodeRecordAltered)
	wantNewEpoch(t, b, l, logging.CodeRecordAltered, 301)
}

func TestTamperFindsNothing(t *testing.T) { eachStore(t, testTamperFindsNothing) }

func testTamperFindsNothing(t *testing.T) {
	b := newBench(t)
	l := b.open()
	if err := spooltest.Tamper(b.cfg.Dir, 99); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v", err)
	}
	l.Close()
	if err := spooltest.Tamper(filepath.Join(b.cfg.Dir, "none"), 0); err == nil {
		t.Error("no file, no error")
	}
}

// rewrite replaces one record under the running log and its hash with it, which needs no key. The other text is one that
// takes as many bytes on disk.
func rewrite(t *testing.T, b *bench, leaf logging.Leaf) {
	t.Helper()
	old := spool.LeafValue(leaf)
	for n := range 10000 {
		body := bytes.Replace(leaf.Body, []byte("sshd"), fmt.Appendf(nil, "%c%c%c%c", 'a'+n%26, 'z'-n/26%26, 'a'+n%25, 'z'-n%24), 1)
		edited := spool.LeafValue(logging.Leaf{Index: leaf.Index, Hash: logging.LeafHash(body), Body: body, Side: leaf.Side})
		if bytes.Equal(body, leaf.Body) || len(edited) != len(old) {
			continue
		}
		for _, path := range b.files() {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if now := bytes.ReplaceAll(data, old, edited); !bytes.Equal(data, now) {
				writeOver(t, path, now, 0)
				return
			}
		}
	}
	t.Fatal("record not found")
}

// writeOver changes a file in place, as it is open elsewhere.
func writeOver(t *testing.T, path string, data []byte, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func leafAt(t *testing.T, l *spool.Log, index uint64) logging.Leaf {
	t.Helper()
	for leaf, err := range l.From(t.Context(), index) {
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	t.Fatalf("no record %d", index)
	return logging.Leaf{}
}

// A record rewritten together with its hash is consistent with itself. It is refused wherever it could get a signature, be
// sent, or disappear into a frontier.
func TestRewrittenRecordUnderTheRunningLog(t *testing.T) {
	eachStore(t, testRewrittenRecordUnderTheRunningLog)
}

func testRewrittenRecordUnderTheRunningLog(t *testing.T) {
	t.Run("signed later", func(t *testing.T) {
		b := newBench(t)
		key := &flakyKey{Signer: b.cfg.Key}
		b.cfg.Key = key
		l := b.open()
		fillLog(t, l, 10)
		key.broken = true
		fillLog(t, l, 10)
		rewrite(t, b, leafAt(t, l, 15))
		key.broken = false
		_, err := l.Batch(t.Context(), 11)
		if !errors.Is(err, logging.ErrRefused) {
			t.Errorf("error = %v", err)
		}
		wantNewEpoch(t, b, l, logging.CodeDamaged, 11)
	})
	t.Run("sent", func(t *testing.T) {
		b := newBench(t)
		l := b.open()
		fillLog(t, l, 100)
		rewrite(t, b, leafAt(t, l, 70))
		_, err := l.Verify(t.Context())
		wantCode(t, err, logging.CodeRootMismatch)
		_, err = l.Batch(t.Context(), 65)
		wantCode(t, err, logging.CodeRootMismatch)
		wantNewEpoch(t, b, l, logging.CodeRootMismatch, 101)
	})
	t.Run("pruned", func(t *testing.T) {
		b := newBench(t)
		l := b.open()
		fillLog(t, l, 100)
		if err := l.Receipt(t.Context(), b.collector().take(l)); err != nil {
			t.Fatal(err)
		}
		rewrite(t, b, leafAt(t, l, 70))
		wantCode(t, l.Prune(t.Context(), 80), logging.CodeRootMismatch)
		wantNewEpoch(t, b, l, logging.CodeRootMismatch, 101)
	})
}

// Pruning leaves no checkpoint behind but the newest.
func TestPruningRemovesOldCheckpoints(t *testing.T) {
	b := newBench(t)
	b.cfg.Keep = 1
	l := b.open()
	c := b.collector()
	for range 3 {
		fillLog(t, l, 100)
		if err := l.Receipt(t.Context(), c.take(l)); err != nil {
			t.Fatal(err)
		}
		if err := l.Prune(t.Context(), l.State().Acked); err != nil {
			t.Fatal(err)
		}
	}
	fillLog(t, l, 1)
	if err := l.Receipt(t.Context(), c.take(l)); err != nil {
		t.Fatal(err)
	}
	if err := l.Prune(t.Context(), l.State().Acked); err != nil {
		t.Fatal(err)
	}
	l.Close()
	edit(t, b, func(k keys) error {
		n := 0
		c := k.(*bbolt.Bucket).Cursor()
		for k, _ := c.Seek([]byte{'r'}); len(k) > 1; k, _ = c.Next() {
			if k[0] == 'r' {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d keys of records and checkpoints are left, want the newest checkpoint alone", n)
		}
		return nil
	})
}

func TestFileGone(t *testing.T) { eachStore(t, testFileGone) }

func testFileGone(t *testing.T) {
	b := newBench(t)
	l := b.open()
	l.Close()
	if err := os.RemoveAll(filepath.Join(b.cfg.Dir, b.file())); err != nil {
		t.Fatal(err)
	}
	l = b.open()
	reason, _ := decode(t, l, 0).Attr("reason")
	if s := l.State(); s.Origin.Epoch != 2 || reason != "store-missing" {
		t.Errorf("epoch %d because of %q", s.Origin.Epoch, reason)
	}
}

func TestFileIsNoDatabase(t *testing.T) {
	for name, data := range map[string][]byte{"empty": {}, "text": []byte("hello"), "zeros": make([]byte, 64<<10), "ones": bytes.Repeat([]byte{0xff}, 64<<10)} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.open().Close()
			if err := os.WriteFile(filepath.Join(b.cfg.Dir, "audit.db"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			wantNewEpoch(t, b, b.open(), logging.CodeDamaged, 0)
		})
	}
}

func TestKeyChanged(t *testing.T) { eachStore(t, testKeyChanged) }

func testKeyChanged(t *testing.T) {
	b := newBench(t)
	b.open().Close()
	b.cfg.Key = newBench(t).cfg.Key
	wantNewEpoch(t, b, b.open(), "key-changed", 0)
}

func TestEpochFileDamaged(t *testing.T) { eachStore(t, testEpochFileDamaged) }

func testEpochFileDamaged(t *testing.T) {
	b := newBench(t)
	b.open().Close()
	if err := os.WriteFile(filepath.Join(b.cfg.Dir, "audit.epoch"), []byte("??"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := b.open()
	if s := l.State(); s.Origin.Epoch != 1 {
		t.Errorf("epoch %d", s.Origin.Epoch)
	}
	// The number in the store counts: the next epoch does not repeat it.
	if err := spooltest.Tamper(b.cfg.Dir, 0); err != nil {
		t.Fatal(err)
	}
	l.Batch(t.Context(), 0)
	if s := l.State(); s.Origin.Epoch != 2 {
		t.Errorf("epoch %d after damage", s.Origin.Epoch)
	}
}

// Pages that turn bad under the running daemon: no call may take the process down, and logging goes on.
func TestPagesErasedWhileOpen(t *testing.T) { eachStore(t, testPagesErasedWhileOpen) }

func testPagesErasedWhileOpen(t *testing.T) {
	for name, call := range map[string]func(*testing.T, *spool.Log) error{
		"append": func(t *testing.T, l *spool.Log) error { return l.Append(t.Context(), critical(1)) },
		"batch":  func(t *testing.T, l *spool.Log) error { _, err := l.Batch(t.Context(), 0); return err },
		"prune": func(t *testing.T, l *spool.Log) error {
			return l.Prune(t.Context(), l.State().Acked)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			l := b.open()
			fillLog(t, l, 300)
			if err := l.Receipt(t.Context(), b.collector().take(l)); err != nil {
				t.Fatal(err)
			}
			for _, path := range b.files() {
				from := int64(2 * os.Getpagesize())
				if b.cfg.Store == spool.StoreSegments {
					from = 40 // behind the header
				}
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				writeOver(t, path, bytes.Repeat([]byte{0xff}, int(max(info.Size()-from, 0))), from)
			}
			if _, err := l.Verify(t.Context()); !errors.Is(err, logging.ErrRefused) {
				t.Errorf("Verify: %v", err)
			}
			err := call(t, l)
			if name == "append" && b.cfg.Store == spool.StoreSegments {
				_, err := l.Batch(t.Context(), 0) // an append does not look back
				wantCode(t, err, logging.CodeDamaged)
			}
			if name != "append" && !errors.Is(err, logging.ErrRefused) || name == "append" && err != nil {
				t.Errorf("%s: %v", name, err)
			}
			known := uint64(301)
			if name == "append" && b.cfg.Store == spool.StoreSegments {
				known++
			}
			wantNewEpoch(t, b, l, logging.CodeDamaged, known)
		})
	}
}

// The file is cut under the mapping: reading past its end is a SIGBUS.
func TestFileTruncatedWhileOpen(t *testing.T) { eachStore(t, testFileTruncatedWhileOpen) }

func testFileTruncatedWhileOpen(t *testing.T) {
	b := newBench(t)
	l := b.open()
	fillLog(t, l, 300)
	files := b.files()
	if err := os.Truncate(files[len(files)-1], int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Verify(t.Context()); !errors.Is(err, logging.ErrRefused) {
		t.Errorf("Verify: %v", err)
	}
	if err := l.Append(t.Context(), critical(1)); err != nil {
		t.Errorf("Append: %v", err)
	}
	wantNewEpoch(t, b, l, logging.CodeDamaged, 301)
}
