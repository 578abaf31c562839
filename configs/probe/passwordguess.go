// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"time"
)

// Bounds of guessing on a running device, where a guess under a slow scheme takes from 0.1 s (SHA-512 on a small MIPS) to
// seconds (bcrypt). What one run does not get to, the next goes on with.
const (
	guessStep  = time.Second // of one run, over all accounts
	quickWords = 8           // tried before anything is said about an account
	maxGuesses = 256         // password fields remembered
)

// Guesses remembers how far passwords were guessed, so that a field is not tried again until it changes. It holds digests
// under a salt of this process and is never written. The zero value is ready; hosts that are used one after the other may
// share one.
type Guesses struct {
	Step time.Duration // what a run of a running device may take; zero means a second

	salt  [16]byte
	tried map[[32]byte]progress
}

// progress is how many words were tried, and the number of the one that fits, from 1.
type progress struct{ tried, hit int }

// Remember lets the checks of this host go on where those of an earlier one ended.
func (h *Host) Remember(g *Guesses) { h.guesses = g }

// key is the digest of a field with the words it is tried with.
func (g *Guesses) key(field string, words []string) [32]byte {
	if g.tried == nil {
		g.tried = map[[32]byte]progress{}
		rand.Read(g.salt[:]) // does not fail
	}
	return sha256.Sum256([]byte(string(g.salt[:]) + field + "\x00" + strings.Join(words, "\x00")))
}

func (g *Guesses) load(key [32]byte) progress {
	return g.tried[key]
}

func (g *Guesses) store(key [32]byte, p progress) {
	if len(g.tried) >= maxGuesses {
		clear(g.tried)
	}
	g.tried[key] = p
}
