// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"

	"github.com/backstay/backstay/update"
)

// Policies say what to do with deltas.
const (
	Prefer  = "prefer"  // take one if it fits and is smaller
	Require = "require" // install nothing that has none: the line is metered
	Off     = "off"     // take compressed images and plain ones only
)

// Codes of refusals.
const (
	CodeNoDelta    = "no-delta"    // the policy wants a delta, and the release has none for what runs
	CodeOverBudget = "over-budget" // the update would cost, or has cost, more than is allowed
	CodeBadPayload = "bad-payload" // none of the payloads makes the image
)

// maxMisses is after how many failures in a row a payload is given up: a mirror may lack it.
const maxMisses = 3

// Running is the image that runs.
type Running struct {
	update.SlotReader
	Length int64    // bytes of the image, if they are known
	SHA256 [32]byte // digest it had when it was installed; zero if that is not known
}

// Source is an update.Source that makes images from payloads, over one that fetches targets. Latest and Open are called by one
// goroutine at a time. The readers it returns hand out only bytes that have the digest that the signed index gives their MiB.
type Source struct {
	Inner update.Source
	// Running opens the image that runs; its caller closes it.
	Running func(context.Context) (Running, error)
	Policy  string      // Prefer if empty
	Budget  int64       // bytes one update may cost; 0: no limit
	Emit    update.Emit // reports update.payload: what is fetched, or was

	mu     sync.Mutex
	hashed map[int64][32]byte // of the beginning of the running slot, by length: it is read once
	spent  int64              // bytes fetched since Latest named another release
	last   string             // path of the release that Latest named last
	misses map[string]int     // failures in a row, by path of the payload
	told   string             // what the last update.payload said
}

var _ update.Source = (*Source)(nil)

// Latest returns the release of the source inside, with the payloads this device can use, the smallest first. It refuses a
// release whose way here the policy does not allow.
func (s *Source) Latest(ctx context.Context) (update.Release, error) {
	r, err := s.Inner.Latest(ctx)
	if err != nil {
		return r, err
	}
	if r.Payloads, err = s.usable(ctx, r); err != nil {
		return update.Release{}, err
	}
	s.mu.Lock()
	if s.last != r.Path {
		s.last, s.spent, s.misses = r.Path, 0, nil
	}
	s.mu.Unlock()
	return r, s.allow(r)
}

// allow holds a release against the policy and the budget, before anything is fetched.
func (s *Source) allow(r update.Release) error {
	cost := r.Length
	if len(r.Payloads) > 0 {
		cost = r.Payloads[0].Length
	}
	for _, c := range r.Components {
		cost += c.Length
	}
	switch {
	case s.Policy == Require && (len(r.Payloads) == 0 || r.Payloads[0].BaseLength == 0):
		return &update.Refusal{Code: CodeNoDelta, What: "release " + r.Version,
			Why: fmt.Sprintf("it has no delta from what runs here, and update.delta is %s", Require)}
	case s.Budget > 0 && cost > s.Budget:
		return &update.Refusal{Code: CodeOverBudget, What: "release " + r.Version,
			Why: fmt.Sprintf("it takes %d bytes to fetch, the budget is %d", cost, s.Budget)}
	}
	return nil
}

