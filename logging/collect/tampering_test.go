// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
)

const (
	seen   = 15 // a record that has a receipt
	unseen = 25 // one that only the device has
)

// tampering is every way to falsify a log, and who notices it. A function performs the attack and returns the code it is
// refused with; nil means that this party has no part in it, and "" that it does not and cannot notice.
var tampering = []struct {
	attack                        string
	device, collector, thirdParty func(*testing.T, *scene) string
	want                          [3]string
	remark                        string
}{
	{
		"edit a record",
		func(t *testing.T, s *scene) string {
			return s.onFlash(t, func(b *bbolt.Bucket) error {
				return b.Put(recordKey(unseen), recordValue(s.edited(unseen, false)[unseen]))
			})
		},
		func(t *testing.T, s *scene) string { return s.sent(t, s.edited(unseen, false), 21, s.head) },
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.edited(seen, false), logging.Item{Checkpoint: s.head})
		},
		[3]string{"record-altered", "root-mismatch", "record-altered"},
		"the record is named",
	},
	{
		"edit a record and its hash",
		func(t *testing.T, s *scene) string {
			return s.onFlash(t, func(b *bbolt.Bucket) error {
				return b.Put(recordKey(unseen), recordValue(s.edited(unseen, true)[unseen]))
			})
		},
		func(t *testing.T, s *scene) string { return s.sent(t, s.edited(unseen, true), 21, s.head) },
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.edited(unseen, true), logging.Item{Checkpoint: s.head})
		},
		[3]string{"root-mismatch", "root-mismatch", "root-mismatch"},
		"",
	},
	{
		"edit a record that has a receipt, and sign again with the device's key",
		nil,
		func(t *testing.T, s *scene) string {
			return s.sent(t, s.edited(seen, true), 0, s.sign(t, s.edited(seen, true)))
		},
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.edited(seen, true), logging.Item{Checkpoint: s.sign(t, s.edited(seen, true))})
		},
		[3]string{"", "root-mismatch", "log-forked"},
		"the attacker is the device; the third party knows an earlier head",
	},
	{
		"edit the personal value beside a record",
		func(t *testing.T, s *scene) string {
			return s.onFlash(t, func(b *bbolt.Bucket) error { return b.Put(recordKey(unseen), recordValue(s.renamed(unseen)[unseen])) })
		},
		func(t *testing.T, s *scene) string { return s.sent(t, s.renamed(unseen), 21, s.head) },
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.renamed(seen), logging.Item{Checkpoint: s.head})
		},
		[3]string{"side-mismatch", "side-mismatch", "side-mismatch"},
		"",
	},
	{
		"delete a record",
		func(t *testing.T, s *scene) string {
			return s.onFlash(t, func(b *bbolt.Bucket) error { return b.Delete(recordKey(unseen)) })
		},
		func(t *testing.T, s *scene) string { return s.sent(t, s.without(unseen), 21, s.head) },
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.without(seen), logging.Item{Checkpoint: s.head})
		},
		[3]string{"record-missing", "malformed", "record-missing"},
		"",
	},
	{
		"reorder records",
		func(t *testing.T, s *scene) string {
			return s.onFlash(t, func(b *bbolt.Bucket) error {
				x := s.swapped(unseen, unseen+1)
				if err := b.Put(recordKey(unseen), recordValue(x[unseen])); err != nil {
					return err
				}
				return b.Put(recordKey(unseen+1), recordValue(x[unseen+1]))
			})
		},
		func(t *testing.T, s *scene) string { return s.sent(t, s.swapped(unseen, unseen+1), 21, s.head) },
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.swapped(seen, seen+1), logging.Item{Checkpoint: s.head})
		},
		[3]string{"root-mismatch", "root-mismatch", "record-moved"},
		"",
	},
	{
		"cut the tail off",
		func(t *testing.T, s *scene) string {
			return s.onFlash(t, func(b *bbolt.Bucket) error {
				for i := unseen; i < len(s.leaves); i++ {
					if err := b.Delete(recordKey(i)); err != nil {
						return err
					}
				}
				return nil
			})
		},
		func(t *testing.T, s *scene) string { return s.sent(t, s.leaves[:unseen], 21, s.head) },
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.leaves[:unseen], logging.Item{Checkpoint: s.head})
		},
		[3]string{"record-missing", "malformed", "log-truncated"},
		"",
	},
	{
		"cut the tail off, and sign what is left with the device's key",
		nil,
		nil,
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.leaves[:seen], logging.Item{Checkpoint: s.sign(t, s.leaves[:seen])})
		},
		[3]string{"", "", "log-rolled-back"},
		"below the head that was seen; the collector keeps what it has",
	},
	{
		"put an old copy of the store back",
		func(t *testing.T, s *scene) string {
			s.restore(t)
			if code := s.takes(t, s.receipts[1]); code != "" { // the retained receipt, at the next connection
				return code
			}
			return s.device(t)
		},
		func(t *testing.T, s *scene) string {
			s.restore(t)
			s.emit(t, 15) // an agent that goes on without having heard the receipt
			b, err := s.log.Batch(t.Context(), 11)
			if err != nil {
				t.Fatal(err)
			}
			s.ingest(t, s.origin.Device, encode(t, b))
			return s.alarms(t)
		},
		func(t *testing.T, s *scene) string {
			s.restore(t)
			return s.ownExport(t)
		},
		[3]string{"log-rolled-back", "root-mismatch", "log-rolled-back"},
		"the device begins a new epoch that says so",
	},
	{
		"delete the store",
		func(t *testing.T, s *scene) string {
			s.log.Close()
			if err := os.Remove(filepath.Join(s.dir, "audit.db")); err != nil {
				t.Fatal(err)
			}
			s.open(t)
			return s.device(t)
		},
		func(t *testing.T, s *scene) string {
			s.log.Close()
			if err := os.Remove(filepath.Join(s.dir, "audit.db")); err != nil {
				t.Fatal(err)
			}
			s.open(t)
			s.ship(t)
			return s.alarms(t)
		},
		nil,
		[3]string{"store-missing", "new-epoch", ""},
		"a notice; what had no receipt is gone, and that is on record",
	},
	{
		"delete everything the log has on the device",
		func(t *testing.T, s *scene) string {
			s.wipe(t)
			return s.takes(t, s.receipts[1])
		},
		func(t *testing.T, s *scene) string {
			s.wipe(t)
			s.emit(t, 25)
			b, err := s.log.Batch(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			s.ingest(t, s.origin.Device, encode(t, b))
			return s.alarms(t)
		},
		func(t *testing.T, s *scene) string {
			s.wipe(t)
			return s.ownExport(t)
		},
		[3]string{"log-rolled-back", "root-mismatch", "log-rolled-back"},
		"a receipt is retained at the broker and ends it at the next connection",
	},
	{
		"fork: two logs of one length under the device's key",
		func(t *testing.T, s *scene) string {
			other := s.edited(seen, true)
			var tree logging.Tree
			for _, l := range other[:21] {
				tree.Append(l.Hash)
			}
			return s.takes(t, s.receiptFor(t, s.fixture.key, logging.Checkpoint{Origin: s.origin, Size: 21, Root: tree.Root()}))
		},
		func(t *testing.T, s *scene) string {
			x := s.edited(seen, true)[:21]
			return s.sent(t, x, 0, s.sign(t, x))
		},
		func(t *testing.T, s *scene) string {
			x := s.edited(seen, true)[:21]
			return s.exported(t, x, logging.Item{Checkpoint: s.sign(t, x)})
		},
		[3]string{"log-forked", "log-forked", "log-forked"},
		"the two signed heads are evidence against whoever signed",
	},
	{
		"forge a receipt",
		func(t *testing.T, s *scene) string {
			return s.takes(t, s.receiptFor(t, receiptKey(t, "TEST/collector"), s.whole(t)))
		},
		nil,
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.leaves, logging.Item{Checkpoint: s.head}, logging.Item{Receipt: flip(s.receiptFor(t, s.fixture.key, s.whole(t)))})
		},
		[3]string{"bad-receipt", "", "bad-receipt"},
		"another key of the same name; a flipped bit",
	},
	{
		"use the receipt of another device",
		func(t *testing.T, s *scene) string {
			other := s.whole(t)
			other.Origin = newDevice(t).origin
			return s.takes(t, s.receiptFor(t, s.fixture.key, other))
		},
		nil,
		func(t *testing.T, s *scene) string {
			other := s.whole(t)
			other.Origin = newDevice(t).origin
			return s.exported(t, s.leaves, logging.Item{Checkpoint: s.head}, logging.Item{Receipt: s.receiptFor(t, s.fixture.key, other)})
		},
		[3]string{"device-mismatch", "", "bad-receipt"},
		"",
	},
	{
		"replay an old receipt",
		func(t *testing.T, s *scene) string { return s.takes(t, s.receipts[0]) },
		nil,
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.leaves, logging.Item{Checkpoint: s.head}, logging.Item{Receipt: s.receipts[0]})
		},
		[3]string{"", "", "malformed"},
		"the device's position never goes back: no effect",
	},
	{
		"put a hash in the place of a record's body, or that of a subtree in the place of records",
		func(t *testing.T, s *scene) string {
			s.onFlash(t, func(b *bbolt.Bucket) error {
				const shed = 2
				return b.Put(recordKey(unseen), append([]byte{shed}, s.leaves[unseen].Hash[:]...))
			})
			report, err := s.log.Verify(t.Context())
			return unnamed(report, err)
		},
		func(t *testing.T, s *scene) string { return s.sent(t, s.joined(24, 2), 21, s.head) },
		func(t *testing.T, s *scene) string { return unnamed(s.report(t, s.joined(24, 2))) },
		[3]string{"unnamed", "", "unnamed"},
		"it shows as shed, and no record of the device says so",
	},
	{
		"put a subtree in the place of records before and after a head that was seen, and sign again with the device's key",
		nil,
		func(t *testing.T, s *scene) string { return s.sent(t, s.joined(16, 3), 0, s.sign(t, s.joined(16, 3))) },
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.joined(16, 3), logging.Item{Checkpoint: s.sign(t, s.joined(16, 3))})
		},
		[3]string{"", "log-rolled-back", "log-rolled-back"},
		"a device keeps what it handed out comparable",
	},
	{
		"edit the collector's store",
		nil,
		nil,
		func(t *testing.T, s *scene) string {
			x := s.edited(seen, false)[:21]
			return s.exported(t, x, logging.Item{Receipt: s.receipts[1]})
		},
		[3]string{"", "", "record-altered"},
		"the operator of the collector is the attacker",
	},
	{
		"rewrite records nobody has signed for yet, with the device's key",
		nil,
		func(t *testing.T, s *scene) string {
			return s.sent(t, s.edited(unseen, true), 21, s.sign(t, s.edited(unseen, true)))
		},
		func(t *testing.T, s *scene) string {
			return s.exported(t, s.edited(unseen, true), logging.Item{Checkpoint: s.sign(t, s.edited(unseen, true))})
		},
		[3]string{"", "", ""},
		"**nobody can**: that is why critical events are sent at once",
	},
}

