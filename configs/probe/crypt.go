// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"strconv"
	"strings"
)

// The password schemes of libcrypt that a device can afford to test, over the standard hashes. Compared with the C
// library's output in the tests. The input is a line of an untrusted file: salts are cut to what the scheme allows and
// rounds above maxRounds are not tested.

const (
	maxRounds  = 20_000
	maxGuess   = 64 // longest password tried, in bytes
	crypt64    = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	defaultSHA = 5000
)

// verifier returns a test for one password field, nil when its scheme cannot be tested here.
func verifier(field string) func(password string) bool {
	switch schemeOf(field) {
	case "md5crypt":
		return sameHash(field, "$1$", 8, md5crypt)
	case "apr1":
		return sameHash(field, "$apr1$", 8, md5crypt)
	case "sha256crypt":
		return shaVerifier(field, "$5$", sha256.New, order256())
	case "sha512crypt":
		return shaVerifier(field, "$6$", sha512.New, order512())
	case "descrypt":
		return desVerifier(field)
	case "bsdicrypt":
		return bsdiVerifier(field)
	case "bcrypt":
		return bcryptVerifier(field)
	}
	return nil
}

// slow reports whether one guess takes milliseconds.
func slow(field string) bool {
	s := schemeOf(field)
	return strings.HasPrefix(s, "sha") || s == "bcrypt" || s == "bsdicrypt"
}

func sameHash(field, magic string, maxSalt int, fn func(magic, salt, password string) string) func(string) bool {
	salt, want, ok := strings.Cut(strings.TrimPrefix(field, magic), "$")
	if !ok {
		return nil
	}
	salt = salt[:min(len(salt), maxSalt)]
	return func(password string) bool { return len(password) <= maxGuess && fn(magic, salt, password) == want }
}

// md5crypt is the scheme of Poul-Henning Kamp (FreeBSD 1994) and, with another magic, of Apache.
func md5crypt(magic, salt, password string) string {
	alt := md5.Sum([]byte(password + salt + password))
	h := md5.New()
	h.Write([]byte(password + magic + salt))
	for i := len(password); i > 0; i -= 16 {
		h.Write(alt[:min(i, 16)])
	}
	for i := len(password); i > 0; i >>= 1 {
		if i&1 != 0 {
			h.Write([]byte{0})
		} else {
			h.Write([]byte(password[:1]))
		}
	}
	sum := h.Sum(nil)
	for i := range 1000 {
		h.Reset()
		stir(h, i, []byte(password), []byte(salt), sum)
		sum = h.Sum(sum[:0])
	}
	var out strings.Builder
	for _, t := range [][3]int{{0, 6, 12}, {1, 7, 13}, {2, 8, 14}, {3, 9, 15}, {4, 10, 5}} {
		put64(&out, uint32(sum[t[0]])<<16|uint32(sum[t[1]])<<8|uint32(sum[t[2]]), 4)
	}
	put64(&out, uint32(sum[11]), 2)
	return out.String()
}

// stir is one round, the same in both families.
func stir(h hash.Hash, round int, password, salt, sum []byte) {
	odd := round&1 != 0
	if odd {
		h.Write(password)
	} else {
		h.Write(sum)
	}
	if round%3 != 0 {
		h.Write(salt)
	}
	if round%7 != 0 {
		h.Write(password)
	}
	if odd {
		h.Write(sum)
	} else {
		h.Write(password)
	}
}

func put64(out *strings.Builder, v uint32, n int) {
	for range n {
		out.WriteByte(crypt64[v&63])
		v >>= 6
	}
}

// shaVerifier handles $5$ and $6$, with and without rounds= (Drepper, "Unix crypt using SHA-256 and SHA-512", 2008).
func shaVerifier(field, magic string, newHash func() hash.Hash, order [][3]int) func(string) bool {
	rest := strings.TrimPrefix(field, magic)
	rounds := defaultSHA
	if r, ok := strings.CutPrefix(rest, "rounds="); ok {
		n, after, ok := strings.Cut(r, "$")
		v, err := strconv.Atoi(n)
		if !ok || err != nil || v > maxRounds {
			return nil
		}
		rounds, rest = max(v, 1000), after
	}
	salt, want, ok := strings.Cut(rest, "$")
	if !ok {
		return nil
	}
	salt = salt[:min(len(salt), 16)]
	return func(password string) bool {
		return len(password) <= maxGuess && shaCrypt(newHash, order, salt, password, rounds) == want
	}
}

func shaCrypt(newHash func() hash.Hash, order [][3]int, salt, password string, rounds int) string {
	pw, sl := []byte(password), []byte(salt)
	h := newHash()
	size := h.Size()
	h.Write([]byte(password + salt + password))
	alt := h.Sum(nil)
	h.Reset()
	h.Write(pw)
	h.Write(sl)
	h.Write(stretch(alt, len(pw)))
	for i := len(pw); i > 0; i >>= 1 {
		if i&1 != 0 {
			h.Write(alt)
		} else {
			h.Write(pw)
		}
	}
	sum := h.Sum(nil)
	h.Reset()
	for range pw {
		h.Write(pw)
	}
	p := stretch(h.Sum(nil), len(pw))
	h.Reset()
	for range 16 + int(sum[0]) {
		h.Write(sl)
	}
	s := stretch(h.Sum(nil), len(sl))
	for i := range rounds {
		h.Reset()
		stir(h, i, p, s, sum)
		sum = h.Sum(sum[:0])
	}
	var out strings.Builder
	for _, t := range order {
		put64(&out, uint32(sum[t[0]])<<16|uint32(sum[t[1]])<<8|uint32(sum[t[2]]), 4)
	}
	if size == 32 {
		put64(&out, uint32(sum[31])<<8|uint32(sum[30]), 3)
	} else {
		put64(&out, uint32(sum[63]), 2)
	}
	return out.String()
}

// stretch repeats b to n bytes.
func stretch(b []byte, n int) []byte {
	out := make([]byte, 0, n)
	for len(out) < n {
		out = append(out, b[:min(len(b), n-len(out))]...)
	}
	return out
}

// order256 and order512 are the byte orders of the printed hashes.
func order256() [][3]int {
	a, b, c := 0, 10, 20
	var out [][3]int
	for range 10 {
		out = append(out, [3]int{a, b, c})
		a, b, c = c+1, a+1, b+1
	}
	return out
}

func order512() [][3]int {
	a, b, c := 0, 21, 42
	var out [][3]int
	for range 21 {
		out = append(out, [3]int{a, b, c})
		a, b, c = b+1, c+1, a+1
	}
	return out
}
