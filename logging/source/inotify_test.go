// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/binary"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func noticeBytes(watch int32, mask uint32, size uint32, name string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(watch))
	b = binary.NativeEndian.AppendUint32(b, mask)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint32(b, size)
	b = append(b, name...)
	for i := len(name); i < int(size) && i < 64; i++ {
		b = append(b, 0)
	}
	return b
}

func TestParseNotices(t *testing.T) {
	b := append(noticeBytes(1, unix.IN_MODIFY, 0, ""), noticeBytes(2, unix.IN_CREATE, 16, "passwd")...)
	b = append(b, noticeBytes(-1, unix.IN_Q_OVERFLOW, 0, "")...)
	b = append(b, noticeBytes(3, unix.IN_CREATE, 1<<31, "cut off")...)
	var got []notice
	parseNotices(b, func(n notice) { got = append(got, n) })
	want := []notice{{1, unix.IN_MODIFY, ""}, {2, unix.IN_CREATE, "passwd"}, {-1, unix.IN_Q_OVERFLOW, ""}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func FuzzParseNotices(f *testing.F) {
	f.Add(append(noticeBytes(1, unix.IN_MODIFY, 0, ""), noticeBytes(2, unix.IN_CREATE, 16, "passwd")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		parseNotices(b, func(notice) { n++ })
		if n > len(b)/unix.SizeofInotifyEvent {
			t.Errorf("%d events in %d bytes", n, len(b))
		}
	})
}