func flip(note []byte) []byte {
	note = append([]byte(nil), note...)
	note[len(note)-10] ^= 1
	return note
}

// restore puts the copy of the store in place that was made after the first receipt.
func (s *scene) restore(t *testing.T) {
	t.Helper()
	s.log.Close()
	s.dir = s.old
	s.open(t)
	if st := s.log.State(); st.Origin != s.origin || st.Size != 11 {
		t.Fatalf("the old copy is %+v", st)
	}
}

// wipe removes the log's whole directory.
func (s *scene) wipe(t *testing.T) {
	t.Helper()
	s.log.Close()
	s.dir = t.TempDir()
	s.open(t)
	if st := s.log.State(); st.Origin != s.origin {
		t.Fatalf("the new log is %+v", st)
	}
}

// ownExport is what the device itself would hand over now.
func (s *scene) ownExport(t *testing.T) string {
	t.Helper()
	var leaves []logging.Leaf
	for l, err := range s.log.From(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, l)
	}
	return s.exported(t, leaves, logging.Item{Checkpoint: s.log.Checkpoint()})
}

// TestGoldenTampering performs every attack, and renders who noticed it into docs/audit.md.
func TestGoldenTampering(t *testing.T) {
	var table strings.Builder
	table.WriteString("| attack | device | collector | third party with an export | remark |\n|---|---|---|---|---|\n")
	for _, a := range tampering {
		cells := make([]string, 3)
		for i, run := range []func(*testing.T, *scene) string{a.device, a.collector, a.thirdParty} {
			who := []string{"device", "collector", "third party"}[i]
			t.Run(a.attack+"/"+who, func(t *testing.T) {
				got := ""
				cells[i] = " "
				if run != nil {
					got = run(t, newScene(t))
					cells[i] = "–"
				}
				if got != "" {
					cells[i] = "`" + got + "`"
				}
				if got != a.want[i] {
					t.Errorf("%q, want %q", got, a.want[i])
				}
			})
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", a.attack, strings.Join(cells, " | "), a.remark)
	}
	if t.Failed() {
		return
	}
	path := filepath.Join("..", "..", "docs", "audit.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- tampering:begin -->\n", "<!-- tampering:end -->"
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	want := before + begin + table.String() + end + after
	if want == string(b) {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date, run `go test -run Golden -update` here", path)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
