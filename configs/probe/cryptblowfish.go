// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/base64"
	"math/big"
	"strconv"
)

// bcrypt (Provos and Mazieres, 1999). The tables of Blowfish are the digits of pi; computing them takes milliseconds, which
// is less than one guess, and spares the device 4 KiB of them.

const (
	bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	maxBcryptCost  = 12 // a guess takes 0.3 s on a PC
	blowfishWords  = 18 + 4*256
)

// blowfish is the state: 18 words of P and four boxes of 256.
type blowfish [blowfishWords]uint32

// piWords computes the fraction of pi with Machin's formula in fixed point.
func piWords() *blowfish {
	const spare = 64
	const bits = blowfishWords*32 + spare
	sum := new(big.Int)
	arctan := func(x, factor int64) {
		term := new(big.Int).Lsh(big.NewInt(factor), bits)
		term.Quo(term, big.NewInt(x))
		square, part := big.NewInt(x*x), new(big.Int)
		for n := int64(1); term.Sign() != 0; n += 2 {
			sum.Add(sum, part.Quo(term, big.NewInt(n)))
			term.Quo(term, square).Neg(term)
		}
	}
	arctan(5, 16)
	arctan(239, -4)
	raw := sum.Rsh(sum, spare).FillBytes(make([]byte, 4+4*blowfishWords))
	b := new(blowfish)
	for i := range b {
		b[i] = word(raw[4+4*i:], 0)
	}
	return b
}

// word reads four bytes from position i on, around the end.
func word(b []byte, i int) (v uint32) {
	for j := range 4 {
		v = v<<8 | uint32(b[(i+j)%len(b)])
	}
	return v
}

func (b *blowfish) encrypt(l, r uint32) (uint32, uint32) {
	s := b[18:]
	for i := 0; i < 16; i += 2 {
		l ^= b[i]
		r ^= ((s[l>>24] + s[256+l>>16&255]) ^ s[512+l>>8&255]) + s[768+l&255]
		r ^= b[i+1]
		l ^= ((s[r>>24] + s[256+r>>16&255]) ^ s[512+r>>8&255]) + s[768+r&255]
	}
	return r ^ b[17], l ^ b[16]
}

// expand mixes a key, and a salt when there is one, into the state.
func (b *blowfish) expand(key, salt []byte) {
	for i := range 18 {
		b[i] ^= word(key, 4*i%len(key))
	}
	var l, r uint32
	for i := 0; i < blowfishWords; i += 2 {
		if salt != nil {
			l ^= word(salt, 4*i%len(salt))
			r ^= word(salt, (4*i+4)%len(salt))
		}
		l, r = b.encrypt(l, r)
		b[i], b[i+1] = l, r
	}
}

func bcrypt(start *blowfish, password string, salt []byte, cost int) []byte {
	b := *start
	key := append([]byte(password), 0)
	key = key[:min(len(key), 72)]
	b.expand(key, salt)
	for range 1 << cost {
		b.expand(key, nil)
		b.expand(salt, nil)
	}
	text := []byte("OrpheanBeholderScryDoubt")
	for i := 0; i < len(text); i += 8 {
		l, r := word(text, i), word(text, i+4)
		for range 64 {
			l, r = b.encrypt(l, r)
		}
		for j := range 4 {
			text[i+j], text[i+4+j] = byte(l>>(24-8*j)), byte(r>>(24-8*j))
		}
	}
	return text[:23]
}

// bcryptVerifier handles $2a$, $2b$ and $2y$: they differ only for bugs of old implementations.
func bcryptVerifier(field string) func(string) bool {
	if len(field) != 60 || field[6] != '$' {
		return nil
	}
	cost, err := strconv.Atoi(field[4:6])
	if err != nil || cost < 4 || cost > maxBcryptCost {
		return nil
	}
	code := base64.NewEncoding(bcryptAlphabet).WithPadding(base64.NoPadding)
	salt, err := code.DecodeString(field[7:29])
	if err != nil {
		return nil
	}
	pi := piWords()
	return func(password string) bool {
		return len(password) <= maxGuess && code.EncodeToString(bcrypt(pi, password, salt, cost)) == field[29:]
	}
}
