// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/backstay/backstay/update/boot"
)

// putCRC makes a single little-endian block out of any bytes.
func putCRC(raw []byte) { binary.LittleEndian.PutUint32(raw, crc32.ChecksumIEEE(raw[4:])) }

// FuzzEnv gives the parser any data under a right checksum, and wants what it understood to come back the same.
func FuzzEnv(f *testing.F) {
	f.Add([]byte("BOOT_ORDER=A B\x00BOOT_A_LEFT=3\x00\x00padding"), false)
	f.Add([]byte("a=1\x00a=2\x00=\x00=x\x00noise\x00\x00"), true)
	f.Add([]byte("never ends"), false)
	f.Add([]byte{0, 0}, true)
	f.Fuzz(func(t *testing.T, data []byte, redundant bool) {
		if len(data) < 16 || len(data) > 1<<16 {
			return
		}
		head := 4
		if redundant {
			head = 5
		}
		raw := append(make([]byte, head), data...)
		binary.BigEndian.PutUint32(raw, crc32.ChecksumIEEE(data))
		entries, again, err := boot.Reencode(raw, redundant)
		if err != nil {
			return
		}
		back, _, err := boot.Reencode(again, redundant)
		if err != nil || !slices.Equal(entries, back) {
			t.Fatalf("%q became %q: %v", entries, back, err)
		}
	})
}

// FuzzConfig gives the parser of fw_env.config any text.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("/dev/mmcblk0 0x100000 0x10000\n/dev/mmcblk0 0x110000 0x10000\n"))
	f.Add([]byte("# comment\n/env -0x4000 40\n"))
	f.Add([]byte("/a 010 ffff 1 1 1\n/b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := boot.ParseConfig(b)
		if err != nil {
			return
		}
		if n := len(c.Areas); n < 1 || n > 2 {
			t.Fatalf("%d areas", n)
		}
		for _, a := range c.Areas {
			if a.Path == "" || a.Size < 16 || a.Size > 1<<20 || a.Size != c.Areas[0].Size {
				t.Fatalf("area %+v", a)
			}
		}
	})
}

// FuzzYAML gives the parser of libubootenv's configuration any text.
func FuzzYAML(f *testing.F) {
	f.Add([]byte(documented), "")
	f.Add([]byte(documented), "appvar")
	f.Add([]byte("a :\n - b: 'c' # d\n"), "a")
	f.Add([]byte("u:\n size: 64\n devices:\n - path: /dev/ubi0:e\n   offset: -1\n writelist: []\n"), "u")
	f.Fuzz(func(t *testing.T, b []byte, namespace string) {
		c, err := boot.ParseYAML(b, namespace)
		if err != nil {
			return
		}
		if n := len(c.Areas); n < 1 || n > 2 || len(c.Writable) > 256 {
			t.Fatalf("%d areas, %d variables", n, len(c.Writable))
		}
		for _, a := range c.Areas {
			if a.Path == "" || a.Size < 16 || a.Size > 1<<20 || a.Size != c.Areas[0].Size || a.Line == 0 {
				t.Fatalf("area %+v", a)
			}
		}
	})
}
