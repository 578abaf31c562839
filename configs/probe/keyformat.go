// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
)

// privateKey finds a private key in text that needs no passphrase, and says what it is, "" for none. Text that only names
// the marker (a script, a manual) has no key after it. Unless the piece is the last one, what begins in its last
// pieceOverlap bytes is left to the next.
func privateKey(piece []byte, last bool) string {
	limit := len(piece)
	if !last {
		limit -= pieceOverlap
	}
	if hasPrivateKey(piece, limit) {
		return "unencrypted private key"
	}
	for _, m := range []struct {
		marker, what string
		is           func(rest []byte) bool
	}{
		{"-----BEGIN OpenVPN Static key V1-----", "key that all sides of an OpenVPN share", isHexKey},
		{"PuTTY-User-Key-File-", "unencrypted PuTTY private key", isPuTTYKey},
		{"AGE-SECRET-KEY-1", "age secret key", isAgeKey},
	} {
		if i := bytes.Index(piece, []byte(m.marker)); i >= 0 && i < limit && m.is(piece[i+len(m.marker):]) {
			return m.what
		}
	}
	if wireguardKey(piece, limit) {
		return "WireGuard private key"
	}
	return ""
}

// hasPrivateKey finds a PEM block with a private key that no passphrase protects, before limit.
func hasPrivateKey(data []byte, limit int) bool {
	for {
		i := bytes.Index(data, []byte("PRIVATE KEY-----"))
		if i < 0 || i >= limit {
			return false
		}
		head := data[max(0, i-32):i]
		data, limit = data[i+len("PRIVATE KEY-----"):], limit-i-len("PRIVATE KEY-----")
		j := bytes.LastIndex(head, []byte("-----BEGIN "))
		if j < 0 {
			continue
		}
		label := strings.TrimSpace(string(head[j+len("-----BEGIN "):]))
		if slices.Contains([]string{"", "RSA", "EC", "DSA", "OPENSSH", "ED25519"}, label) && plainKey(label, data) {
			return true
		}
	}
}

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

// plainKey looks at what follows the marker. Line breaks may be written as \n, as inside JSON and shell strings.
func plainKey(label string, data []byte) bool {
	body := strings.NewReplacer(`\\n`, "\n", `\\r`, "", `\r`, "", `\n`, "\n", `\/`, "/").Replace(string(data[:min(len(data), 512)]))
	if strings.Contains(body, "ENCRYPTED") {
		return false
	}
	var b64 strings.Builder
	for l := range strings.Lines(body) {
		l = strings.Trim(l, " \t\r\n\"'+,\\")
		if b64.Len() == 0 && (l == "" || strings.Contains(l, ": ")) {
			continue // a header such as Comment
		}
		if l == "" || strings.HasPrefix(l, "-----") || strings.Trim(l, base64Alphabet) != "" {
			break
		}
		b64.WriteString(l)
	}
	s := b64.String()
	if len(s) < 56 {
		return false
	}
	raw, err := base64.StdEncoding.DecodeString(s[:56])
	switch {
	case err != nil:
		return false // padding inside, which is no key
	case label == "OPENSSH":
		return bytes.HasPrefix(raw, []byte("openssh-key-v1\x00\x00\x00\x00\x04none"))
	default:
		return raw[0] == 0x30 // a sequence, as every other key begins
	}
}

func isHexKey(rest []byte) bool {
	digits := 0
	for _, c := range rest[:min(len(rest), 128)] {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			digits++
		case c != '\n' && c != '\r' && c != '\\' && c != 'n':
			return digits >= 32
		}
	}
	return digits >= 32
}

func isPuTTYKey(rest []byte) bool {
	head := rest[:min(len(rest), 256)]
	return bytes.Contains(head, []byte("Encryption: none"))
}

func isAgeKey(rest []byte) bool {
	n := 0
	for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || rest[n] >= 'A' && rest[n] <= 'Z') {
		n++
	}
	return n == 58
}

