// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
)

func FuzzPrivateKey(f *testing.F) {
	for _, s := range []string{
		"-----BEGIN PRIVATE KEY-----\nAAAA\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n",
		"PrivateKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "AGE-SECRET-KEY-1", "-----BEGIN OpenVPN Static key V1-----\n0", "PuTTY-User-Key-File-", "\x30\x82\xff\xff\x02\x01\x00\x30\x80",
		javaStore(2, 2), "\x30\x84\xff\xff\xff\xff\x02\x01\x03\x30", "\x30\x10\x02\x01\x01\x04\x01", strings.Repeat("\x30\x80", 20),
	} {
		f.Add([]byte(s), int64(len(s)))
	}
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		probe.PrivateKey(data, true)
		probe.PrivateKey(data, len(data) < 2048)
		probe.WholeKey(data, size)
		probe.WholeKey(data, int64(len(data)))
	})
}
