// SPDX-License-Identifier: Apache-2.0

package probe

import "strings"

// The two schemes over DES: the one of Unix V7, still the default of old busybox builds, and that of BSDi. crypto/des cannot
// be used: the salt changes the expansion inside the cipher. Bits are bytes here; one guess takes a fraction of a millisecond.

const (
	desIterations = 25
	maxDesRounds  = 100_000 // of BSDi's scheme
)

// Tables of FIPS 46-3 as characters of crypt64, counted from one; the S-boxes in hexadecimal. The initial permutation and
// the expansion follow a pattern and are computed.
const (
	desPC1 = "skcUME6.tldVNF7/umeWOG80vnfXyqiaSKC4xphZRJB3wogYQIA2PH91"
	desPC2 = "BE8L.20PC3I7KG91N5D4OHA/cnSYiqRbmgUjfkarVohdlXQT"
	desP   = "D4HIQ9PE.CKN2FS7/5LBTO06GAR3J81M"
	desS   = "e4d12fb83a6c59070f74e2d1a6cb953841e8d62bfc973a50fc8249175b3ea06d" +
		"f18e6b34972dc05a3d47f28ec01a69b50e7ba4d158c6932fd8a13f42b67c05e9" +
		"a09e63f51dc7b428d709346a285ecbf1d6498f30b12c5ae71ad069874fe3b52c" +
		"7de3069a1285bc4fd8b56f03472c1ae9a690cb7df13e52843f06a1d8945bc72e" +
		"2c417ab6853fd0e9eb2c47d150fa3986421bad78f9c5630eb8c71e2d6f09a453" +
		"c1af92680d34e75baf427c9561de0b389ef528c3704a1db6432c95fabe17608d" +
		"4b2ef08d3c975a61d0b7491ae35c2f8614bdc37eaf6805926bd814a7950fe23c" +
		"d2846fb1a93e50c71fd8a374c56b0e927b419ce206adf35821e74a8dfc90356b"
)

// desKey is the 16 round keys of 48 bits.
type desKey [16][48]byte

func tableAt(table string, i int) int { return strings.IndexByte(crypt64, table[i]) }

// newDesKey takes 64 bits, every eighth of which is not used.
func newDesKey(bits [64]byte) *desKey {
	var cd [56]byte
	for i := range cd {
		cd[i] = bits[tableAt(desPC1, i)]
	}
	k := new(desKey)
	for r := range k {
		shift := 2
		if r == 0 || r == 1 || r == 8 || r == 15 {
			shift = 1
		}
		for range shift {
			c, d := cd[0], cd[28]
			copy(cd[:27], cd[1:28])
			copy(cd[28:55], cd[29:])
			cd[27], cd[55] = c, d
		}
		for i := range k[r] {
			k[r][i] = cd[tableAt(desPC2, i)]
		}
	}
	return k
}

// desTables are the tables in the form that a round uses.
type desTables struct {
	expand [48]int
	p      [32]int
	s      [8][64]byte
}

// newDesTables swaps parts of the expansion as the salt says.
func newDesTables(salt uint32) *desTables {
	t := new(desTables)
	for i := range t.expand {
		t.expand[i] = (i/6*4 + i%6 + 31) % 32
	}
	for i := range 24 {
		if salt>>i&1 != 0 {
			t.expand[i], t.expand[i+24] = t.expand[i+24], t.expand[i]
		}
	}
	for i := range t.p {
		t.p[i] = tableAt(desP, i)
	}
	for i := range 512 {
		t.s[i/64][i%64] = byte(strings.IndexByte("0123456789abcdef", desS[i]))
	}
	return t
}

// encrypt runs one block through DES.
func (t *desTables) encrypt(k *desKey, block *[64]byte) {
	var l, r [32]byte
	for i := range 32 {
		// Bit j of the permuted block is bit 58-8j, 60-8j ... of the block, in rows of eight.
		row, col := i/8, i%8
		r[i], l[i] = block[56-8*col+2*row], block[57-8*col+2*row]
	}
	for round := range k {
		var f [32]byte
		for box := range 8 {
			var v [6]byte
			for i := range v {
				n := box*6 + i
				v[i] = r[t.expand[n]] ^ k[round][n]
			}
			out := t.s[box][v[0]<<5|v[5]<<4|v[1]<<3|v[2]<<2|v[3]<<1|v[4]]
			for i := range 4 {
				f[box*4+i] = out >> (3 - i) & 1
			}
		}
		next := l
		for i := range next {
			next[i] ^= f[t.p[i]]
		}
		l, r = r, next
	}
	for i := range 32 { // the halves change places, then the inverse permutation
		row, col := i/8, i%8
		block[56-8*col+2*row], block[57-8*col+2*row] = l[i], r[i]
	}
}

// desBits takes the first eight bytes of a password, seven bits of each, into bits.
func desBits(password string, into *[64]byte) {
	for i := range min(8, len(password)) {
		for j := range 7 {
			into[8*i+j] ^= password[i] >> (6 - j) & 1
		}
	}
}

// desHash encrypts zeros again and again and prints them.
func desHash(t *desTables, k *desKey, rounds int) string {
	var block [64]byte
	for range rounds {
		t.encrypt(k, &block)
	}
	var out strings.Builder
	for i := 0; i < 66; i += 6 {
		v := 0
		for j := range 6 {
			v <<= 1
			if i+j < 64 {
				v |= int(block[i+j])
			}
		}
		out.WriteByte(crypt64[v])
	}
	return out.String()
}

// desVerifier handles the thirteen characters of Unix V7: salt, hash.
func desVerifier(field string) func(string) bool {
	salt, ok := value64(field[:2])
	if !ok {
		return nil
	}
	t := newDesTables(salt)
	return func(password string) bool {
		var bits [64]byte
		desBits(password, &bits)
		return desHash(t, newDesKey(bits), desIterations) == field[2:]
	}
}

// bsdiVerifier handles _ccccsssshhhhhhhhhhh: count, salt, hash. Passwords longer than eight bytes are folded.
func bsdiVerifier(field string) func(string) bool {
	if len(field) != 20 {
		return nil
	}
	count, ok1 := value64(field[1:5])
	salt, ok2 := value64(field[5:9])
	if !ok1 || !ok2 || count == 0 || count > maxDesRounds {
		return nil
	}
	t, plain := newDesTables(salt), newDesTables(0)
	return func(password string) bool {
		var bits [64]byte
		desBits(password, &bits)
		for len(password) > 8 {
			password = password[8:]
			plain.encrypt(newDesKey(bits), &bits)
			desBits(password, &bits)
		}
		return desHash(t, newDesKey(bits), int(count)) == field[9:]
	}
}

// value64 reads a number, least six bits first.
func value64(s string) (v uint32, ok bool) {
	for i := range len(s) {
		n := strings.IndexByte(crypt64, s[i])
		if n < 0 {
			return 0, false
		}
		v |= uint32(n) << (6 * i)
	}
	return v, true
}
