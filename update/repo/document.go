// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
)

// Names of the roles that are not products.
const (
	roleRoot      = metadata.ROOT
	roleTargets   = metadata.TARGETS
	roleSnapshot  = metadata.SNAPSHOT
	roleTimestamp = metadata.TIMESTAMP
	roleAssign    = "assign"
	rolePolicy    = "policy"
)

// productRole is the delegated role that signs a product's images.
func productRole(product string) string { return "product-" + product }

// What the delegated roles may sign.
const (
	assignPaths = "assign/*"
	policyPaths = "policy/*"
)

func productPaths(product string) string { return "firmware/" + product + "/*" }

// issuedField is an extra signed field: when the document was signed, RFC 3339.
// A device without a clock takes it as a lower bound of the time; plain TUF
// clients ignore it.
const issuedField = "x-issued"

// roleField is an extra signed field: the name of the role. Documents of
// products, assign and targets are of one type; a custodian's machine that has
// only the file can tell from it what is to be signed.
const roleField = "x-role"

// maxVersion is the largest version number of a document, 2^53-1: beyond it the
// JSON of signatures is not exact.
const maxVersion = update.MaxCounter

// document is the metadata of any role.
type document struct {
	role      string
	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
}

// head points at the parts that documents of every role have.
type head struct {
	version *int64
	expires *time.Time
	extra   *map[string]any
	sigs    *[]metadata.Signature
	signed  any // value to sign
	meta    any // pointer for go-tuf's verification
	bytes   func(pretty bool) ([]byte, error)
}

func (d *document) head() head {
	switch {
	case d.root != nil:
		s := &d.root.Signed
		return head{&s.Version, &s.Expires, &s.UnrecognizedFields, &d.root.Signatures, *s, d.root, d.root.ToBytes}
	case d.targets != nil:
		s := &d.targets.Signed
		return head{&s.Version, &s.Expires, &s.UnrecognizedFields, &d.targets.Signatures, *s, d.targets, d.targets.ToBytes}
	case d.snapshot != nil:
		s := &d.snapshot.Signed
		return head{&s.Version, &s.Expires, &s.UnrecognizedFields, &d.snapshot.Signatures, *s, d.snapshot, d.snapshot.ToBytes}
	default:
		s := &d.timestamp.Signed
		return head{&s.Version, &s.Expires, &s.UnrecognizedFields, &d.timestamp.Signatures, *s, d.timestamp, d.timestamp.ToBytes}
	}
}

func (d *document) version() int64     { return *d.head().version }
func (d *document) expires() time.Time { return *d.head().expires }

// issued is when the document was signed; zero if it does not say.
func (d *document) issued() time.Time {
	s, _ := (*d.head().extra)[issuedField].(string)
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// stamp sets version, time of issue and expiry, and drops the signatures, which
// no longer fit.
func (d *document) stamp(version int64, now time.Time, life time.Duration) {
	h := d.head()
	now = now.UTC().Truncate(time.Second)
	*h.version = version
	*h.expires = now.Add(life).Truncate(time.Second)
	if *h.extra == nil {
		*h.extra = map[string]any{}
	}
	(*h.extra)[issuedField] = now.Format(time.RFC3339)
	(*h.extra)[roleField] = d.role
	*h.sigs = []metadata.Signature{}
}

// payload is what signatures are made over.
func (d *document) payload() ([]byte, error) { return canonical(d.head().signed) }

// digest identifies the signed part, whoever has signed it.
func (d *document) digest() (string, error) {
	p, err := d.payload()
	if err != nil {
		return "", err
	}
	return hexDigest(sha256.Sum256(p)), nil
}

// setSignature adds a signature, replacing one of the same key: two signatures
// of one key make every client refuse the whole document.
func (d *document) setSignature(keyID string, sig []byte) {
	sigs := d.head().sigs
	for i := range *sigs {
		if (*sigs)[i].KeyID == keyID {
			(*sigs)[i].Signature = sig
			return
		}
	}
	*sigs = append(*sigs, metadata.Signature{KeyID: keyID, Signature: sig})
	sort.Slice(*sigs, func(i, j int) bool { return (*sigs)[i].KeyID < (*sigs)[j].KeyID })
}

func (d *document) encode() ([]byte, error) {
	b, err := d.head().bytes(true)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", d.role, err)
	}
	return append(b, '\n'), nil
}

// clone returns a deep copy, to be changed.
func (d *document) clone() (*document, error) {
	b, err := d.encode()
	if err != nil {
		return nil, err
	}
	return parseDocument(d.role, b)
}

