// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"os"
	"testing"
	"testing/fstest"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

const bareboxStride = 0x100

// bareboxTree is the part of a device tree that describes a state, as barebox's Documentation/devicetree/bindings/barebox/barebox,state.rst has it.
func bareboxTree() fstest.MapFS {
	m := fstest.MapFS{}
	cells := func(name string, list ...uint32) {
		var b []byte
		for _, v := range list {
			b = binary.BigEndian.AppendUint32(b, v)
		}
		m[name] = &fstest.MapFile{Data: b}
	}
	text := func(name, s string) { m[name] = &fstest.MapFile{Data: []byte(s + "\x00")} }
	text("aliases/state", "/state@0")
	text("state@0/backend-type", "raw")
	cells("state@0/magic", 0x4d433230)
	cells("state@0/backend-stridesize", bareboxStride)
	for i, v := range []string{"system0/remaining_attempts@0", "system0/priority@4", "system1/remaining_attempts@8", "system1/priority@c"} {
		cells("state@0/bootstate/"+v+"/reg", uint32(4*i), 4)
		text("state@0/bootstate/"+v+"/type", "uint32")
	}
	return m
}

// bareboxBucket is a copy as backend_format_raw_pack and state_backend_bucket_direct_write make it.
func bareboxBucket(order binary.AppendByteOrder, values ...uint32) []byte {
	var data []byte
	for _, v := range values {
		data = order.AppendUint32(data, v)
	}
	head := order.AppendUint32(nil, 0x4d433230)
	head = order.AppendUint16(order.AppendUint16(head, 0), uint16(len(data)))
	head = order.AppendUint32(head, crc32.ChecksumIEEE(data))
	head = order.AppendUint32(head, crc32.ChecksumIEEE(head))
	out := order.AppendUint32(order.AppendUint32(nil, 0x2354fdf3), uint32(len(head)+len(data)))
	return append(append(out, head...), data...)
}

// bareboxRig is a device with barebox's bootchooser.
type bareboxRig struct {
	*cutDisk
	order interface {
		binary.ByteOrder
		binary.AppendByteOrder
	}
	tree fstest.MapFS
}

func newBareboxRig(order interface {
	binary.ByteOrder
	binary.AppendByteOrder
}) func(d *cutDisk) cutRig {
	tree := bareboxTree()
	return func(d *cutDisk) cutRig {
		r := &bareboxRig{d, order, tree}
		d.put("eeprom", bytes.Repeat([]byte{0xff}, 4*bareboxStride))
		r.store(3, 20, 3, 10)
		return r
	}
}

func (r *bareboxRig) store(values ...uint32) {
	for i := range 3 {
		copy(r.durable["eeprom"][64+i*bareboxStride:], bareboxBucket(r.order, values...))
	}
}

func (r *bareboxRig) values() []uint32 {
	for i := range 3 {
		raw := r.durable["eeprom"][64+i*bareboxStride:]
		var values []uint32
		for at := 24; at < 40; at += 4 {
			values = append(values, r.order.Uint32(raw[at:]))
		}
		if bytes.Equal(raw[:40], bareboxBucket(r.order, values...)) {
			return values
		}
	}
	return nil
}

func (r *bareboxRig) open() (update.Bootloader, error) {
	return boot.Media(r.cutDisk.open).Barebox(boot.BareboxOptions{Path: "eeprom", Offset: 64, Tree: r.tree,
		Slots: []update.SlotID{"A", "B"}, Names: []string{"system0", "system1"}, Attempts: 3})
}

// boot plays the bootchooser over the first whole copy, and makes all of them equal.
func (r *bareboxRig) boot(bool) (update.SlotID, error) {
	v := r.values()
	if v == nil {
		return "", errors.New("no whole copy of the state")
	}
	best := -1
	for i := range 2 {
		if v[2*i] > 0 && v[2*i+1] > 0 && (best < 0 || v[2*i+1] > v[2*best+1]) {
			best = i
		}
	}
	if best < 0 {
		return "", errors.New("no target has attempts left")
	}
	v[2*best]--
	r.store(v...)
	return update.SlotID('A' + rune(best)), nil
}

func (r *bareboxRig) fallBacks() (out []update.SlotID) {
	for i, v := 0, r.values(); i < 2 && v != nil; i++ {
		if v[2*i] > 0 && v[2*i+1] > 0 {
			out = append(out, update.SlotID('A'+rune(i)))
		}
	}
	return out
}

// TestCutBarebox cuts an update at every write of the three copies, in both byte orders.
func TestCutBarebox(t *testing.T) {
	wantCuts(t, newBareboxRig(binary.LittleEndian), "no sync", "no disarm", "no keep")
	if os.Getenv("BACKSTAY_LONG") == "1" {
		wantCuts(t, newBareboxRig(binary.BigEndian))
	}
}

