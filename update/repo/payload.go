// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/delta/encode"
)

// Payload is one way to get a release with fewer bytes than its image has.
type Payload struct {
	Path   string `json:"path"`
	Length int64  `json:"length"`         // bytes to fetch
	From   string `json:"from,omitempty"` // version it is a difference from, or that image's digest; empty: it needs none
}

// payloadFile is the signed form of a payload, see update.Payload.
type payloadFile struct {
	Path        string `json:"path"`
	Length      int64  `json:"length"`
	SHA256      string `json:"sha256"`
	IndexLength int64  `json:"index_length"`
	IndexSHA256 string `json:"index_sha256"`
	Base        string `json:"base,omitempty"`
	BaseLength  int64  `json:"base_length,omitempty"`
}

// payloads makes what n asks for: a compressed image, and a delta from each of the given releases. What is not smaller than
// the image is not kept.
func (r *Repo) payloads(ctx context.Context, n NewRelease, past history, digest [32]byte) ([]payloadFile, error) {
	if n.NoCompress && len(n.DeltaFrom) == 0 {
		return nil, nil
	}
	image, done, err := mapFile(r.imageFile(digest))
	if err != nil {
		return nil, err
	}
	defer done()
	var list []payloadFile
	add := func(base []byte, name string) error {
		p, err := r.payload(ctx, base, image, "firmware/"+n.Product+"/"+name+update.PayloadSuffix)
		switch {
		case errors.Is(err, errNotSmaller):
			return nil
		case err == nil:
			list = append(list, p)
		}
		return err
	}
	for _, version := range n.DeltaFrom {
		old, ok := past.images[update.ImagePath(n.Product, version)]
		if !ok || version == n.Version {
			return nil, refuse("unknown-release", "make a delta from "+version, "%s has no other release %s", n.Product, version)
		}
		base, done, err := mapFile(r.imageFile(old.digest))
		if err != nil {
			return nil, fmt.Errorf("make a delta from %s: %w", version, err)
		}
		err = add(base, n.Version+".from-"+hexDigest(old.digest)[:12])
		done()
		if err != nil {
			return nil, fmt.Errorf("make a delta from %s: %w", version, err)
		}
	}
	if !n.NoCompress {
		if err := add(nil, n.Version); err != nil {
			return nil, fmt.Errorf("compress image: %w", err)
		}
	}
	return list, nil
}

// errNotSmaller says that a payload is not worth keeping.
var errNotSmaller = errors.New("the payload is not smaller than the image")

// payload encodes one payload into the directory of images. base is nil for a compressed image.
func (r *Repo) payload(ctx context.Context, base, image []byte, path string) (payloadFile, error) {
	var res encode.Result
	read, write := io.Pipe()
	go func() {
		var err error
		res, err = encode.Write(ctx, write, base, image, encode.Options{})
		write.CloseWithError(err)
	}()
	var sum [32]byte
	err := importImage(ctx, r.imagesDir(), read, func(digest [32]byte, length int64) error {
		if sum = digest; length >= int64(len(image)) {
			return errNotSmaller
		}
		return nil
	})
	read.Close()
	if err != nil {
		return payloadFile{}, err
	}
	if sum != res.SHA256 {
		return payloadFile{}, errors.New("encode payload: what was stored is not what was made")
	}
	p := payloadFile{Path: path, Length: res.Length, SHA256: hexDigest(sum), IndexLength: res.IndexLength, IndexSHA256: hexDigest(res.IndexSHA256)}
	if res.BaseLength > 0 {
		p.Base, p.BaseLength = hexDigest(res.Base), res.BaseLength
	}
	return p, nil
}

// mapFile makes a file readable as memory, so that two large images need none of their own.
func mapFile(name string) ([]byte, func(), error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(fi.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map %s: %w", name, err)
	}
	return b, func() { _ = syscall.Munmap(b) }, nil
}

// isPayload reports whether a target is a payload of some release and not a release.
func isPayload(path string) bool { return strings.HasSuffix(path, update.PayloadSuffix) }

// dropPayloads removes the payloads of a release from its product's document.
func dropPayloads(d *document, path string) {
	t := d.targets.Signed.Targets[path]
	if t == nil {
		return
	}
	if c, err := parseTarget(t); err == nil {
		for _, p := range c.Payloads {
			delete(d.targets.Signed.Targets, p.Path)
		}
	}
}

// addPayloads makes each payload a target of its product's role.
func addPayloads(d *document, list []payloadFile) error {
	for _, p := range list {
		sum, err := hex.DecodeString(p.SHA256)
		if err != nil || len(sum) != sha256.Size {
			return fmt.Errorf("payload %s: bad digest", p.Path)
		}
		if _, taken := d.targets.Signed.Targets[p.Path]; taken {
			return refuse("exists", "add payload", "%s is the name of a payload of another version", p.Path)
		}
		d.targets.Signed.Targets[p.Path] = &metadata.TargetFiles{Length: p.Length, Hashes: metadata.Hashes{"sha256": sum}, Path: p.Path}
	}
	return nil
}

// payloadsOf lists the payloads of a release. versions names images by digest.
func payloadsOf(c update.Custom, versions map[[32]byte]string) []Payload {
	var list []Payload
	for _, p := range c.Payloads {
		out := Payload{Path: p.Path, Length: p.Length}
		if p.BaseLength > 0 {
			if out.From = versions[p.Base]; out.From == "" {
				out.From = "sha256:" + hexDigest(p.Base)[:12]
			}
		}
		list = append(list, out)
	}
	return list
}
