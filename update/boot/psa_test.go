// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// Metadata made by U-Boot's mkfwumdata (tools/fwumdata_src, 2026), versions 1 and 2: two banks, two images, bank 0 started.
const (
	psaV1 = "7c590042010000000000000001000000aaaaaaaabbbbccccddddeeeeeeeeeeee11111111222233334444555555555555010101010202030304040505050505050100000000000000060606060707080809090a0a0a0a0a0a0100000000000000baaaaaaabbbbccccddddeeeeeeeeeeee21111111222233334444555555555555210101010202030304040505050505050100000000000000260606060707080809090a0a0a0a0a0a0100000000000000"
	psaV2 = "3dc15ba0020000000000000001000000c800000020000000fcfcffff000000000200020050001800aaaaaaaabbbbccccddddeeeeeeeeeeee11111111222233334444555555555555010101010202030304040505050505050100000000000000060606060707080809090a0a0a0a0a0a0100000000000000baaaaaaabbbbccccddddeeeeeeeeeeee21111111222233334444555555555555210101010202030304040505050505050100000000000000260606060707080809090a0a0a0a0a0a0100000000000000"
)

// What U-Boot's fwumdata made of them: bank 1 on trial before bank 0 (-a 1 -p 0, -i 0 and 1 -b 1 -C, -s 1 valid), then accepted
// (-i 0 and 1 -b 1 -A, -s 1 accepted).
var psaSteps = map[string][2]string{
	psaV1: {"07522511010000000100000000000000aaaaaaaabbbbccccddddeeeeeeeeeeee11111111222233334444555555555555010101010202030304040505050505050100000000000000060606060707080809090a0a0a0a0a0a0000000000000000baaaaaaabbbbccccddddeeeeeeeeeeee21111111222233334444555555555555210101010202030304040505050505050100000000000000260606060707080809090a0a0a0a0a0a0000000000000000",
		"06c8682a522247e83bda1f66dc0001edf5ff220705cffe6c78bd2e7a879d4ce1"},
	psaV2: {"511deb9b020000000100000000000000c800000020000000fcfeffff000000000200020050001800aaaaaaaabbbbccccddddeeeeeeeeeeee11111111222233334444555555555555010101010202030304040505050505050100000000000000060606060707080809090a0a0a0a0a0a0000000000000000baaaaaaabbbbccccddddeeeeeeeeeeee21111111222233334444555555555555210101010202030304040505050505050100000000000000260606060707080809090a0a0a0a0a0a0000000000000000",
		"8a5328d41a74fc9eac1ef55c599e5b2bbbbb7e13dcdc30c6f81818e534eebee0"},
}

// psaRig is a device whose firmware goes by the metadata, as U-Boot does.
type psaRig struct {
	*cutDisk
	trial int // TrialStateCtr
}

func newPSARig(text string) func(d *cutDisk) cutRig {
	return func(d *cutDisk) cutRig {
		raw, _ := hex.DecodeString(text)
		for _, path := range []string{"one", "two"} {
			d.put(path, append(bytes.Clone(raw), bytes.Repeat([]byte{0xff}, 700)...))
		}
		return &psaRig{cutDisk: d}
	}
}

func (r *psaRig) open() (update.Bootloader, error) {
	return boot.Media(r.cutDisk.open).PSA(boot.PSAOptions{Paths: [2]string{"one", "two"}, Slots: []update.SlotID{"A", "B"}, Names: []string{"0", "1"}, Attempts: 3})
}

// whole returns a copy if its checksum is right.
func (r *psaRig) whole(path string) []byte {
	raw := r.durable[path]
	n := 176
	if raw[4] == 2 {
		n = 200
	}
	if binary.LittleEndian.Uint32(raw) != crc32.ChecksumIEEE(raw[4:n]) {
		return nil
	}
	return raw[:n]
}

// boot plays fwu_get_mdata and the checks at a start: the first copy if it is whole, the other made its equal; a bank on trial
// is counted, and given up for the one before.
func (r *psaRig) boot(bool) (update.SlotID, error) {
	raw := r.whole("one")
	if raw == nil {
		if raw = r.whole("two"); raw == nil {
			return "", errors.New("both copies are damaged")
		}
	}
	raw = bytes.Clone(raw)
	active := raw[8]
	trial := raw[4] == 2 && raw[24+int(active)] == 0xfe
	if raw[4] == 1 {
		trial = raw[16+32+24*int(active)+16]&1 == 0
	}
	if !trial {
		r.trial = 0
	} else if r.trial++; r.trial > 3 {
		raw[8], raw[12] = raw[12], raw[8]
		binary.LittleEndian.PutUint32(raw, crc32.ChecksumIEEE(raw[4:]))
		active, r.trial = raw[8], 0
	}
	if raw[4] == 2 && raw[24+int(active)] == 0xff {
		return "", fmt.Errorf("bank %d is invalid", active)
	}
	for _, path := range []string{"one", "two"} {
		copy(r.durable[path], raw)
	}
	return update.SlotID('A' + rune(active)), nil
}

