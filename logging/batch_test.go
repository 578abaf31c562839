// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/backstay/backstay/logging"
)

func TestBatchRoundTrip(t *testing.T) {
	r := newRig(t).grow(t, 64).grow(t, 64)
	b := r.batch(64, 128)
	b.Leaves[7].Body, b.Leaves[7].Side = nil, nil
	var enc logging.BatchEncoder
	for range 2 { // the second time with a used encoder
		wire, err := enc.Encode(b)
		if err != nil {
			t.Fatal(err)
		}
		if len(wire) > 16<<10 {
			t.Errorf("64 ordinary records take %d bytes", len(wire))
		}
		got, err := logging.DecodeBatch(wire)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, b) {
			t.Errorf("got %+v\nwant %+v", got, b)
		}
		clear(wire) // what was decoded must not change with the message buffer
		if !reflect.DeepEqual(got, b) {
			t.Error("the batch shares memory with the message")
		}
	}
}

func TestEncodeBatchRefuses(t *testing.T) {
	r := newRig(t).grow(t, 3)
	for name, fn := range map[string]func(*logging.Batch){
		"no records":       func(b *logging.Batch) { b.Leaves = nil },
		"too many records": func(b *logging.Batch) { b.Leaves = slices.Repeat(b.Leaves[:1], logging.MaxBatchLeaves+1) },
		"too many bytes": func(b *logging.Batch) {
			b.Leaves = slices.Repeat([]logging.Leaf{{Body: make([]byte, logging.MaxLeaf)}}, 17)
		},
		"key too long":        func(b *logging.Batch) { b.SPKI = make([]byte, logging.MaxSPKI+1) },
		"checkpoint too long": func(b *logging.Batch) { b.Checkpoint = make([]byte, logging.MaxNote+1) },
		"start out of range":  func(b *logging.Batch) { b.Start = 1 << 63 },
		"level of a record":   func(b *logging.Batch) { b.Leaves[0].Level = 1 },
		"level out of place":  func(b *logging.Batch) { b.Leaves[1] = logging.Leaf{Level: 1} },
		"level out of range":  func(b *logging.Batch) { b.Leaves[0] = logging.Leaf{Level: 63} },
	} {
		b := r.batch(0, 3)
		fn(&b)
		if _, err := logging.EncodeBatch(b); code(err) != logging.CodeMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// wire builds a message by hand, so that every field can be wrong.
type wire struct {
	magic            string
	version          byte
	spki, origin, cp []byte
	start, count     uint64
	size             uint64
	raw              []byte
	tail             []byte
}

func (w wire) encode() []byte {
	var z bytes.Buffer
	f, _ := flate.NewWriter(&z, flate.BestCompression)
	f.Write(w.raw)
	f.Close()
	field := func(b, f []byte) []byte { return append(binary.AppendUvarint(b, uint64(len(f))), f...) }
	b := append([]byte(w.magic), w.version)
	b = field(field(b, w.spki), w.origin)
	b = binary.AppendUvarint(binary.AppendUvarint(b, w.start), w.count)
	b = binary.AppendUvarint(field(b, w.cp), w.size)
	return append(append(b, z.Bytes()...), w.tail...)
}

// tree makes the message one subtree.
func (w *wire) tree(version byte, start uint64, level byte) {
	w.version, w.start, w.count = version, start, 1
	w.raw = append([]byte{3, level}, make([]byte, 32)...)
	w.size = uint64(len(w.raw))
}

func goodWire() wire {
	return wire{magic: "bsab", version: 1, spki: []byte("k"), origin: []byte(testOrigin.String()), cp: []byte("c"), count: 2, size: 5 + 1 + 32,
		raw: append([]byte{0, 3, 'a', 'b', 'c', 1}, make([]byte, 32)...)}
}

func TestDecodeBatchRefuses(t *testing.T) {
	if _, err := logging.DecodeBatch(goodWire().encode()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		start uint64
		level byte
	}{{0, 1}, {4, 2}, {0, 62}, {1 << 61, 61}} {
		w := goodWire()
		w.tree(3, tc.start, tc.level)
		if b, err := logging.DecodeBatch(w.encode()); err != nil || b.End() != tc.start+1<<tc.level {
			t.Errorf("subtree of level %d at %d: %v", tc.level, tc.start, err)
		}
	}
	for name, tc := range map[string]struct {
		fn   func(*wire)
		code string
	}{
		"magic":                {func(w *wire) { w.magic = "xxxx" }, logging.CodeMalformed},
		"next version":         {func(w *wire) { w.version = 4 }, logging.CodeUnknownVersion},
		"version 0":            {func(w *wire) { w.version = 0 }, logging.CodeUnknownVersion},
		"origin":               {func(w *wire) { w.origin = []byte("elsewhere") }, logging.CodeMalformed},
		"long origin":          {func(w *wire) { w.origin = make([]byte, logging.MaxOrigin+1) }, logging.CodeMalformed},
		"long key":             {func(w *wire) { w.spki = make([]byte, logging.MaxSPKI+1) }, logging.CodeMalformed},
		"long checkpoint":      {func(w *wire) { w.cp = make([]byte, logging.MaxNote+1) }, logging.CodeMalformed},
		"start out of range":   {func(w *wire) { w.start = 1<<63 - 1 }, logging.CodeMalformed},
		"no records":           {func(w *wire) { w.count, w.raw, w.size = 0, nil, 0 }, logging.CodeMalformed},
		"fewer than announced": {func(w *wire) { w.count = 3 }, logging.CodeMalformed},
		"more than announced":  {func(w *wire) { w.count = 1 }, logging.CodeMalformed},
		"too many":             {func(w *wire) { w.count = logging.MaxBatchLeaves + 1 }, logging.CodeMalformed},
		"stream shorter":       {func(w *wire) { w.size++ }, logging.CodeMalformed},
		"stream longer":        {func(w *wire) { w.size-- }, logging.CodeMalformed},
		"after the stream":     {func(w *wire) { w.tail = []byte{0} }, logging.CodeMalformed},
		"unknown kind":         {func(w *wire) { w.raw[5] = 2 }, logging.CodeMalformed},
		"side in version 1":    {func(w *wire) { w.raw, w.size, w.count = []byte{2, 1, 'a', 1, 'b'}, 5, 1 }, logging.CodeMalformed},
		"subtree in version 2": {func(w *wire) { w.tree(2, 0, 1) }, logging.CodeMalformed},
		"subtree of level 0":   {func(w *wire) { w.tree(3, 0, 0) }, logging.CodeMalformed},
		"subtree of level 63":  {func(w *wire) { w.tree(3, 0, 63) }, logging.CodeMalformed},
		"subtree of level 255": {func(w *wire) { w.tree(3, 0, 255) }, logging.CodeMalformed},
		"subtree out of place": {func(w *wire) { w.tree(3, 6, 2) }, logging.CodeMalformed},
		"subtree beyond all":   {func(w *wire) { w.tree(3, 1<<62, 62) }, logging.CodeMalformed},
		"subtree cut off":      {func(w *wire) { w.tree(3, 0, 1); w.raw = w.raw[:30]; w.size = 30 }, logging.CodeMalformed},
		"empty side record":    {func(w *wire) { w.version, w.raw, w.size, w.count = 2, []byte{2, 1, 'a', 0}, 4, 1 }, logging.CodeMalformed},
		"long side record": {func(w *wire) {
			w.raw = append(binary.AppendUvarint([]byte{2, 1, 'a'}, logging.MaxSide+1), make([]byte, logging.MaxSide+1)...)
			w.version, w.size, w.count = 2, uint64(len(w.raw)), 1
		}, logging.CodeMalformed},
		"empty record":        {func(w *wire) { w.raw, w.size = append([]byte{0, 0, 1}, make([]byte, 32)...), 35 }, logging.CodeMalformed},
		"record past the end": {func(w *wire) { w.raw[1] = 127 }, logging.CodeMalformed},
		"record of 2^63 bytes": {func(w *wire) {
			w.raw = binary.AppendUvarint([]byte{0}, 1<<63)
			w.size, w.count = uint64(len(w.raw)), 1
		}, logging.CodeMalformed},
	} {
		w := goodWire()
		tc.fn(&w)
		if _, err := logging.DecodeBatch(w.encode()); code(err) != tc.code {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	good := goodWire().encode()
	for n := range good {
		if _, err := logging.DecodeBatch(good[:n]); err == nil {
			t.Errorf("cut to %d bytes was accepted", n)
		}
	}
	if _, err := logging.DecodeBatch(make([]byte, logging.MaxBatchWire+1)); code(err) != logging.CodeMalformed {
		t.Errorf("too long: %v", err)
	}
}

// A kilobyte that inflates to a gigabyte, or says it will, costs what the limit allows and no more.
func TestDecodeBatchBoundsMemory(t *testing.T) {
	bomb := goodWire()
	bomb.raw = make([]byte, 64<<20)
	bomb.size = logging.MaxBatchInflated
	liar := goodWire()
	liar.size = 1 << 40
	for _, w := range []wire{bomb, liar} {
		msg := w.encode()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := logging.DecodeBatch(msg)
		runtime.ReadMemStats(&after)
		wantCode(t, err, logging.CodeMalformed)
		if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
			t.Errorf("decoding %d bytes allocated %d", len(msg), got)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add(readFile(f, "testdata/golden.batch"))
	f.Add(goodWire().encode())
	w := goodWire()
	w.tree(3, 4, 2)
	f.Add(w.encode())
	f.Fuzz(func(t *testing.T, msg []byte) {
		b, err := logging.DecodeBatch(msg)
		if err != nil {
			if code(err) == "" {
				t.Errorf("error without a code: %v", err)
			}
			return
		}
		wire, err := logging.EncodeBatch(b)
		if err != nil {
			t.Fatalf("encode what was decoded: %v", err)
		}
		again, err := logging.DecodeBatch(wire)
		if err != nil || !reflect.DeepEqual(again, b) {
			t.Fatalf("second round: %v", err)
		}
		// Whatever it says, it proves nothing without the signature.
		if _, _, _, err := (logging.Head{Origin: b.Origin}).Advance(b); err == nil && !bytes.Equal(msg, readFile(t, "testdata/golden.batch")) &&
			!strings.Contains(string(b.Checkpoint), b.Origin.String()) {
			t.Error("an unsigned batch was accepted")
		}
	})
}

func BenchmarkDecodeBatch(b *testing.B) {
	msg := readFile(b, "testdata/golden.batch")
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if _, err := logging.DecodeBatch(msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeLeaf(b *testing.B) {
	e := fullEvent()
	for b.Loop() {
		logging.EncodeLeaf(testOrigin, 41, epoch0, e)
	}
}
