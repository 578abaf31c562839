// SPDX-License-Identifier: Apache-2.0

package trusttest

import (
	"encoding/json"
	"sync"

	"github.com/backstay/backstay/update/trust"
)

// Store keeps trust state in memory, as bytes, so that nothing is shared with
// the client. The zero Store is empty.
type Store struct {
	// Fail decides about each operation ("load", "save"): whether it takes effect
	// and what it returns. Nil means it does and nil.
	Fail func(op string) (apply bool, err error)

	mu    sync.Mutex
	raw   []byte
	saves int
}

var _ trust.Store = (*Store)(nil)

// LoadTrust implements [trust.Store].
func (s *Store) LoadTrust() (trust.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st trust.State
	if s.Fail != nil {
		if _, err := s.Fail("load"); err != nil {
			return st, err
		}
	}
	if s.raw == nil {
		return st, nil
	}
	return st, json.Unmarshal(s.raw, &st)
}

// SaveTrust implements [trust.Store].
func (s *Store) SaveTrust(st trust.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := json.Marshal(st)
	if err != nil {
		return err
	}
	apply := true
	if s.Fail != nil {
		apply, err = s.Fail("save")
	}
	if apply {
		s.raw = raw
		s.saves++
	}
	return err
}

// Edit changes the state behind the client's back.
func (s *Store) Edit(f func(*trust.State)) {
	st, err := (&Store{raw: s.bytes()}).LoadTrust()
	if err != nil {
		panic(err)
	}
	f(&st)
	raw, err := json.Marshal(st)
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw = raw
}

// Saves returns how many times the state was saved.
func (s *Store) Saves() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saves
}

func (s *Store) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raw
}