// TestCutPSA cuts an update at every write of both copies, in both versions.
func TestCutPSA(t *testing.T) {
	wantCuts(t, newPSARig(psaV1), "no sync", "no keep", "try keeps")
	wantCuts(t, newPSARig(psaV2), "no sync", "no keep", "try keeps")
}

// TestPSATransitions makes the changes that fwumdata makes, and compares all bytes of both copies.
func TestPSATransitions(t *testing.T) {
	for start, steps := range psaSteps {
		d := &cutDisk{durable: map[string][]byte{}}
		b := must(newPSARig(start)(d).open())
		n := len(start) / 2
		if err := errors.Join(b.Try("B", 3), b.Try("B", 3)); err != nil || d.effects != 4 {
			t.Fatalf("try: %v, %d effects", err, d.effects)
		}
		for _, path := range []string{"one", "two"} {
			if got := hex.EncodeToString(d.durable[path][:n]); got != steps[0] {
				t.Errorf("try, %s:\n%s\n%s", path, got, steps[0])
			}
		}
		if s, err := b.State(); err != nil || s.Primary != "B" || !s.Trial || s.Left["A"] != 3 {
			t.Errorf("state %+v, %v", s, err)
		}
		if err := errors.Join(b.Keep("B"), b.Keep("B")); err != nil || d.effects != 8 {
			t.Fatalf("keep: %v, %d effects", err, d.effects)
		}
		for _, path := range []string{"one", "two"} {
			if sum := sha256.Sum256(d.durable[path][:n]); hex.EncodeToString(sum[:]) != steps[1] {
				t.Errorf("keep, %s: %x", path, d.durable[path][:n])
			}
			if tail := d.durable[path][n:]; !bytes.Equal(tail, bytes.Repeat([]byte{0xff}, 700)) {
				t.Errorf("%s: the rest of the partition changed", path)
			}
		}
		if err := b.Disarm("A"); err != nil {
			t.Fatal(err)
		}
		var no *update.Refusal
		if err := b.Disarm("B"); !errors.As(err, &no) {
			t.Errorf("the only bank was disarmed: %v", err)
		}
		if err := b.Try("B", 1); !errors.Is(err, update.ErrSetup) {
			t.Errorf("a trial without a bank to go back to: %v", err)
		}
	}
}

// TestPSADamaged holds that a damaged copy is made whole from the other before that one is written, and that two are left alone.
func TestPSADamaged(t *testing.T) {
	for _, path := range []string{"one", "two"} {
		d := &cutDisk{durable: map[string][]byte{}}
		b := must(newPSARig(psaV2)(d).open())
		d.durable[path][40] ^= 1
		if err := b.Try("B", 1); err != nil || !bytes.Equal(d.durable["one"], d.durable["two"]) || d.durable["one"][8] != 1 {
			t.Errorf("%s: %v", path, err)
		}
	}
	d := &cutDisk{durable: map[string][]byte{}}
	b := must(newPSARig(psaV2)(d).open())
	d.durable["one"][40] ^= 1
	d.durable["two"][100] ^= 1
	if err := b.Try("B", 1); !errors.Is(err, update.ErrSetup) || d.effects != 0 {
		t.Errorf("%v, %d effects", err, d.effects)
	}
}

// FuzzPSA gives the parser any metadata under a right checksum.
func FuzzPSA(f *testing.F) {
	for _, text := range []string{psaV1, psaV2} {
		raw, _ := hex.DecodeString(text)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < 32 || len(raw) > 16<<10 {
			return
		}
		n := len(raw)
		if size := binary.LittleEndian.Uint32(raw[16:]); raw[4] == 2 && size >= 32 && size <= uint32(n) {
			n = int(size)
		}
		binary.LittleEndian.PutUint32(raw, crc32.ChecksumIEEE(raw[4:n]))
		banks, images, length, err := boot.ParsePSA(raw)
		if err == nil && (banks < 1 || banks > 4 || images < 0 || length > len(raw)) {
			t.Fatalf("%d banks, %d images, %d bytes", banks, images, length)
		}
	})
}
