// SPDX-License-Identifier: Apache-2.0

package update

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a target's custom part. Whoever holds a product's offline key can
// write anything into it, and a device parses it before it knows whether the
// release is meant for it, so every list and string has a bound.
const (
	MaxCustom     = 16 << 10 // bytes of custom JSON
	maxCompatible = 64       // hardware names of one release
	maxAdvisories = 128      // advisory references of one release
	maxNotes      = 1024     // bytes of notes
	maxName       = 64       // bytes of a product, version, hardware or device name
)

// MaxCounter is the largest release counter and security floor: 2^53-1, the
// largest integer every JSON implementation keeps exact. Beyond it a
// re-serialised signature payload can silently change.
const MaxCounter = 1<<53 - 1

// KindFull is the only kind of release this version installs: a whole image.
const KindFull = "full"

// ComponentRootfs is the only component this version installs; an empty
// component means the same.
const ComponentRootfs = "rootfs"

// Release is a release that both authorities agree on and that fits this
// device. Choose makes it; nothing else should. It is the unit the machine
// works on and it is persisted as JSON inside the job.
type Release struct {
	Path       string    // TUF target path, firmware/<product>/<version>.img
	Version    string    // for people and for MinAgent-style comparisons; never a rollback check
	Counter    uint64    // release counter of this image; an install needs Counter >= the device's floor
	Floor      uint64    // security floor the device is raised to once the image is kept; <= Counter
	Length     int64     // bytes of the image
	SHA256     [32]byte  // digest of the image
	Product    string    // product the image is genuine for
	Compatible []string  // hardware names the image is genuine for
	Kind       string    // KindFull
	Component  string    // ComponentRootfs or empty
	Class      string    // "security" or "feature"
	Advisories []string  // advisory references the release fixes
	Notes      string    // what people should know about it, plain text
	SBOM       string    // "sha256:" and the hex digest of the bill of materials, or empty
	SupportEnd time.Time // when the maker's support for this release ends; zero if not said
	NotBefore  time.Time // when the assignment came into force; zero if not said
	Deadline   time.Time // from the assignment: when a security release stops waiting for people; zero: never
	MinAgent   string    // oldest agent version that may install it; empty for any

	Components []Component `json:",omitempty"` // what is installed with the image, in the order it is activated
	Payloads   []Payload   `json:",omitempty"` // smaller ways to the image
}

// Custom is the parsed custom part of a firmware target: what the offline
// product role says about an image beyond its length and digest.
type Custom struct {
	Product    string
	Compatible []string
	Version    string
	Counter    uint64
	Floor      uint64
	Kind       string
	Component  string
	Class      string
	Advisories []string
	Notes      string
	SBOM       string
	SupportEnd time.Time
	MinAgent   string
	Critical   []string
	Components []Component
	Payloads   []Payload
}

// customFields are the names ParseCustom understands, and so the only ones a
// release may list as critical.
var customFields = []string{
	"backstay", "product", "compatible", "version", "counter", "floor", "kind", "component", "class",
	"advisories", "notes", "sbom", "support_end", "min_agent", "critical",
	"components", "payloads",
}

// ImagePath is the TUF target path of a product's image.
func ImagePath(product, version string) string {
	return "firmware/" + product + "/" + version + ".img"
}

// ParseCustom reads the custom part of a firmware target.
//
// Names are matched exactly and may appear once. A field that is known must be
// well formed; a field that is not known is ignored, unless "critical" lists
// it: then the release asks for something this agent cannot do and is refused
// with code unknown-critical. Everything else refused here has code
// malformed-release. Integers are below 2^53, times whole seconds in UTC.
func ParseCustom(b []byte) (Custom, error) {
	var c Custom
	if len(b) > MaxCustom {
		return c, malformedRelease(fmt.Errorf("%d bytes, the limit is %d", len(b), MaxCustom))
	}
	o, err := parseObject(b)
	if err != nil {
		return c, malformedRelease(err)
	}
	// Critical comes first: a later format may change the fields below, and the
	// true answer then is "this agent is too old", not "this is broken".
	c.Critical = o.names("critical", maxName, isName)
	if o.err != nil {
		return Custom{}, malformedRelease(o.err)
	}
	for _, name := range c.Critical {
		if !slices.Contains(customFields, name) {
			return Custom{}, &Refusal{Code: "unknown-critical", What: "read release",
				Why: fmt.Sprintf("it requires %q, which this version does not know", name)}
		}
		if _, ok := o.fields[name]; !ok {
			return Custom{}, malformedRelease(fmt.Errorf("critical names %q, which is absent", name))
		}
	}
	o.format("backstay")
	c.Product = o.name("product", IsProduct)
	c.Compatible = o.names("compatible", maxCompatible, isName)
	c.Version = o.name("version", IsVersion)
	c.Counter = o.integer("counter")
	c.Floor = o.optionalInteger("floor")
	c.Kind = o.name("kind", IsProduct)
	c.Component = o.optionalName("component", IsProduct)
	c.Class = o.name("class", IsProduct)
	c.Advisories = o.names("advisories", maxAdvisories, isName)
	c.Notes = o.optionalName("notes", IsNotes)
	c.SBOM = o.optionalName("sbom", isDigest)
	c.SupportEnd = o.time("support_end")
	c.MinAgent = o.optionalName("min_agent", IsVersion)
	c.Components = o.components("components", c.Product)
	c.Payloads = o.payloads("payloads")
	if o.err == nil {
		o.err = c.check()
	}
	if o.err != nil {
		return Custom{}, malformedRelease(o.err)
	}
	return c, nil
}