// parseDocument reads the metadata of a role. go-tuf can panic on entries that
// are null, so that is an error here.
func parseDocument(role string, b []byte) (d *document, err error) {
	defer func() {
		if p := recover(); p != nil {
			d, err = nil, fmt.Errorf("read %s: malformed entry: %v", role, p)
		}
	}()
	d = &document{role: role}
	switch role {
	case roleRoot:
		d.root, err = new(metadata.Metadata[metadata.RootType]).FromBytes(b)
	case roleSnapshot:
		d.snapshot, err = new(metadata.Metadata[metadata.SnapshotType]).FromBytes(b)
	case roleTimestamp:
		d.timestamp, err = new(metadata.Metadata[metadata.TimestampType]).FromBytes(b)
	default:
		d.targets, err = new(metadata.Metadata[metadata.TargetsType]).FromBytes(b)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", role, err)
	}
	if v := d.version(); v < 1 || v > maxVersion {
		return nil, fmt.Errorf("read %s: version %d is out of range", role, v)
	}
	return d, nil
}

// newDocument returns an empty document of a role.
func newDocument(role string) *document {
	d := &document{role: role}
	switch role {
	case roleRoot:
		d.root = metadata.Root(time.Time{})
	case roleSnapshot:
		d.snapshot = metadata.Snapshot(time.Time{})
	case roleTimestamp:
		d.timestamp = metadata.Timestamp(time.Time{})
	default:
		d.targets = metadata.Targets(time.Time{})
	}
	return d
}

// fileName is the name of a document under metadata/.
func fileName(role string, version int64) string {
	if role == roleTimestamp {
		return "timestamp.json"
	}
	return strconv.FormatInt(version, 10) + "." + role + ".json"
}

// versions lists the versions of a role in dir, ascending.
func versions(dir, role string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []int64
	for _, e := range entries {
		n, ok := strings.CutSuffix(e.Name(), "."+role+".json")
		if !ok {
			continue
		}
		if v, err := strconv.ParseInt(n, 10, 64); err == nil && v > 0 && v <= maxVersion {
			list = append(list, v)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
	return list, nil
}

// errAbsent says that a role has no document yet.
var errAbsent = errors.New("not there")

// load reads one version of a role.
func load(dir, role string, version int64) (*document, error) {
	b, err := readLimited(filepath.Join(dir, fileName(role, version)), maxDocument)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", role, errAbsent)
	}
	if err != nil {
		return nil, err
	}
	d, err := parseDocument(role, b)
	if err != nil {
		return nil, err
	}
	if role != roleTimestamp && d.version() != version {
		return nil, fmt.Errorf("read %s: it says version %d", fileName(role, version), d.version())
	}
	return d, nil
}

// newest reads the highest version of a role in dir.
func newest(dir, role string) (*document, error) {
	if role == roleTimestamp {
		return load(dir, role, 0)
	}
	v, err := versions(dir, role)
	if err != nil {
		return nil, err
	}
	if len(v) == 0 {
		return nil, fmt.Errorf("%s: %w", role, errAbsent)
	}
	return load(dir, role, v[len(v)-1])
}

func readLimited(name string, limit int64) ([]byte, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.Size() > limit {
		return nil, fmt.Errorf("read %s: %d bytes, the limit is %d", name, fi.Size(), limit)
	}
	return os.ReadFile(name)
}

// snapshotMeta is the list of files that a snapshot or timestamp vouches for.
func (d *document) snapshotMeta() map[string]*metadata.MetaFiles {
	if d.snapshot != nil {
		return d.snapshot.Signed.Meta
	}
	return d.timestamp.Signed.Meta
}

func (d *document) setMeta(m map[string]*metadata.MetaFiles) {
	if d.snapshot != nil {
		d.snapshot.Signed.Meta = m
		return
	}
	d.timestamp.Signed.Meta = m
}

func sameMeta(a, b map[string]*metadata.MetaFiles) bool {
	return maps.EqualFunc(a, b, func(x, y *metadata.MetaFiles) bool {
		return x != nil && y != nil && x.Version == y.Version && x.Length == y.Length && x.Hashes.Equal(y.Hashes)
	})
}

func (d *document) addDetached(s Signature) error {
	sig, err := hex.DecodeString(s.Sig)
	if err != nil {
		return err
	}
	d.setSignature(s.KeyID, sig)
	return nil
}
