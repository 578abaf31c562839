// SPDX-License-Identifier: Apache-2.0

package update

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Limits of an assignment. The online role is the one most likely to be
// stolen, so what it can make a device parse is small.
const (
	MaxAssignment = 256 << 10 // bytes of an assignment file
	maxEntries    = 64        // releases of one assignment
	maxDevices    = 4096      // devices an entry may name
)

// Device is what a device knows about itself when it asks for a release. All
// of it is the device's own knowledge; nothing is taken from the network.
type Device struct {
	ID         string // identity, decides the cohort
	Product    string
	Compatible string // hardware name, one of Release.Compatible
	Version    string // of the running image; empty if not known
	Agent      string // version of the agent
	Floor      uint64 // security floor: no release with a lower counter is installed
}

// Assignment is the online role's statement of which releases the devices of
// one product should run: the TUF target assign/<product>.json. Alone it
// allows nothing, see [Choose].
type Assignment struct {
	Product string
	Serial  uint64    // rises with every edit
	Issued  time.Time // when it was written
	Entries []Assigned
}

// Assigned is one entry of an assignment: a rollout of one release.
type Assigned struct {
	Path      string    // TUF target path of the image
	SHA256    [32]byte  // must agree with the product role
	Length    int64     // bytes, must agree with the product role
	Counter   uint64    // must agree with the product role
	From, To  uint32    // cohort in percent, To exclusive; 0 to 100 is everybody
	Devices   []string  // if not empty, only these devices
	NotBefore time.Time // zero: at once
	NotAfter  time.Time // zero: no end
	Paused    bool
	Downgrade bool // may replace a version that compares as newer

	// Deadline is when a security release stops waiting for windows and people;
	// zero: never. It is not in the file but beside its digest, see AddDeadlines.
	Deadline time.Time
}

// AssignmentPath is the TUF target path of a product's assignment.
func AssignmentPath(product string) string { return "assign/" + product + ".json" }

// Cohort places a device in one of 10 000 buckets, 0 to 9999. The place depends
// only on the two strings: a rollout to 5 % reaches the same 5 % tomorrow, and
// the salt (the path of the release) makes it other devices next time.
func Cohort(deviceID, salt string) uint32 {
	h := sha256.New()
	h.Write([]byte("backstay cohort 1\x00" + salt + "\x00" + deviceID))
	return uint32(binary.BigEndian.Uint64(h.Sum(nil)) % 10000)
}

// For returns the release that dev should run, or an error that is
// [ErrNothing], or a refusal with code wrong-product.
//
// The first entry that concerns the device decides, so a newer rollout stands
// before an older one. An entry concerns a device that it names and whose
// cohort it covers, from NotBefore on. If that entry is paused or past its end
// the answer is nothing, and not the next entry: pausing a rollout must not
// send the devices that have it back to the release before. For the same
// reason an entry does not replace a newer version unless it says so with
// Downgrade; stopping a rollout leaves devices where they are.
func (a Assignment) For(dev Device, now time.Time) (Assigned, error) {
	if a.Product != dev.Product {
		return Assigned{}, &Refusal{Code: "wrong-product", What: "assignment refused",
			Why: fmt.Sprintf("it is for %s, this device is %s", a.Product, dev.Product)}
	}
	for _, e := range a.Entries {
		if !e.concerns(dev, now) {
			continue
		}
		version := e.version(a.Product)
		switch {
		case e.Paused:
			return Assigned{}, fmt.Errorf("%w: the rollout of %s is paused", ErrNothing, version)
		case !e.NotAfter.IsZero() && !now.Before(e.NotAfter):
			return Assigned{}, fmt.Errorf("%w: the rollout of %s ended on %s", ErrNothing, version, e.NotAfter.Format(time.RFC3339))
		case version == dev.Version:
			return Assigned{}, fmt.Errorf("%w: %s is running", ErrNothing, version)
		case !e.Downgrade && CompareVersions(version, dev.Version) < 0:
			return Assigned{}, fmt.Errorf("%w: %s is assigned, the newer %s is running", ErrNothing, version, dev.Version)
		}
		return e, nil
	}
	return Assigned{}, fmt.Errorf("%w: no release is assigned to this device", ErrNothing)
}

func (e Assigned) concerns(dev Device, now time.Time) bool {
	if now.Before(e.NotBefore) {
		return false
	}
	if len(e.Devices) > 0 && !slices.Contains(e.Devices, dev.ID) {
		return false
	}
	c := Cohort(dev.ID, e.Path)
	return e.From*100 <= c && c < e.To*100
}