// usable returns the payloads that are smaller than the image and need nothing this device does not have.
func (s *Source) usable(ctx context.Context, r update.Release) ([]update.Payload, error) {
	var deltas, list []update.Payload
	for _, p := range r.Payloads {
		switch {
		case p.Length >= r.Length:
		case p.BaseLength == 0:
			list = append(list, p)
		case s.Policy != Off:
			deltas = append(deltas, p)
		}
	}
	if len(deltas) > 0 {
		run, err := s.Running(ctx)
		if err != nil {
			return nil, fmt.Errorf("open base: %w", err)
		}
		defer run.Close()
		for _, p := range deltas {
			if ok, err := s.isBase(ctx, run, p); err != nil {
				return nil, err
			} else if ok {
				list = append(list, p)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b update.Payload) int { return cmp.Compare(a.Length, b.Length) })
	return list, nil
}

// isBase reports whether the running image is the base of p. What was recorded when it was installed is believed: if it has
// changed since, the pieces that it spoils come from elsewhere. What is not recorded is read, once.
func (s *Source) isBase(ctx context.Context, run Running, p update.Payload) (bool, error) {
	if run.SHA256 != [32]byte{} {
		return run.SHA256 == p.Base && run.Length == p.BaseLength, nil
	}
	s.mu.Lock()
	sum, ok := s.hashed[p.BaseLength]
	s.mu.Unlock()
	if ok {
		return sum == p.Base, nil
	}
	h := sha256.New()
	buf := make([]byte, 64<<10)
	for at := int64(0); at < p.BaseLength; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, err := run.ReadAt(buf[:min(int64(len(buf)), p.BaseLength-at)], at)
		if n == 0 {
			if errors.Is(err, io.EOF) {
				break // the slot is smaller: another image
			}
			return false, fmt.Errorf("read base at %d: %w", at, err)
		}
		h.Write(buf[:n])
		at += int64(n)
	}
	sum = [32]byte(h.Sum(nil))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hashed == nil {
		s.hashed = map[int64][32]byte{}
	}
	s.hashed[p.BaseLength] = sum
	return sum == p.Base, nil
}

// Open returns the bytes of the image of r from off on.
func (s *Source) Open(ctx context.Context, r update.Release, off int64) (io.ReadCloser, error) {
	if err := s.charge(r, 0); err != nil {
		return nil, err
	}
	ways, err := s.usable(ctx, r)
	if err != nil {
		return nil, err
	}
	ways = slices.DeleteFunc(ways, func(p update.Payload) bool {
		return s.misses[p.Path] >= maxMisses || s.Policy == Require && p.BaseLength == 0
	})
	if len(ways) == 0 && len(r.Payloads) > 0 && s.Policy == Require {
		return nil, s.allow(update.Release{Version: r.Version})
	}
	if len(ways) == 0 { // a component has no payloads at all
		s.report(r, "plain", r.Length)
		body, err := s.Inner.Open(ctx, r, off)
		if err != nil {
			return nil, err
		}
		return &counted{ReadCloser: body, s: s, r: r}, nil
	}
	m := &image{s: s, ctx: ctx, r: r, ways: ways, n: int(off / Piece), skip: int(off % Piece)}
	if err := m.start(); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// charge counts bytes that were fetched for a release, and refuses to go on over the budget.
func (s *Source) charge(r update.Release, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spent += int64(n)
	if got := s.spent; s.Budget > 0 && got > s.Budget {
		return &update.Refusal{Code: CodeOverBudget, What: "release " + r.Version,
			Why: fmt.Sprintf("%d bytes were fetched for this update, the budget is %d", got, s.Budget)}
	}
	return nil
}

// miss remembers whether a payload could be had.
func (s *Source) miss(path string, err error) {
	switch {
	case err == nil:
		delete(s.misses, path)
	case errors.Is(err, update.ErrRetry):
		if s.misses == nil {
			s.misses = map[string]int{}
		}
		s.misses[path]++
	}
}

// report says once what is fetched.
func (s *Source) report(r update.Release, kind string, size int64) {
	if told := r.Path + " " + kind; told != s.told && s.Emit != nil {
		s.told = told
		s.Emit("update.payload", slog.String("release", r.Version), slog.String("kind", kind),
			slog.Int64("bytes", size), slog.Int64("of", r.Length))
	}
}

// counted is a body whose bytes are charged.
type counted struct {
	io.ReadCloser
	s *Source
	r update.Release
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	if over := c.s.charge(c.r, n); over != nil {
		return 0, over
	}
	return n, err
}
