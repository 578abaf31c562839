// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// segments makes a store of segments with a few of everything in it.
func segments(t testing.TB, n int) (*bench, []string) {
	t.Helper()
	b := newBench(t)
	b.cfg.Store, b.cfg.Capacity = spool.StoreSegments, spool.MinCapacity
	l := b.open()
	fillLog(t, l, n)
	if err := l.Receipt(t.Context(), b.collector().take(l)); err != nil {
		t.Fatal(err)
	}
	fillLog(t, l, 3)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return b, b.files()
}

// A torn tail is cut off, whatever it holds; what was durable before it stays, and the same number of records follows.
func TestTornTail(t *testing.T) {
	b, files := segments(t, 10)
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndex(good, []byte("Bk\x04\x00")) // the state that ends the last group
	before := bytes.LastIndex(good[:last], []byte("Bk\x04\x00"))
	group := good[before+16+int(good[before+6])<<8+int(good[before+7]):]
	for name, tail := range map[string][]byte{
		"the last group again": group,
		"zeros":                make([]byte, 5000), "ones": bytes.Repeat([]byte{0xff}, 5000), "half a header": []byte("Bk\x01\x00\x00"),
		"an old group": good[len(good)-700:], "a header of much": append([]byte("Bk\x01\x00\x00\x00\xff\xff\x00\x00\x00\x06"), make([]byte, 100)...),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(files[0], append(bytes.Clone(good), tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			l := b.open()
			if s := l.State(); s.Origin.Epoch != 1 || s.Size != 14 {
				t.Fatalf("state = %+v", s)
			}
			for i := range 2 {
				if err := l.Append(t.Context(), critical(i)); err != nil {
					t.Fatal(err)
				}
			}
			l = b.reopen(l)
			if s := l.State(); s.Origin.Epoch != 1 || s.Size != 16 {
				t.Errorf("state = %+v", s)
			}
			if _, err := l.Verify(t.Context()); err != nil {
				t.Error(err)
			}
			l.Close()
		})
	}
}

// A new file was begun and got its name, but the directory could not be synced: the commit failed, and the file must not be
// found at the next start if the log went on in the one before.
func TestFileBegunInVain(t *testing.T) {
	if err := spool.BeginInVain(filepath.Join(t.TempDir(), "audit.log")); err != nil {
		t.Error(err)
	}
}

// Damage before the last group is not taken for a torn tail, also when it hides how long a frame is: what was durable once is
// missed.
func TestDamageIsNoTornTail(t *testing.T) {
	_, files := segments(t, 10)
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndex(good[:len(good)-1], []byte("Bk\x04\x00")) // the state that ends the last group
	before := bytes.LastIndex(good[:last], []byte("Bk\x04\x00"))
	for at := 36; at < len(good); at += 7 {
		data := bytes.Clone(good)
		data[at] ^= 0x20
		records, torn, err := spool.ScanSegment(data, true)
		switch {
		case at < before && err == nil:
			t.Errorf("byte %d of %d changed: %d records, torn %v", at, len(good), records, torn)
		case at >= before+600 && (err != nil || !torn):
			t.Errorf("byte %d of %d changed: %v, torn %v", at, len(good), err, torn)
		}
		if _, _, err := spool.ScanSegment(data, false); err == nil {
			t.Errorf("byte %d of a file that was finished changed: no error", at)
		}
	}
}

// Files do not become many when nothing but hashes is left.
func TestSegmentsStayFew(t *testing.T) {
	b := newBench(t)
	b.cfg.Store, b.cfg.Capacity = spool.StoreSegments, 1<<20
	l := b.open()
	for i := range 6000 {
		if err := l.Append(t.Context(), ordinary(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.files()); n > 40 {
		t.Errorf("%d files", n)
	}
	t.Logf("%d records in %d files", l.Size(), len(b.files()))
}

// A kept reader sees its snapshot while files are pruned and rewritten under it.
func TestSnapshotOverRewriting(t *testing.T) {
	b := newBench(t)
	b.cfg.Store, b.cfg.Capacity, b.cfg.Keep = spool.StoreSegments, spool.MinCapacity, 1
	l := b.open()
	fillLog(t, l, 500)
	var out bytes.Buffer
	pr := writerFunc(func(p []byte) (int, error) {
		if out.Len() == 0 { // the export has begun
			fillLog(t, l, 1500)
			if codes(t, l)["shed"] == 0 {
				t.Error("nothing was shed meanwhile")
			}
			if err := l.Receipt(t.Context(), b.collector().take(l)); err != nil {
				t.Error(err)
			}
		}
		return out.Write(p)
	})
	if err := l.Export(t.Context(), pr); err != nil {
		t.Fatal(err)
	}
	h, items, err := logging.ReadExport(&out)
	if err != nil {
		t.Fatal(err)
	}
	report, err := logging.Verify(t.Context(), h, items, logging.Expect{Device: l.State().Origin.Device})
	if err != nil || report.Size != 501 || report.Records != 501 || len(report.Shed) != 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A store of a big-endian machine: all numbers are written in one order, so the bytes below open everywhere.
func TestSegmentBytes(t *testing.T) {
	m := map[string][]byte{"t": {2, 0}}
	got := spool.KeysSegment(m)
	want := "bk-log\x00\x01" + "\x00\x00\x00\x00\x00\x00\x00\x01" + "\x00\x00\x00\x00\x00\x00\x00\x01" + "\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\xf7\x18\xc4\x44" + "Bk\x04\x00" + "\x00\x00\x00\x02" + "\x00\x00\x00\x01" + "\x1c\xec\xc8\x5a" + "\x02\x00"
	if string(got) != want {
		t.Errorf("%q\n%q", got, want)
	}
}

func FuzzSegment(f *testing.F) {
	_, files := segments(f, 3)
	data, err := os.ReadFile(files[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-5])
	f.Add(append(bytes.Clone(data), data[36:]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = spool.HealSegment(bytes.Clone(data)) // the CRC must not keep the fuzzer out
		dir := filepath.Join(t.TempDir(), "audit.log")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "0000000000000001.seg"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		spool.ScanSegment(data, false)
		if err := spool.UseSegments(dir); err != nil && !errors.Is(err, logging.ErrRefused) {
			t.Error(err)
		}
	})
}