// version is the version that the path names; parsing made sure there is one.
func (e Assigned) version(product string) string {
	prefix, suffix := len(ImagePath(product, ""))-len(".img"), len(".img")
	if len(e.Path) < prefix+suffix {
		return ""
	}
	return e.Path[prefix : len(e.Path)-suffix]
}

// ParseAssignment reads an assignment. It is strict where the custom part of a
// target is lenient: a field it does not know is refused, because an ignored
// restriction would install on devices that it excludes. Refusals have code
// malformed-assignment.
func ParseAssignment(b []byte) (Assignment, error) {
	a, err := parseAssignment(b)
	if err != nil {
		return Assignment{}, &Refusal{Code: "malformed-assignment", What: "read assignment", Why: err.Error(), Err: err}
	}
	return a, nil
}

func parseAssignment(b []byte) (Assignment, error) {
	var a Assignment
	if len(b) > MaxAssignment {
		return a, fmt.Errorf("%d bytes, the limit is %d", len(b), MaxAssignment)
	}
	o, err := parseObject(b)
	if err != nil {
		return a, err
	}
	o.format("backstay")
	o.onlyKnown("backstay", "product", "serial", "issued", "releases")
	a.Product = o.name("product", IsProduct)
	a.Serial = o.integer("serial")
	a.Issued = o.time("issued")
	list, _ := o.raw("releases")
	if o.err != nil {
		return a, o.err
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(list, &entries); err != nil {
		return a, errors.New(`field "releases" is not a list`)
	}
	if len(entries) > maxEntries {
		return a, fmt.Errorf("%d releases, the limit is %d", len(entries), maxEntries)
	}
	for i, raw := range entries {
		e, err := parseAssigned(raw, a.Product)
		if err != nil {
			return a, fmt.Errorf("release %d: %w", i, err)
		}
		if slices.ContainsFunc(a.Entries, func(x Assigned) bool { return x.Path == e.Path }) {
			return a, fmt.Errorf("release %d: %s appears twice", i, e.Path)
		}
		a.Entries = append(a.Entries, e)
	}
	return a, nil
}

func parseAssigned(b []byte, product string) (Assigned, error) {
	e := Assigned{To: 100}
	o, err := parseObject(b)
	if err != nil {
		return e, err
	}
	o.onlyKnown("path", "sha256", "length", "counter", "cohort", "devices", "not_before", "not_after", "paused", "downgrade")
	e.Path = o.name("path", func(p string) bool {
		v := Assigned{Path: p}.version(product)
		return IsVersion(v) && p == ImagePath(product, v)
	})
	e.SHA256 = o.digest("sha256")
	e.Length = int64(o.integer("length")) // below 2^53
	e.Counter = o.integer("counter")
	if o.has("cohort") {
		e.From, e.To = o.cohort("cohort")
	}
	e.Devices = o.names("devices", maxDevices, isName)
	e.NotBefore = o.time("not_before")
	e.NotAfter = o.time("not_after")
	e.Paused = o.boolean("paused")
	e.Downgrade = o.boolean("downgrade")
	switch {
	case o.err != nil:
	case e.Length == 0 || e.Counter == 0:
		o.fail("length and counter are at least 1")
	case o.has("devices") && len(e.Devices) == 0:
		// Read as "no restriction" it would mean everybody.
		o.fail(`field "devices" is empty`)
	case !e.NotAfter.IsZero() && !e.NotBefore.Before(e.NotAfter):
		o.fail("not_after is not after not_before")
	}
	return e, o.err
}

// Deadlines returns the custom part of the target that an assignment is: the
// deadlines of its entries by path, nil if there are none.
//
// They are there and not in the file because agents that do not know them refuse
// a file with an unknown field, and would then get no update at all. What they
// miss is harmless: they wait for the people and windows they would wait for
// anyway. The same signature covers both.
func (a Assignment) Deadlines() (json.RawMessage, error) {
	all := map[string]time.Time{}
	for _, e := range a.Entries {
		if !e.Deadline.IsZero() {
			all[e.Path] = seconds(e.Deadline)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return json.Marshal(map[string]any{"backstay": 1, "deadlines": all})
}

// AddDeadlines reads what Deadlines returned. Fields it does not know are
// ignored, as in the custom part of any target; refusals have code
// malformed-assignment.
func (a *Assignment) AddDeadlines(custom []byte) error {
	err := a.addDeadlines(custom)
	if err != nil {
		return &Refusal{Code: "malformed-assignment", What: "read assignment", Why: err.Error(), Err: err}
	}
	return nil
}

func (a *Assignment) addDeadlines(custom []byte) error {
	if len(custom) == 0 {
		return nil
	}
	if len(custom) > MaxCustom {
		return fmt.Errorf("%d bytes beside it, the limit is %d", len(custom), MaxCustom)
	}
	o, err := parseObject(custom)
	if err != nil || !o.has("deadlines") {
		return err
	}
	o.format("backstay")
	raw, _ := o.raw("deadlines")
	if o.err != nil {
		return o.err
	}
	d, err := parseObject(raw)
	if err != nil {
		return fmt.Errorf("deadlines: %w", err)
	}
	for i := range a.Entries {
		a.Entries[i].Deadline = d.time(a.Entries[i].Path)
	}
	return d.err
}

// Standing is how one rollout looks from one device.
type Standing struct {
	Version   string
	From, To  uint32  // percent of the devices it reaches
	Place     float64 // of this device among them, in percent: reached when From <= Place < To
	Named     bool    // the rollout names devices; Reached says whether this is one
	NotBefore time.Time
	NotAfter  time.Time
	Deadline  time.Time
	Paused    bool
	Reached   bool // it concerns this device now; the first that does decides
}

// Standings explains an assignment to a device, entry by entry, in the order in
// which For looks at them.
func (a Assignment) Standings(dev Device, now time.Time) []Standing {
	var out []Standing
	for _, e := range a.Entries {
		out = append(out, Standing{
			Version: e.version(a.Product), From: e.From, To: e.To, Place: float64(Cohort(dev.ID, e.Path)) / 100, Named: len(e.Devices) > 0,
			NotBefore: e.NotBefore, NotAfter: e.NotAfter, Deadline: e.Deadline, Paused: e.Paused, Reached: e.concerns(dev, now),
		})
	}
	return out
}

func (o *object) cohort(f string) (from, to uint32) {
	raw, ok := o.raw(f)
	if !ok {
		return 0, 0
	}
	c, err := parseObject(raw)
	if err != nil {
		o.fail("field %q: %w", f, err)
		return 0, 0
	}
	c.onlyKnown("from", "to")
	lo, hi := c.integer("from"), c.integer("to")
	if c.err == nil && (lo >= hi || hi > 100) {
		c.fail("from %d to %d is not a range of percent", lo, hi)
	}
	if c.err != nil {
		o.fail("field %q: %w", f, c.err)
		return 0, 0
	}
	return uint32(lo), uint32(hi)
}

// MarshalJSON writes the form that ParseAssignment reads.
func (a Assignment) MarshalJSON() ([]byte, error) {
	type wire struct {
		Format  int        `json:"backstay"`
		Product string     `json:"product"`
		Serial  uint64     `json:"serial"`
		Issued  time.Time  `json:"issued"`
		Entries []Assigned `json:"releases"`
	}
	w := wire{Format: 1, Product: a.Product, Serial: a.Serial, Issued: seconds(a.Issued), Entries: a.Entries}
	if w.Entries == nil {
		w.Entries = []Assigned{}
	}
	return json.Marshal(w)
}

// MarshalJSON writes the form that ParseAssignment reads.
func (e Assigned) MarshalJSON() ([]byte, error) {
	type cohort struct {
		From uint32 `json:"from"`
		To   uint32 `json:"to"`
	}
	type wire struct {
		Path      string    `json:"path"`
		SHA256    string    `json:"sha256"`
		Length    int64     `json:"length"`
		Counter   uint64    `json:"counter"`
		Cohort    cohort    `json:"cohort"`
		Devices   []string  `json:"devices,omitempty"`
		NotBefore time.Time `json:"not_before,omitzero"`
		NotAfter  time.Time `json:"not_after,omitzero"`
		Paused    bool      `json:"paused,omitempty"`
		Downgrade bool      `json:"downgrade,omitempty"`
	}
	return json.Marshal(wire{
		Path: e.Path, SHA256: hex.EncodeToString(e.SHA256[:]), Length: e.Length, Counter: e.Counter,
		Cohort: cohort{e.From, e.To}, Devices: e.Devices, NotBefore: seconds(e.NotBefore), NotAfter: seconds(e.NotAfter),
		Paused: e.Paused, Downgrade: e.Downgrade,
	})
}

func seconds(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Second)
}
