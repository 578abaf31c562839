// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// androidDefault is the block that U-Boot makes when it finds none (ab_control_default in its boot/android_ab.c): both slots with
// priority 15, 7 tries, not successful.
const androidDefault = "5f610000" + "42434142" + "01" + "02" + "0000" + "7f00" + "7f00" + "0000" + "0000" + "0000000000000000"

func androidBytes(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.AppendUint32(raw, crc32.ChecksumIEEE(raw))
}

// androidRig is a device whose U-Boot keeps Android's control block.
type androidRig struct{ *cutDisk }

func newAndroidRig(d *cutDisk) cutRig {
	raw, _ := hex.DecodeString("5f610000424341420102" + "0000" + "bf00" + "be00" + "00000000" + "0000000000000000")
	misc := make([]byte, 4096)
	copy(misc[2048:], binary.LittleEndian.AppendUint32(raw, crc32.ChecksumIEEE(raw)))
	d.put("misc", misc)
	return &androidRig{d}
}

func (r *androidRig) open() (update.Bootloader, error) {
	return boot.Media(r.cutDisk.open).Android(boot.AndroidOptions{Path: "misc", Offset: 2048, Slots: []update.SlotID{"A", "B"}, Names: []string{"_a", "_b"}, Attempts: 3})
}

func (r *androidRig) startable(i int) bool {
	v := r.durable["misc"][2048+12+2*i:]
	return v[1]&1 == 0 && (v[0]>>4&7 > 0 || v[0]&0x80 != 0)
}

// boot plays ab_select_slot.
func (r *androidRig) boot(bool) (update.SlotID, error) {
	raw := r.durable["misc"][2048:2080]
	if binary.LittleEndian.Uint32(raw[28:]) != crc32.ChecksumIEEE(raw[:28]) {
		return "", errors.New("the metadata is made anew, with every slot startable")
	}
	best := -1
	rank := func(i int) int {
		v := int(raw[12+2*i])
		return v&15<<8 | v>>7<<4 | v>>4&7
	}
	for i := range 2 {
		if r.startable(i) && (best < 0 || rank(i) > rank(best)) {
			best = i
		}
	}
	if best < 0 {
		return "", errors.New("no slot can be started")
	}
	if raw[12+2*best]&0x80 == 0 {
		raw[12+2*best] -= 0x10
	}
	raw[1] = byte('a' + best)
	binary.LittleEndian.PutUint32(raw[28:], crc32.ChecksumIEEE(raw[:28]))
	return update.SlotID('A' + rune(best)), nil
}

func (r *androidRig) fallBacks() (out []update.SlotID) {
	for i, id := range []update.SlotID{"A", "B"} {
		if r.startable(i) {
			out = append(out, id)
		}
	}
	return out
}

// TestCutAndroid cuts an update at every effect on the misc partition.
func TestCutAndroid(t *testing.T) {
	wantCuts(t, newAndroidRig, "no sync", "no disarm", "no keep", "try keeps", "truncate")
}

// TestAndroidTransitions holds the bytes of each, and that the rest of the partition stays.
func TestAndroidTransitions(t *testing.T) {
	d := &cutDisk{durable: map[string][]byte{}}
	misc := bytes.Repeat([]byte{0xee}, 8192)
	copy(misc[2048:], androidBytes(t, androidDefault))
	d.put("misc", misc)
	b := must((&androidRig{d}).open())
	if s, err := b.State(); err != nil || s.Primary != "A" || !s.Trial || s.Left["A"] != 7 || s.Left["B"] != 7 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, s := range []struct {
		name  string
		do    func() error
		slots string
	}{
		{"keep A", func() error { return b.Keep("A") }, "bf007e00"},
		{"disarm B", func() error { return b.Disarm("B") }, "bf000000"},
		{"try B", func() error { return b.Try("B", 9) }, "be007f00"},
		{"try B twice", func() error { return b.Try("B", 2) }, "be002f00"},
		{"keep B", func() error { return b.Keep("B") }, "be00bf00"},
		{"disarm A", func() error { return b.Disarm("A") }, "0000bf00"},
	} {
		if err := errors.Join(s.do(), s.do()); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		want := bytes.Repeat([]byte{0xee}, 8192)
		copy(want[2048:], androidBytes(t, "5f61000042434142010200"+"00"+s.slots+"000000000000000000000000"))
		if !bytes.Equal(d.durable["misc"], want) {
			t.Errorf("%s: %x", s.name, d.durable["misc"][2048:2080])
		}
	}
	if n := d.effects; n != 12 {
		t.Errorf("%d effects for six changes", n)
	}
	var no *update.Refusal
	if err := b.Disarm("B"); !errors.As(err, &no) {
		t.Errorf("the only slot was disarmed: %v", err)
	}
	d.durable["misc"][2048+16] ^= 1
	if err := b.Keep("B"); !errors.Is(err, update.ErrSetup) || d.effects != 12 {
		t.Errorf("a block with a wrong checksum was replaced: %v", err)
	}
	for _, names := range [][]string{{"a", "_a"}, {"a", "e"}, {"a", "ab"}, {"", "b"}, {"0", "a"}} {
		if _, err := boot.OpenAndroid(boot.AndroidOptions{Slots: []update.SlotID{"A", "B"}, Names: names}); !errors.Is(err, update.ErrSetup) {
			t.Errorf("names %q: %v", names, err)
		}
	}
}

// FuzzAndroid gives the parser any block under a right checksum, and wants it back as it was.
func FuzzAndroid(f *testing.F) {
	f.Add(androidBytes(f, androidDefault))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) == 32 {
			binary.LittleEndian.PutUint32(raw[28:], crc32.ChecksumIEEE(raw[:28]))
		}
		if again, err := boot.ParseAndroid(raw); err == nil && !bytes.Equal(again, raw) {
			t.Fatalf("%x became %x", raw, again)
		}
	})
}
