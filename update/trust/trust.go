// SPDX-License-Identifier: Apache-2.0

// Package trust answers one question: what do the owners of this device's keys
// say it should run? It is a TUF client (The Update Framework, specification
// 1.0.34, section 5) built on go-tuf's metadata and trustedmetadata packages,
// which parse and verify; the workflow around them is this package's own,
// because a device is switched off at any moment, has no clock, little memory
// and a network that lies.
//
// It owns the trusted metadata and the version floors in the state database,
// through [Store]. Nobody else writes them. It does not decide what is
// installed when: [Source] hands package update a verified release, or a
// refusal, and untrusted bytes.
//
// # What an attacker can do
//
// Who controls the network and every mirror, but no key, can withhold updates
// until metadata expires, and no more: every file is verified against keys that
// chain from the factory root, versions never go back, expired metadata is
// refused, each file has a size limit and a time limit.
//
// Who revoked keys must be believed even when the revocation is withheld. Every
// verified root is therefore kept, the chain is replayed from the factory root
// at each refresh, and a root older than the newest ever seen is refused.
//
// Who can write the state database can already replace the agent. Damage to
// it, by a worn flash cell or a power cut, is a different matter: metadata in
// it that does not verify counts as absent, while the floors beside it stay in
// force.
//
// # Time
//
// Metadata expires, so a wrong clock either stops updates or lets old metadata
// live. The package takes trusted time from [Config].Now and adds one lower
// bound of its own: the newest "x-issued" time in metadata it has verified.
package trust

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
)

// Config is what a [Client] needs. FactoryRoot, both URLs and Store are
// required.
type Config struct {
	// FactoryRoot is the root.json the image was built with: the one thing that
	// is trusted without a signature. Who can replace it owns the device.
	FactoryRoot []byte

	// MetadataURL and TargetsURL are where the repository is served, http or
	// https. Neither the servers nor the network between are trusted.
	MetadataURL, TargetsURL string

	// Mirrors are more places that serve the same, asked in order when the first
	// does not deliver, or delivers what is not signed.
	Mirrors []Mirror

	// HTTP makes the connections (client certificate, proxy, roots). Its redirect
	// policy, cookie jar and overall timeout are replaced by this package's. Nil
	// means a client over [NewTransport](nil).
	HTTP *http.Client

	// Store keeps what is trusted between refreshes and reboots.
	Store Store

	// Now returns trusted time. Nil means [time.Now].
	Now func() time.Time

	// Limits bounds what a hostile server can cost. Zero fields have defaults.
	Limits Limits

	// Emit reports root rotations, new metadata and damaged state. May be nil.
	Emit update.Emit

	// Interop accepts repositories that were not made by backstay: any role and
	// target name, several hashes per target, snapshots without hashes,
	// consistent snapshots switched off, one role with several delegators. It
	// widens what may be named and described, never what is verified. The client
	// for the public conformance suite sets it; the agent does not.
	Interop bool
}

// Limits bounds one client. Sizes are in bytes; a zero field has the default
// named in its comment.
type Limits struct {
	Root      int64 // one root.json; 512 000
	Timestamp int64 // timestamp.json; 32 000, room for two post-quantum signatures
	Snapshot  int64 // snapshot.json; 256 000
	Role      int64 // one targets role; 256 000, about 1 000 targets

	RootChain int64 // all stored roots together; 640 000
	Cache     int64 // all stored targets roles together; 512 000, more are fetched again when needed

	Rotations int // new roots in one refresh; 256
	Roles     int // roles visited for one target; 32

	Header time.Duration // wait for an answer's header; 30 s
	Idle   time.Duration // wait for its next byte; 30 s
	File   time.Duration // a whole metadata file; 2 min

	// A server must send at least MinRate bytes per second, averaged over Window
	// of waiting for it; 256 B/s over 60 s. Time the reader spends elsewhere, as
	// in writing to flash, does not count.
	MinRate int64
	Window  time.Duration

	// Bandwidth is the most bytes per second that are taken from servers, in the
	// long run and over a tenth of a second; 0: no limit. What the kernel buffers
	// comes on top once.
	Bandwidth int64
}

func (l Limits) withDefaults() Limits {
	bytes := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	span := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	bytes(&l.Root, 512_000)
	bytes(&l.Timestamp, 32_000)
	bytes(&l.Snapshot, 256_000)
	bytes(&l.Role, 256_000)
	bytes(&l.RootChain, 640_000)
	bytes(&l.Cache, 512_000)
	bytes(&l.MinRate, 256)
	span(&l.Header, 30*time.Second)
	span(&l.Idle, 30*time.Second)
	span(&l.File, 2*time.Minute)
	span(&l.Window, time.Minute)
	if l.Rotations <= 0 {
		l.Rotations = 256
	}
	if l.Roles <= 0 {
		l.Roles = 32
	}
	return l
}

// Client refreshes and reads trusted metadata. It is safe for concurrent use:
// a refresh or lookup waits for the one under way, downloads do not.
type Client struct {
	cfg     Config
	limits  Limits
	http    *http.Client
	factory *metadata.Metadata[metadata.RootType] // verified, as delegator, see keys.go

	places *places
	pace   pacer

	mu   sync.Mutex // one refresh or lookup at a time
	from *mirror    // where metadata is fetched
	seen *seen      // the last good refresh, nil if none in this process
}

// New checks the configuration and the factory root, without any network. Every
// error is [update.ErrSetup].
func New(cfg Config) (*Client, error) {
	if cfg.Store == nil {
		return nil, setup(errors.New("open trust: no store"))
	}
	places, err := newPlaces(cfg)
	if err != nil {
		return nil, setup(err)
	}
	factory, err := factoryRoot(cfg.FactoryRoot)
	if err != nil {
		return nil, setup(fmt.Errorf("read factory root: %w", err))
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Emit == nil {
		cfg.Emit = discard
	}
	limits := cfg.Limits.withDefaults()
	return &Client{cfg: cfg, limits: limits, http: restrict(cfg.HTTP, places.origins()), factory: factory, places: places,
		pace: pacer{rate: limits.Bandwidth}}, nil
}

// baseURL returns u without a trailing slash.
func baseURL(u string) (string, error) {
	p, err := url.Parse(u)
	switch {
	case err != nil:
		return "", fmt.Errorf("parse repository URL: %w", err)
	case p.Scheme != "http" && p.Scheme != "https", p.Host == "":
		return "", fmt.Errorf("repository URL %q is not http(s)://host/", u)
	case p.RawQuery != "" || p.Fragment != "" || p.User != nil:
		return "", fmt.Errorf("repository URL %q has a query, fragment or user", u)
	}
	return strings.TrimRight(u, "/"), nil
}
