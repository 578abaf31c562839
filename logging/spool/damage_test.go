// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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

// keys is what an intruder with time works on: the store as bbolt keeps it, record keys and all. The segment store is read
// into a map and written as one segment with every CRC right.
type keys interface {
	Get(key []byte) []byte
	Put(key, value []byte) error
	Delete(key []byte) error
}

type keyMap map[string][]byte

func (m keyMap) Get(k []byte) []byte   { return m[string(k)] }
func (m keyMap) Put(k, v []byte) error { m[string(k)] = v; return nil }
func (m keyMap) Delete(k []byte) error { delete(m, string(k)); return nil }

// edit changes the closed store.
func edit(t *testing.T, b *bench, fn func(keys) error) {
	t.Helper()
	if b.cfg.Store == spool.StoreSegments {
		editSegments(t, b, fn)
		return
	}
	db, err := bbolt.Open(filepath.Join(b.cfg.Dir, "audit.db"), 0o600, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(db.Update(func(tx *bbolt.Tx) error { return fn(tx.Bucket([]byte("audit"))) }), db.Close())
	if err != nil {
		t.Fatal(err)
	}
}

func editSegments(t *testing.T, b *bench, fn func(keys) error) {
	t.Helper()
	m := keyMap{}
	for _, path := range b.files() {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := spool.SegmentKeys(data, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := fn(m); err != nil {
		t.Fatal(err)
	}
	files := b.files()
	for _, path := range files[1:] {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(files[0], spool.KeysSegment(m), 0o600); err != nil {
		t.Fatal(err)
	}
}

func key(index uint64, kind byte) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{'r'}, index), kind)
}

func value(index uint64, epoch uint64, device string) []byte {
	body := logging.EncodeLeaf(logging.Origin{Device: device, Epoch: epoch}, index, time.Now(), ordinary(666))
	h := logging.LeafHash(body)
	return append(append([]byte{0}, h[:]...), body...)
}

// TestStoreEdits: what an intruder may do to the closed file, and why the log begins anew at the next start.
func TestStoreEdits(t *testing.T) { eachStore(t, testStoreEdits) }

func testStoreEdits(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		known        uint64 // size of the last checkpoint that can still be known
		edit         func(*bench, logging.Origin) func(keys) error
	}{
		{"edited with its hash", logging.CodeRootMismatch, 65, func(_ *bench, o logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put(key(70, 0), value(70, 1, o.Device)) }
		}},
		{"body cut", logging.CodeRecordAltered, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put(key(70, 0), []byte{0, 1, 2}) }
		}},
		{"marked as shed", logging.CodeRecordAltered, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				v := bytes.Clone(b.Get(key(70, 0)))
				v[0] = 2
				return b.Put(key(70, 0), v)
			}
		}},
		{"removed", logging.CodeRecordMissing, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Delete(key(70, 0)) }
		}},
		{"reordered", logging.CodeRootMismatch, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				x, y := bytes.Clone(b.Get(key(70, 0))), bytes.Clone(b.Get(key(71, 0)))
				return errors.Join(b.Put(key(70, 0), y), b.Put(key(71, 0), x))
			}
		}},
		{"tail removed", logging.CodeRecordMissing, 301, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Delete(key(309, 0)) }
		}},
		{"record added", logging.CodeRecordMissing, 311, func(_ *bench, o logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put(key(311, 0), value(311, 1, o.Device)) }
		}},
		{"checkpoint forged", logging.CodeBadCheckpoint, 0, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				v := bytes.Clone(b.Get(key(310, 1)))
				v[len(v)-20] ^= 1
				return b.Put(key(310, 1), v)
			}
		}},
		{"checkpoint moved", logging.CodeDamaged, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put(key(70, 1), bytes.Clone(b.Get(key(310, 1)))) }
		}},
		{"checkpoint is text", logging.CodeMalformed, 65, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put(key(70, 1), []byte("trust me")) }
		}},
		{"state removed", logging.CodeDamaged, 0, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Delete([]byte("t")) }
		}},
		{"state cut", logging.CodeDamaged, 0, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error { return b.Put([]byte("t"), []byte{1, 2}) }
		}},
		{"state of next version", logging.CodeUnknownVersion, 0, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				v := bytes.Clone(b.Get([]byte("t")))
				v[0] = 3
				return b.Put([]byte("t"), v)
			}
		}},
		{"positions out of order", logging.CodeDamaged, 0, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				v := bytes.Clone(b.Get([]byte("t")))
				binary.BigEndian.PutUint64(v[1+2*8:], 1<<40) // acked
				return b.Put([]byte("t"), v)
			}
		}},
		{"frontier edited", logging.CodeRootMismatch, 311, func(*bench, logging.Origin) func(keys) error {
			return func(b keys) error {
				v := bytes.Clone(b.Get([]byte("t")))
				v[len(v)-1] ^= 1
				return b.Put([]byte("t"), v)
			}
		}},
		{"older than its own receipt", logging.CodeTruncated, 311, func(bn *bench, o logging.Origin) func(keys) error {
			return func(b keys) error {
				note, err := bn.signer.Sign(logging.Checkpoint{Origin: o, Size: 400}, time.Now())
				k := bn.signer.Key().String()
				return errors.Join(err, b.Put([]byte("s"+k[:len("collector.example")+9]), note))
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			l := b.open()
			fillLog(t, l, 300)
			fillLog(t, l, 10)
			origin := l.State().Origin
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			edit(t, b, tc.edit(b, origin))
			wantNewEpoch(t, b, b.open(), tc.reason, tc.known)
		})
	}
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

// TestRandomDamage flips bits and erases sectors of a closed store, hundreds of times. Opening it must neither crash nor
// hang, and must end with the same log, complete and verified, or with a new epoch (or one commit back, see below).
func TestRandomDamage(t *testing.T) { eachStore(t, testRandomDamage) }

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
