// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/logging"
)

func writeFile(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// The golden files are evidence as this version wrote it once. They must verify for ever: whoever kept an export must not
// lose it to an update of this program. With -update they are made anew, by a device and a collector with throw-away keys.
func TestGoldenEvidence(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	h, items := goldenEvidence(t)
	p, err := logging.NewPolicy([]string{strings.TrimSpace(string(readFile(t, "testdata/golden.receipt-key")))}, 1)
	if err != nil {
		t.Fatal(err)
	}
	report, err := verify(h, items, logging.Expect{Policy: p, Acked: true})
	if err != nil {
		t.Fatal(err)
	}
	if report.Size != 100 || report.Records != 98 || report.Checkpoints != 2 || report.Acked != 64 || report.Opaque != 1 || len(report.Shed) != 1 {
		t.Errorf("report = %+v", report)
	}
	b, err := logging.DecodeBatch(readFile(t, "testdata/golden.batch"))
	if err != nil {
		t.Fatal(err)
	}
	if next, fresh, _, err := (logging.Head{Origin: b.Origin}).Advance(b); err != nil || len(fresh) != 64 || next.Tree.Size() != 64 {
		t.Errorf("batch: %v", err)
	}
}

func writeGolden(t *testing.T) {
	r := newRig(t).grow(t, 63)
	opaque := []byte("{\"metadata\":{\"version\":\"9.0.0\"},\"text\":\"line\nline\"}")
	r.leaves = append(r.leaves, logging.Leaf{Index: 63, Hash: logging.LeafHash(opaque), Body: opaque})
	delete(r.heads, 63)
	r.tree.Append(logging.LeafHash(opaque))
	r.heads[64] = r.sign(t, r.tree)
	r.receipts[64] = r.receipt(t, r.collector)
	wire, err := logging.EncodeBatch(r.batch(0, 64))
	if err != nil {
		t.Fatal(err)
	}
	r.grow(t, 36)
	r.leaves[10].Body, r.leaves[11].Body = nil, nil
	var out bytes.Buffer
	if err := logging.WriteExport(&out, r.header(), seq(r.items())); err != nil {
		t.Fatal(err)
	}
	writeFile(t, "testdata/golden.batch", wire)
	writeFile(t, "testdata/golden.export", out.Bytes())
	writeFile(t, "testdata/golden.receipt-key", []byte(r.collector.Key().String()+"\n"))
}

func goldenEvidence(t testing.TB) (logging.Header, []logging.Item) {
	t.Helper()
	h, items, err := readExport(readFile(t, "testdata/golden.export"))
	if err != nil {
		t.Fatal(err)
	}
	return h, items
}

func readExport(b []byte) (logging.Header, []logging.Item, error) {
	h, it, err := logging.ReadExport(bytes.NewReader(b))
	if err != nil {
		return h, nil, err
	}
	items, err := all(it)
	return h, items, err
}

func all(it iter.Seq2[logging.Item, error]) ([]logging.Item, error) {
	var items []logging.Item
	for item, err := range it {
		if err != nil {
			return items, err
		}
		items = append(items, item)
	}
	return items, nil
}

func TestExportRoundTrip(t *testing.T) {
	golden := readFile(t, "testdata/golden.export")
	h, items, err := readExport(golden)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := logging.WriteExport(&out, h, seq(items)); err != nil {
		t.Fatal(err)
	}
	// The golden file is of version 1, which has no side records and is read for ever.
	if want := bytes.Replace(golden, []byte("backstay-audit-export 1"), []byte("backstay-audit-export 3"), 1); !bytes.Equal(out.Bytes(), want) {
		t.Error("reading and writing an export changes it")
	}
	r := newRig(t).grow(t, 11)
	h = r.header()
	h.Start = r.tree.Clone() // a frontier of three hashes
	r.grow(t, 1)
	out.Reset()
	if err := logging.WriteExport(&out, h, seq(r.items()[12:])); err != nil {
		t.Fatal(err)
	}
	got, items, err := readExport(out.Bytes())
	if err != nil || got.Start.Root() != h.Start.Root() || got.Start.Size() != 11 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := verify(got, items, logging.Expect{}); err != nil {
		t.Fatal(err)
	}
}

// Editing the text of an export is refused, and the report names the record.
func TestEditedExportNamesTheRecord(t *testing.T) {
	golden := string(readFile(t, "testdata/golden.export"))
	edited := strings.Replace(golden, "socket 40", "socket 41", 1)
	h, items, err := readExport([]byte(edited))
	if err != nil {
		t.Fatal(err)
	}
	report, err := verify(h, items, logging.Expect{})
	wantCode(t, err, logging.CodeRecordAltered)
	if report.Bad == nil || *report.Bad != (logging.Range{First: 40, Last: 40}) {
		t.Errorf("bad = %v", report.Bad)
	}
}

func TestReadExportRefuses(t *testing.T) {
	golden := string(readFile(t, "testdata/golden.export"))
	lines := strings.SplitAfter(golden, "\n")
	last := len(lines) - 2 // the end line
	replace := func(i int, s string) string {
		return strings.Join(lines[:i], "") + s + strings.Join(lines[i+1:], "")
	}
	for _, tc := range []struct{ name, text, code string }{
		{"empty", "", logging.CodeTruncated},
		{"something else", "hello\n", logging.CodeMalformed},
		{"next version", replace(0, "backstay-audit-export 4\n"), logging.CodeUnknownVersion},
		{"bad key", replace(1, "spki !!\n"), logging.CodeMalformed},
		{"long key", replace(1, "spki "+strings.Repeat("AAAA", 200)+"\n"), logging.CodeMalformed},
		{"bad origin", replace(2, "origin x\n"), logging.CodeMalformed},
		{"negative start", replace(3, "start -1\n"), logging.CodeMalformed},
		{"start without frontier", replace(3, "start 5\n"), logging.CodeMalformed},
		{"frontier without start", replace(3, "start 0\nfrontier "+strings.Repeat("00", 32)+"\n"), logging.CodeMalformed},
		{"endless frontier", replace(3, "start 5\n"+strings.Repeat("frontier "+strings.Repeat("00", 32)+"\n", 70)), logging.CodeMalformed},
		{"order of the head", replace(1, ""), logging.CodeMalformed},
		{"unknown item", replace(6, "surprise 1\n"), logging.CodeMalformed},
		{"index not a number", replace(6, "leaf x "+strings.Repeat("00", 32)+" {}\n"), logging.CodeMalformed},
		{"hash too short", replace(6, "leaf 2 00 {}\n"), logging.CodeMalformed},
		{"no body", replace(6, "leaf 2 "+strings.Repeat("00", 32)+"\n"), logging.CodeMalformed},
		{"shed with a body", replace(6, "shed 2 "+strings.Repeat("00", 32)+" {}\n"), logging.CodeMalformed},
		{"subtree with a body", replace(6, "subtree 2 1 "+strings.Repeat("00", 32)+" {}\n"), logging.CodeMalformed},
		{"subtree of level 0", replace(6, "subtree 2 0 "+strings.Repeat("00", 32)+"\n"), logging.CodeMalformed},
		{"subtree out of place", replace(6, "subtree 2 2 "+strings.Repeat("00", 32)+"\n"), logging.CodeMalformed},
		{"subtree of level 63", replace(6, "subtree 0 63 "+strings.Repeat("00", 32)+"\n"), logging.CodeMalformed},
		{"subtree of level 257", replace(6, "subtree 0 257 "+strings.Repeat("00", 32)+"\n"), logging.CodeMalformed},
		{"subtree without level", replace(6, "subtree 2 "+strings.Repeat("00", 32)+"\n"), logging.CodeMalformed},
		{"leaf64 not base64", replace(6, "leaf64 2 "+strings.Repeat("00", 32)+" !\n"), logging.CodeMalformed},
		{"note not base64", replace(6, "checkpoint !\n"), logging.CodeMalformed},
		{"empty note", replace(6, "receipt \n"), logging.CodeMalformed},
		{"record too long", replace(6, "leaf 2 "+strings.Repeat("00", 32)+" "+strings.Repeat("x", logging.MaxLeaf+1)+"\n"), logging.CodeMalformed},
		{"endless line", replace(6, "leaf 2 "+strings.Repeat("x", 1<<20)+"\n"), logging.CodeMalformed},
		{"cut off", strings.Join(lines[:last], ""), logging.CodeTruncated},
		{"line removed, end kept", replace(6, ""), logging.CodeTruncated},
		{"after the end", golden + "leaf\n", logging.CodeMalformed},
		{"endless line after the end", golden + strings.Repeat("x", 1<<20), logging.CodeMalformed},
	} {
		if _, _, err := readExport([]byte(tc.text)); code(err) != tc.code {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.code)
		}
	}
}

