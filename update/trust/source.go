// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/backstay/backstay/update"
)

// assignRole is the online role that says which device should run what.
const assignRole = "assign"

// productRole is the offline role that says which images of a product are
// genuine.
func productRole(product string) string { return "product-" + product }

// Source is the [update.Source] of a device: the release that the online
// assignment role names and the offline product role vouches for.
type Source struct {
	client *Client
	device func(context.Context) (update.Device, error)

	mu   sync.Mutex
	memo *memo
}

// memo is what the last unchanged metadata said, so that a poll that finds the
// same timestamp parses nothing.
type memo struct {
	product    string
	assignment update.Assignment
	genuine    map[string]update.Genuine
}

var _ update.Source = (*Source)(nil)

// NewSource returns a source over c for the device that the function describes;
// it is asked anew each time, because version and floor change.
func NewSource(c *Client, device func(context.Context) (update.Device, error)) *Source {
	return &Source{client: c, device: device}
}

// Latest refreshes the metadata and returns the release for this device. See
// [update.Source] for its errors; refusals have a code of this package, of
// [update.ParseAssignment], [update.ParseCustom] or [update.Choose].
func (s *Source) Latest(ctx context.Context) (update.Release, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dev, err := s.device(ctx)
	if err != nil {
		return update.Release{}, fmt.Errorf("describe device: %w", err)
	}
	if !update.IsProduct(dev.Product) {
		return update.Release{}, setup(fmt.Errorf("product %q is not a valid name", dev.Product))
	}
	t, err := s.client.Refresh(ctx)
	if err != nil {
		s.memo = nil
		return update.Release{}, err
	}
	if s.memo == nil || !t.Unchanged() || s.memo.product != dev.Product {
		s.memo = nil
		a, err := s.assignment(ctx, t, dev.Product)
		if err != nil {
			return update.Release{}, err
		}
		s.memo = &memo{product: dev.Product, assignment: a, genuine: map[string]update.Genuine{}}
	}
	now := s.client.cfg.Now()
	if issued := t.Issued(); issued.After(now) {
		now = issued
	}
	assigned, err := s.memo.assignment.For(dev, now)
	if err != nil {
		return update.Release{}, err
	}
	g, ok := s.memo.genuine[assigned.Path]
	if !ok {
		if g, err = s.genuine(ctx, t, dev.Product, assigned.Path); err != nil {
			return update.Release{}, err
		}
		s.memo.genuine[assigned.Path] = g
	}
	return update.Choose(dev, g, assigned)
}

// assignment reads what the online role says to the devices of a product. A
// product without one has nothing to install.
func (s *Source) assignment(ctx context.Context, t *Trusted, product string) (update.Assignment, error) {
	path := update.AssignmentPath(product)
	info, err := t.Target(ctx, path)
	if hasCode(err, "unknown-target") {
		return update.Assignment{}, fmt.Errorf("%w: there is no assignment for %s", update.ErrNothing, product)
	}
	if err != nil {
		return update.Assignment{}, err
	}
	if info.Role != assignRole {
		return update.Assignment{}, refuse("not-genuine", path, nil, "it is signed by role %s, not by %s", info.Role, assignRole)
	}
	raw, err := s.client.Fetch(ctx, info, update.MaxAssignment)
	if err != nil {
		return update.Assignment{}, err
	}
	a, err := update.ParseAssignment(raw)
	if err == nil {
		err = a.AddDeadlines(info.Custom)
	}
	return a, err
}

// Standings explains the assignment that the last look found; nil before there
// was one.
func (s *Source) Standings(ctx context.Context) []update.Standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	dev, err := s.device(ctx)
	if s.memo == nil || err != nil || s.memo.product != dev.Product {
		return nil
	}
	return s.memo.assignment.Standings(dev, s.client.cfg.Now())
}

// genuine reads what the offline role of the product says about an image. Any
// other role, the online one above all, has no say, whatever it was delegated.
func (s *Source) genuine(ctx context.Context, t *Trusted, product, path string) (update.Genuine, error) {
	info, err := t.Target(ctx, path)
	if err != nil {
		return update.Genuine{}, err
	}
	if want := productRole(product); info.Role != want {
		return update.Genuine{}, refuse("not-genuine", path, nil, "it is signed by role %s, not by %s", info.Role, want)
	}
	custom, err := update.ParseCustom(info.Custom)
	if err != nil {
		return update.Genuine{}, err
	}
	return update.Genuine{Path: path, Length: info.Length, SHA256: info.SHA256, Custom: custom}, nil
}

// Open returns the bytes of a release's image from byte off on; see
// [Client.Open] for what is verified and what the errors mean.
func (s *Source) Open(ctx context.Context, r update.Release, off int64) (io.ReadCloser, error) {
	if r.Path == "" {
		return nil, errors.New("open release: it has no path")
	}
	return s.client.Open(ctx, TargetInfo{Path: r.Path, Length: r.Length, SHA256: r.SHA256}, off)
}