// TestBareboxTransitions holds all bytes after each.
func TestBareboxTransitions(t *testing.T) {
	d := &cutDisk{durable: map[string][]byte{}}
	r := newBareboxRig(binary.LittleEndian)(d).(*bareboxRig)
	b := must(r.open())
	for _, s := range []struct {
		name   string
		do     func() error
		values []uint32
	}{
		{"disarm B", func() error { return b.Disarm("B") }, []uint32{3, 20, 0, 0}},
		{"try B", func() error { return b.Try("B", 2) }, []uint32{3, 10, 2, 20}},
		{"keep B", func() error { return b.Keep("B") }, []uint32{3, 10, 3, 20}},
		{"disarm A", func() error { return b.Disarm("A") }, []uint32{0, 0, 3, 20}},
	} {
		before := d.effects
		if err := errors.Join(s.do(), s.do()); err != nil || d.effects != before+6 {
			t.Fatalf("%s: %v, %d effects", s.name, err, d.effects-before)
		}
		want := bytes.Repeat([]byte{0xff}, 4*bareboxStride)
		for i := range 3 {
			copy(want[64+i*bareboxStride:], bareboxBucket(binary.LittleEndian, s.values...))
		}
		if !bytes.Equal(d.durable["eeprom"], want) {
			t.Errorf("%s: %d", s.name, r.values())
		}
	}
	var no *update.Refusal
	if err := b.Disarm("B"); !errors.As(err, &no) {
		t.Errorf("the only slot was disarmed: %v", err)
	}
	if s, err := b.State(); err != nil || s.Primary != "B" || s.Left["A"] != 0 || s.Left["B"] != 3 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestBareboxRefuses holds device trees that describe what is not understood, and that nothing is written then.
func TestBareboxRefuses(t *testing.T) {
	for name, change := range map[string]func(m fstest.MapFS){
		"no state":    func(m fstest.MapFS) { delete(m, "aliases/state") },
		"up the tree": func(m fstest.MapFS) { m["aliases/state"].Data = []byte("/../x\x00") },
		"dtb":         func(m fstest.MapFS) { m["state@0/backend-type"].Data = []byte("dtb\x00") },
		"raw flash": func(m fstest.MapFS) {
			m["state@0/backend-storage-type"] = &fstest.MapFile{Data: []byte("circular\x00")}
		},
		"with a key":  func(m fstest.MapFS) { m["state@0/algo"] = &fstest.MapFile{Data: []byte("hmac(sha256)\x00")} },
		"no stride":   func(m fstest.MapFS) { m["state@0/backend-stridesize"].Data = make([]byte, 4) },
		"huge stride": func(m fstest.MapFS) { m["state@0/backend-stridesize"].Data = []byte{1, 0, 0, 0} },
		"no variable": func(m fstest.MapFS) {
			maps.DeleteFunc(m, func(k string, _ *fstest.MapFile) bool { return k == "state@0/bootstate/system1/priority@c/reg" })
		},
		"uint8":         func(m fstest.MapFS) { m["state@0/bootstate/system1/priority@c/type"].Data = []byte("uint8\x00") },
		"after its end": func(m fstest.MapFS) { m["state@0/bootstate/system1/priority@c/reg"].Data[3] = 0x20 },
		"other magic":   func(m fstest.MapFS) { m["state@0/magic"].Data[0]++ },
	} {
		d := &cutDisk{durable: map[string][]byte{}}
		newBareboxRig(binary.LittleEndian)(d)
		m := bareboxTree()
		change(m)
		b := must(boot.Media(d.open).Barebox(boot.BareboxOptions{Path: "eeprom", Offset: 64, Tree: m, Slots: []update.SlotID{"A", "B"}, Names: []string{"system0", "system1"}}))
		if err := b.Keep("B"); !errors.Is(err, update.ErrSetup) || d.effects != 0 {
			t.Errorf("%s: %v, %d effects", name, err, d.effects)
		}
	}
}

// FuzzBarebox gives the parser any copy under right checksums.
func FuzzBarebox(f *testing.F) {
	f.Add(bareboxBucket(binary.LittleEndian, 1, 2, 3, 4), uint16(16))
	f.Fuzz(func(t *testing.T, raw []byte, size uint16) {
		d := &cutDisk{durable: map[string][]byte{}}
		b := must(newBareboxRig(binary.LittleEndian)(d).open())
		first := d.durable["eeprom"][64:][:bareboxStride]
		copy(first, raw)
		binary.LittleEndian.PutUint16(first[14:], size)
		if n := 24 + int(size); n <= bareboxStride {
			binary.LittleEndian.PutUint32(first[16:], crc32.ChecksumIEEE(first[24:n]))
		}
		binary.LittleEndian.PutUint32(first[20:], crc32.ChecksumIEEE(first[8:20]))
		if err := b.Keep("B"); err != nil {
			t.Fatal(err) // the other copies are whole
		}
	})
}