func TestWriteExportOfBrokenEvidenceIsCutOff(t *testing.T) {
	r := newRig(t).grow(t, 3)
	broken := errors.New("unreadable")
	var out bytes.Buffer
	err := logging.WriteExport(&out, r.header(), func(yield func(logging.Item, error) bool) {
		_ = yield(logging.Item{Leaf: &r.leaves[0]}, nil) && yield(logging.Item{}, broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("error = %v", err)
	}
	if _, items, err := readExport(out.Bytes()); code(err) != logging.CodeTruncated || len(items) != 1 {
		t.Errorf("%d items, %v", len(items), err)
	}
}

type fullDisk struct{ room int }

func (d *fullDisk) Write(b []byte) (int, error) {
	if d.room -= len(b); d.room < 0 {
		return 0, fmt.Errorf("no space")
	}
	return len(b), nil
}

func TestWriteExportReportsWriteErrors(t *testing.T) {
	r := newRig(t).grow(t, 200)
	if err := logging.WriteExport(&fullDisk{10000}, r.header(), seq(r.items())); err == nil {
		t.Error("a full disk went unnoticed")
	}
}

func FuzzReadExport(f *testing.F) {
	golden := readFile(f, "testdata/golden.export")
	f.Add(golden)
	lines := bytes.SplitAfter(golden, []byte("\n"))
	f.Add(bytes.Join(append(lines[:8:8], []byte("end 3\n")), nil))
	r := newRig(f).grow(f, 20)
	r.join(4, 2)
	r.join(8, 3)
	var out bytes.Buffer
	if err := logging.WriteExport(&out, r.header(), seq(r.items())); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, items, err := readExport(b)
		if err != nil {
			if code(err) == "" {
				t.Errorf("error without a code: %v", err)
			}
			return
		}
		var out bytes.Buffer
		if err := logging.WriteExport(&out, h, seq(items)); err != nil {
			t.Fatal(err)
		}
		if _, again, err := readExport(out.Bytes()); err != nil || len(again) != len(items) {
			t.Fatalf("written again: %v", err)
		}
		verify(h, items, logging.Expect{})
	})
}