// check holds the rules between fields.
func (c Custom) check() error {
	switch {
	case len(c.Compatible) == 0:
		return fmt.Errorf("compatible is empty")
	case c.Counter == 0:
		return fmt.Errorf("counter is 0, the first release is 1")
	case c.Floor > c.Counter:
		return fmt.Errorf("floor %d is above counter %d: the release would refuse itself", c.Floor, c.Counter)
	}
	return c.checkPayloads()
}

// Genuine is what the offline product role says: this image, with these
// properties, is the product's own. The caller has verified the signatures.
type Genuine struct {
	Path   string
	Length int64
	SHA256 [32]byte
	Custom Custom
}

// Choose is the AND of two authorities: what the offline product role says is
// genuine, and what the online assignment role says this device should run.
// Neither is enough. Whoever steals the online key can choose only among
// genuine images at or above the floor; whoever steals a product key can give
// no device anything.
//
// A refusal is a [*Refusal] with one of the codes not-genuine (the two differ,
// or the path names another image than the signed properties), wrong-product,
// incompatible, unsupported-kind, agent-too-old, below-floor.
func Choose(dev Device, g Genuine, a Assigned) (Release, error) {
	c := g.Custom
	refuse := func(code, format string, args ...any) (Release, error) {
		return Release{}, &Refusal{Code: code, What: "release " + c.Version + " refused", Why: fmt.Sprintf(format, args...)}
	}
	switch {
	case g.Path != a.Path:
		return refuse("not-genuine", "assigned is %s, genuine is %s", a.Path, g.Path)
	case g.SHA256 != a.SHA256:
		return refuse("not-genuine", "assigned digest is %x, the genuine one is %x", a.SHA256, g.SHA256)
	case g.Length != a.Length:
		return refuse("not-genuine", "assigned length is %d bytes, the genuine one is %d", a.Length, g.Length)
	case c.Counter != a.Counter:
		return refuse("not-genuine", "assigned release counter is %d, the genuine one is %d", a.Counter, c.Counter)
	case g.Path != ImagePath(c.Product, c.Version):
		return refuse("not-genuine", "%s is signed as version %s of %s", g.Path, c.Version, c.Product)
	case c.Product != dev.Product:
		return refuse("wrong-product", "it is for %s, this device is %s", c.Product, dev.Product)
	case !slices.Contains(c.Compatible, dev.Compatible):
		return refuse("incompatible", "it is for hardware %s, this device is %s", strings.Join(c.Compatible, ", "), dev.Compatible)
	case c.Kind != KindFull:
		return refuse("unsupported-kind", "it is of kind %s, this agent installs %s", c.Kind, KindFull)
	case c.Component != "" && c.Component != ComponentRootfs:
		return refuse("unsupported-kind", "it is for component %s, this agent installs %s", c.Component, ComponentRootfs)
	case c.MinAgent != "" && CompareVersions(dev.Agent, c.MinAgent) < 0:
		return refuse("agent-too-old", "it needs agent %s, this is %s", c.MinAgent, dev.Agent)
	case c.Counter < dev.Floor:
		return refuse("below-floor", "its release counter %d is below this device's rollback floor %d", c.Counter, dev.Floor)
	}
	return Release{
		Path: g.Path, Version: c.Version, Counter: c.Counter, Floor: c.Floor, Length: g.Length, SHA256: g.SHA256,
		Product: c.Product, Compatible: c.Compatible, Kind: c.Kind, Component: c.Component, Class: c.Class,
		Advisories: c.Advisories, Notes: c.Notes, SBOM: c.SBOM, SupportEnd: c.SupportEnd, NotBefore: a.NotBefore, MinAgent: c.MinAgent,
		Deadline: a.Deadline, Components: c.Components,
		Payloads: c.Payloads,
	}, nil
}

func malformedRelease(err error) error {
	return &Refusal{Code: "malformed-release", What: "read release", Why: err.Error(), Err: err}
}

// IsProduct reports whether s may name a product: it becomes part of a TUF
// role name, a file name and a URL path, so a-z, 0-9 and inner hyphens only.
func IsProduct(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if b := s[i]; (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' {
			return false
		}
	}
	return true
}

// IsVersion reports whether s may be a version: it becomes part of a file name
// and, unescaped, of a URL path. It starts with a letter or digit.
func IsVersion(s string) bool {
	return isName(s) && !strings.ContainsAny(s, ":,") && s[0] != '.' && s[0] != '-' && s[0] != '+' && s[0] != '_'
}

// IsNotes reports whether s may be the notes of a release: a few lines of plain
// text. They are shown on terminals and screens, so nothing in them controls one.
func IsNotes(s string) bool {
	if s == "" || len(s) > maxNotes || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r != '\n' && !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// isName accepts what hardware names, device names, advisory references and
// field names need: ASCII letters, digits and . _ + - : ,
func isName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := 0; i < len(s); i++ {
		b := s[i]
		alnum := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !alnum && !strings.ContainsRune("._+-:,", rune(b)) {
			return false
		}
	}
	return true
}

// isDigest accepts "sha256:" and 64 lower-case hex digits.
func isDigest(s string) bool {
	h, ok := strings.CutPrefix(s, "sha256:")
	return ok && isHex32(h)
}

func isHex32(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && strings.ToLower(s) == s
}
