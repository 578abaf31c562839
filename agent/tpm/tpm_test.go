// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/backstay/backstay/testdata/testneed"
)

const testIndex = 0x01800bac

func openTest(t *testing.T, name string) *Device {
	t.Helper()
	d, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestCounterRisesAndSurvivesPowerLoss(t *testing.T) {
	state := t.TempDir()
	name, kill := testneed.TPM(t, state)
	d := openTest(t, name)
	c, err := OpenCounter(d, testIndex)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := c.Read(t.Context()); v != 0 || err != nil {
		t.Fatalf("a new counter: %d, %v", v, err)
	}
	last := uint64(0)
	for range 3 {
		v, err := c.Next(t.Context())
		if err != nil || v <= last {
			t.Fatalf("next after %d: %d, %v", last, v, err)
		}
		last = v
	}
	d.Close()
	kill()
	name, _ = testneed.TPM(t, state)
	c, err = OpenCounter(openTest(t, name), testIndex)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := c.Read(t.Context()); v != last || err != nil {
		t.Errorf("after power loss: %d, %v, want %d", v, err, last)
	}
}

// An intruder who takes the counter away and defines one of his own gets no smaller value; an ordinary index is refused.
func TestCounterCannotBeSetBack(t *testing.T) {
	name, _ := testneed.TPM(t, t.TempDir())
	d := openTest(t, name)
	c, err := OpenCounter(d, testIndex)
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for range 5 {
		if last, err = c.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	undefine := func() {
		if _, err := d.command(0x122, []uint32{ownerHierarchy, testIndex}, true, nil); err != nil {
			t.Fatal(err)
		}
	}
	undefine()
	if c, err = OpenCounter(d, testIndex); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Next(t.Context()); v <= last || err != nil {
		t.Errorf("defined anew it gives %d after %d (%v)", v, last, err)
	}
	undefine()
	public := binary.BigEndian.AppendUint32(nil, testIndex)
	public = binary.BigEndian.AppendUint16(public, algSHA256)
	public = binary.BigEndian.AppendUint32(public, attrAuthWrite|attrAuthRead|attrNoDA)
	public = append(public, 0, 0, 0, counterSize)
	params := append([]byte{0, 0, 0, byte(len(public))}, public...)
	if _, err := d.command(cmdDefine, []uint32{ownerHierarchy}, true, params); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCounter(d, testIndex); err == nil || !strings.Contains(err.Error(), "not a counter") {
		t.Errorf("an ordinary index in its place: %v", err)
	}
}

func TestOpenRefusesForeignIndexes(t *testing.T) {
	for _, index := range []uint32{0, 0x01c00002, 0x81010001, maxIndex + 1} {
		if _, err := OpenCounter(&Device{}, index); err == nil {
			t.Errorf("index 0x%x is taken", index)
		}
	}
}

// script is a TPM that plays replies; the last one again and again.
type script struct {
	replies [][]byte
	sent    int
	rest    []byte
}

func (s *script) Write(p []byte) (int, error) {
	s.rest = s.replies[min(s.sent, len(s.replies)-1)]
	s.sent++
	return len(p), nil
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:1], s.rest) // byte by byte
	s.rest = s.rest[n:]
	return n, nil
}

func (s *script) Close() error { return nil }

func reply(tag uint16, rc Code, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = binary.BigEndian.AppendUint32(b, uint32(replyHeader+len(body)))
	return append(binary.BigEndian.AppendUint32(b, uint32(rc)), body...)
}

func TestRepliesAreParsedWithLimits(t *testing.T) {
	good := reply(tagSessions, 0, 0, 0, 0, 10, 0, 8, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0)
	for name, c := range map[string]struct {
		replies [][]byte
		value   uint64
		err     string
	}{
		"a value":              {[][]byte{good}, 258, ""},
		"busy, then a value":   {[][]byte{reply(tagPlain, codeRetry), reply(tagPlain, codeTesting), good}, 258, ""},
		"never raised":         {[][]byte{reply(tagPlain, codeUnset)}, 0, ""},
		"gone":                 {[][]byte{reply(tagPlain, 0x18b)}, 0, "0x18b"},
		"cut off":              {[][]byte{good[:12]}, 0, "EOF"},
		"longer than it says":  {[][]byte{append(bytes.Clone(good), 1)}, 258, ""}, // what follows is not read
		"a giant":              {[][]byte{reply(tagPlain, 0, make([]byte, maxReply)...)}, 0, "malformed"},
		"smaller than a reply": {[][]byte{{0x80, 1, 0, 0, 0, 3, 0, 0, 0, 0}}, 0, "malformed"},
		"of another kind":      {[][]byte{reply(tagPlain, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 2)}, 0, "malformed"},
		"a long buffer":        {[][]byte{reply(tagSessions, 0, 0, 0, 0, 10, 0, 99, 0, 0, 0, 0, 0, 0, 1, 2)}, 0, "malformed"},
		"a short value":        {[][]byte{reply(tagSessions, 0, 0, 0, 0, 3, 0, 1, 7)}, 0, "malformed"},
		"parameters too long":  {[][]byte{reply(tagSessions, 0, 0xff, 0xff, 0xff, 0xff, 0, 1, 7)}, 0, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			counter := &Counter{dev: &Device{rw: &script{replies: c.replies}}, index: testIndex}
			v, err := counter.Read(t.Context())
			if v != c.value || c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%d, %v; want %d, %q", v, err, c.value, c.err)
			}
		})
	}
}

func TestWritesTooFast(t *testing.T) {
	c := &Counter{dev: &Device{rw: &script{replies: [][]byte{reply(tagPlain, codeNVRate)}}}, index: testIndex}
	if _, err := c.Next(t.Context()); !errors.Is(err, ErrLater) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func FuzzReply(f *testing.F) {
	f.Add(reply(tagSessions, 0, 0, 0, 0, 10, 0, 8, 0, 0, 0, 0, 0, 0, 1, 2), true)
	f.Add(reply(tagPlain, 0, 0, 14, 1, 0x80, 0x0b, 0xac, 0, 0x0b, 0, 6, 0, 0x14, 0, 0, 0, 8), false)
	f.Add(reply(tagPlain, codeRetry), false)
	f.Fuzz(func(t *testing.T, b []byte, auth bool) {
		body, err := parseReply(b, auth)
		if err != nil {
			return
		}
		if buf, _, err := sized(body); err == nil {
			if checkPublic(buf, testIndex) == nil && len(buf) < 14 {
				t.Error(fmt.Sprintf("%d bytes are a public area", len(buf)))
			}
		}
	})
}
