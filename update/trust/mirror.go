// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/backstay/backstay/update"
)

// A repository may be served from several places. None is trusted, so it does
// not matter which one answers: what counts is signed. The first that delivers
// is used, in the order of the configuration. A place that cannot be reached is
// passed over for that request; one whose bytes were refused is not asked again
// until the next refresh, unless nothing else is left.
//
// Metadata is taken from one place at a time, because the files of one moment
// belong together; a refresh that fails begins again at the next place with what
// was verified so far. A target may come from several, one continuing where
// another broke off: its digest says in the end whether the whole is right.

// maxMirrors bounds the places of one repository.
const maxMirrors = 8

// Mirror is one more place that serves the repository. Either URL may be empty:
// a host for images alone needs no metadata.
type Mirror struct{ MetadataURL, TargetsURL string }

// mirror is one base URL.
type mirror struct {
	base string
	http *http.Client // nil: the client's own
	bad  string       // why its bytes were refused since the last refresh
}

// places are the mirrors of a client. The pointers are fixed, what they point
// to is guarded by mu.
type places struct {
	mu       sync.Mutex
	metadata []*mirror
	targets  []*mirror
	local    *Directory // when set, the only place that is asked
	first    *mirror    // delivered the last target
	alone    bool       // a target put together from several was wrong: no more mixing
}

func newPlaces(cfg Config) (*places, error) {
	p := &places{}
	all := append([]Mirror{{cfg.MetadataURL, cfg.TargetsURL}}, cfg.Mirrors...)
	if len(all) > maxMirrors {
		return nil, fmt.Errorf("open trust: %d mirrors, at most %d", len(all), maxMirrors)
	}
	for i, m := range all {
		for _, u := range []struct {
			raw  string
			list *[]*mirror
		}{{m.MetadataURL, &p.metadata}, {m.TargetsURL, &p.targets}} {
			if u.raw == "" && i > 0 {
				continue
			}
			base, err := baseURL(u.raw)
			if err != nil {
				return nil, err
			}
			*u.list = append(*u.list, &mirror{base: base})
		}
	}
	return p, nil
}

// origins are the hosts that the configuration names, as scheme://host.
func (p *places) origins() map[string]bool {
	out := map[string]bool{}
	for _, m := range append(p.metadata[:len(p.metadata):len(p.metadata)], p.targets...) {
		if u, err := url.Parse(m.base); err == nil {
			out[u.Scheme+"://"+u.Host] = true
		}
	}
	return out
}

// Local makes the client ask a directory and nothing else, nil goes back to the
// mirrors. What is trusted stays the same: a directory is one more place whose
// bytes are believed for their signatures alone.
func (c *Client) Local(d *Directory) {
	c.mu.Lock() // not in the middle of a refresh
	defer c.mu.Unlock()
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	c.places.local, c.places.first, c.places.alone = d, nil, false
}

// forgive begins a run: every place has its chance again.
func (p *places) forgive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range append(p.metadata[:len(p.metadata):len(p.metadata)], p.targets...) {
		m.bad = ""
	}
	p.alone = false
}

// order lists the places to ask for metadata or targets. Those whose bytes were
// refused are left out unless no other is there.
func (p *places) order(targets bool) []*mirror {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.local != nil {
		if targets {
			return []*mirror{&p.local.targets}
		}
		return []*mirror{&p.local.metadata}
	}
	all := p.metadata
	if targets {
		all = p.targets
	}
	var good []*mirror
	for _, m := range all {
		if m.bad != "" {
			continue
		}
		if targets && m == p.first {
			good = append([]*mirror{m}, good...)
			continue
		}
		good = append(good, m)
	}
	if len(good) == 0 {
		return all
	}
	return good
}

// delivered makes a place the first choice for the next target.
func (p *places) delivered(m *mirror) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.first = m
}

// brokeOff makes the place after m the first choice for the next target.
func (p *places) brokeOff(m *mirror) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.targets, m)
	for n := 1; i >= 0 && n < len(p.targets); n++ {
		if next := p.targets[(i+n)%len(p.targets)]; next.bad == "" {
			p.first = next
			return
		}
	}
}

// mixing reports whether a target may be put together from several places.
func (p *places) mixing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.alone && p.local == nil
}

// unmix ends mixing until the next refresh; false when it had ended.
func (p *places) unmix() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.alone
	p.alone = true
	return !before
}

// condemn notes that the bytes of a place were refused and reports whether
// another is left.
func (c *Client) condemn(m *mirror, targets bool, err error) bool {
	c.places.mu.Lock()
	first := m.bad == ""
	m.bad = err.Error()
	left := false
	all := c.places.metadata
	if targets {
		all = c.places.targets
	}
	for _, other := range all {
		left = left || other.bad == ""
	}
	left = left && c.places.local == nil
	several := len(all) > 1 && c.places.local == nil
	c.places.mu.Unlock()
	if first && several {
		code := ""
		if r, ok := errors.AsType[*update.Refusal](err); ok {
			code = r.Code
		}
		c.report("update.mirror-refused", "mirror", m.base, "code", code, "reason", err.Error())
	}
	return left
}

// blame says whether an error may be the fault of the place that was asked: it
// did not deliver, or not what is signed. That signed metadata does not vouch
// for a target is nobody's fault.
func blame(err error) bool {
	return errors.Is(err, update.ErrRetry) || errors.Is(err, update.ErrRefused) && !hasCode(err, "unknown-target") && !hasCode(err, "not-genuine")
}

// asking runs f with one place after the other as the source of metadata until
// one is good. Must be called with c.mu held.
func (c *Client) asking(ctx context.Context, f func() error) error {
	var errs []error
	for _, m := range c.places.order(false) {
		c.from = m
		err := f()
		if err == nil || ctx.Err() != nil || !blame(err) {
			return err
		}
		if errors.Is(err, update.ErrRefused) {
			c.condemn(m, false, err)
		}
		errs = append(errs, err)
	}
	return together(errs)
}

// together makes one error of those of several places. Any that could not be
// reached may have what the others refused to give.
func together(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	var text []string
	late := false
	for _, err := range errs {
		late = late || errors.Is(err, update.ErrRetry)
		text = append(text, err.Error())
	}
	if !late {
		return errs[0]
	}
	return retry(fmt.Errorf("no mirror delivers: %s", strings.Join(text, "; ")))
}