// wireguardKey finds PrivateKey = KEY of wg-quick and networkd, private-key=KEY of NetworkManager and option private_key
// 'KEY' of UCI, where KEY is 32 bytes in base64. A line that is a comment has none.
func wireguardKey(data []byte, limit int) bool {
	lower := bytes.ToLower
	for from := 0; ; {
		i := bytes.Index(data[from:], []byte("rivate"))
		if i < 0 || from+i >= limit {
			return false
		}
		at := from + i
		from = at + len("rivate")
		rest := data[from:min(len(data), from+80)]
		if n := len("_key"); len(rest) > n && (rest[0] == '_' || rest[0] == '-') && string(lower(rest[1:n])) == "key" {
			rest = rest[n:]
		} else if len(rest) > 3 && string(lower(rest[:3])) == "key" {
			rest = rest[3:]
		} else {
			continue
		}
		value := bytes.TrimLeft(rest, " \t='\":")
		if len(value) == len(rest) || len(value) < 44 || commented(data[:at]) {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(string(value[:44]))
		if err != nil || len(key) != 32 || bytes.Count(key, key[:1]) == 32 {
			continue
		}
		if len(value) == 44 || bytes.IndexByte([]byte(base64Alphabet), value[44]) < 0 {
			return true
		}
	}
}

// commented reports whether the line that before ends in starts as a comment.
func commented(before []byte) bool {
	line := before[bytes.LastIndexByte(before, '\n')+1:]
	line = bytes.TrimLeft(line, " \t")
	return len(line) > 0 && (line[0] == '#' || line[0] == ';')
}

// wholeKey knows formats that are a whole file of size bytes, which begins with head.
func wholeKey(head []byte, size int64) string {
	switch {
	case len(head) >= 12 && (binary.BigEndian.Uint32(head) == 0xfeedfeed || binary.BigEndian.Uint32(head) == 0xcececece):
		if javaKey(head) {
			return "Java key store with a private key, whose password has to be in the image too"
		}
	case len(head) > 0 && head[0] == 0x30:
		return derKey(head, size)
	}
	return ""
}

// javaKey walks the entries of a JKS or JCEKS key store: one of them has to be a key. A store of trusted certificates has none.
func javaKey(b []byte) bool {
	n := binary.BigEndian.Uint32(b[8:])
	b = b[12:]
	skip := func(size, prefix int) bool {
		if prefix > 0 {
			if len(b) < prefix {
				return false
			}
			size = int(binary.BigEndian.Uint16(b))
			if prefix == 4 {
				size = int(min(binary.BigEndian.Uint32(b), 1<<30))
			}
			b = b[prefix:]
		}
		if len(b) < size {
			return false
		}
		b = b[size:]
		return true
	}
	for range min(n, 4096) {
		if len(b) < 4 {
			return false
		}
		switch binary.BigEndian.Uint32(b) {
		case 1, 3:
			return true
		case 2: // alias, time, type and bytes of a certificate
			if !skip(4, 0) || !skip(0, 2) || !skip(8, 0) || !skip(0, 2) || !skip(0, 4) {
				return false
			}
		default:
			return false
		}
	}
	return false
}

// element is one DER element.
type element struct {
	tag   byte
	body  []byte
	whole int64 // with its header, as the length says; body may be cut short by the end of what was read
}

// nextDER splits off the first element.
func nextDER(b []byte) (e element, rest []byte, ok bool) {
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return e, nil, false
	}
	n, head := int64(b[1]), 2
	if b[1] >= 0x80 {
		k := int(b[1] & 0x7f)
		if k == 0 || k > 4 || len(b) < 2+k {
			return e, nil, false
		}
		n, head = 0, 2+k
		for _, c := range b[2 : 2+k] {
			n = n<<8 | int64(c)
		}
	}
	end := min(int64(len(b)), int64(head)+n)
	return element{b[0], b[head:end], int64(head) + n}, b[end:], true
}

// Tags.
const (
	derInteger  = 0x02
	derOctets   = 0x04
	derOID      = 0x06
	derSequence = 0x30
)

// derKey knows the private keys of PKCS#8, PKCS#1 and SEC 1, and PKCS#12 files with a key. A certificate, a request, a
// public key and an encrypted PKCS#8 key begin otherwise.
func derKey(head []byte, size int64) string {
	top, _, ok := nextDER(head)
	if !ok || top.tag != derSequence || top.whole != size && top.whole+1 != size { // an editor may have added a line break
		return ""
	}
	version, rest, ok := nextDER(top.body)
	if !ok || version.tag != derInteger || len(version.body) != 1 {
		return ""
	}
	second, _, ok := nextDER(rest)
	if !ok {
		return ""
	}
	switch v := version.body[0]; {
	case v == 3 && second.tag == derSequence && hasKeyBag(head):
		return "PKCS#12 file with a private key, whose password has to be in the image too"
	case v <= 1 && second.tag == derSequence:
		oid, _, ok := nextDER(second.body)
		if octets, _, ok2 := nextDER(rest[min(int64(len(rest)), second.whole):]); ok && ok2 && oid.tag == derOID && octets.tag == derOctets {
			return "unencrypted private key (PKCS#8)"
		}
	case v == 0 && second.tag == derInteger && len(second.body) >= 64:
		return "unencrypted private key (PKCS#1)"
	case v == 1 && second.tag == derOctets && len(second.body) >= 16 && len(second.body) <= 66 && top.whole < 512:
		return "unencrypted private key (SEC 1)"
	}
	return ""
}

// hasKeyBag finds the object identifiers of a bag with a key; a store of certificates has none outside its encrypted parts.
func hasKeyBag(head []byte) bool {
	oid := []byte("\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01")
	for i := bytes.Index(head, oid); i >= 0; {
		after := head[i+len(oid):]
		if len(after) > 0 && (after[0] == 1 || after[0] == 2) {
			return true
		}
		k := bytes.Index(after, oid)
		if k < 0 {
			return false
		}
		i += len(oid) + k
	}
	return false
}
