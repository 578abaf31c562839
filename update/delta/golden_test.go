// SPDX-License-Identifier: Apache-2.0

package delta_test

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/backstay/backstay/update/delta"
)

var rewrite = flag.Bool("update", false, "write the golden payload again")

// TestGolden reads a payload that was made once: every version and every architecture has to make the same of it.
func TestGolden(t *testing.T) {
	base, image := goldenPair()
	for file, base := range map[string][]byte{"testdata/golden.pack": base, "testdata/full.pack": nil} {
		if *rewrite {
			_, b := payload(t, "", base, image)
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := delta.Unpack(b, bytes.NewReader(base))
		if err != nil || !bytes.Equal(got, image) {
			t.Fatalf("%s: %d bytes, %v; want the %d of the image", file, len(got), err, len(image))
		}
	}
}

func goldenPair() (base, image []byte) {
	base, image = pair(0)
	for at := 100; at+8 < len(image); at += 50 + at%70 {
		image[at] += byte(at)
	}
	return base, image
}

// FuzzParse: an index makes no allocation that it does not have the bytes for, and what is read is written again the same.
func FuzzParse(f *testing.F) {
	if b, err := os.ReadFile("testdata/golden.pack"); err == nil {
		f.Add(b[:100], int64(len(b)))
		f.Add(b, int64(len(b)))
	}
	f.Fuzz(func(t *testing.T, b []byte, total int64) {
		x, err := delta.Parse(b, total)
		if err != nil {
			return
		}
		if again := x.Header.Append(nil, x.Digests(), x.Sizes()); !bytes.Equal(again, b) {
			t.Errorf("%x is written as %x", b, again)
		}
	})
}

// FuzzUnpack: whatever a payload says, the outcome is the image or an error.
func FuzzUnpack(f *testing.F) {
	base, _ := goldenPair()
	if b, err := os.ReadFile("testdata/golden.pack"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := delta.Unpack(b, bytes.NewReader(base)); err == nil && !bytes.HasPrefix(b, []byte(delta.Magic)) {
			t.Error("something without the magic was unpacked")
		}
	})
}
