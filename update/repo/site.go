// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// blob is one file of the published tree: bytes, or an image to copy.
type blob struct {
	bytes  []byte
	file   string // set for images
	digest [32]byte
	length int64
}

// site is the published tree, by slash-separated path, with the documents that
// were signed for it.
type site struct {
	files               map[string]blob
	root, targets       *document
	snapshot, timestamp *document
	roles               []string // delegated
	fresh               []*document
}

func bytesBlob(b []byte) blob { return blob{bytes: b, digest: sha256.Sum256(b), length: int64(len(b))} }

// addDocument adds a document and returns its bytes as they will be served.
func (s *site) addDocument(d *document) ([]byte, error) {
	b, err := d.encode()
	if err != nil {
		return nil, err
	}
	if err := checkDocument(d, len(b)); err != nil {
		return nil, err
	}
	s.files["metadata/"+fileName(d.role, d.version())] = bytesBlob(b)
	return b, nil
}

func metaFile(version int64, b []byte) *metadata.MetaFiles {
	digest := sha256.Sum256(b)
	return &metadata.MetaFiles{Version: version, Length: int64(len(b)), Hashes: metadata.Hashes{"sha256": digest[:]}}
}

// write puts the tree into dir, the timestamp last. It reports whether anything
// was new.
func (s *site) write(ctx context.Context, dir string) (bool, error) {
	changed := false
	for _, group := range s.order() {
		for _, name := range group {
			b := s.files[name]
			dst := filepath.Join(dir, filepath.FromSlash(name))
			if b.file != "" {
				new, err := copyImage(ctx, dst, b)
				if err != nil {
					return changed, err
				}
				changed = changed || new
				continue
			}
			old, err := os.ReadFile(dst)
			if err == nil && bytes.Equal(old, b.bytes) {
				continue
			}
			changed = true
			if path.Base(name) == "timestamp.json" {
				err = replaceFile(dst, b.bytes, 0o644)
			} else {
				err = keepFile(dst, b.bytes)
			}
			if err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}

// order groups the files by when a device may see them.
func (s *site) order() [][]string {
	groups := make([][]string, 6)
	for name := range s.files {
		base := path.Base(name)
		switch {
		case strings.HasPrefix(name, "targets/"):
			groups[0] = append(groups[0], name)
		case base == "timestamp.json":
			groups[5] = append(groups[5], name)
		case strings.HasSuffix(base, ".snapshot.json"):
			groups[4] = append(groups[4], name)
		case strings.HasSuffix(base, ".root.json"):
			groups[3] = append(groups[3], name)
		case strings.HasSuffix(base, ".targets.json"):
			groups[2] = append(groups[2], name)
		default:
			groups[1] = append(groups[1], name)
		}
	}
	return groups
}

// copyImage copies an image, checking its digest on the way. An image that is
// there with its full length is left alone.
func copyImage(ctx context.Context, dst string, b blob) (bool, error) {
	if fi, err := os.Stat(dst); err == nil && fi.Size() == b.length {
		return false, nil
	}
	src, err := os.Open(b.file)
	if err != nil {
		return false, err
	}
	defer src.Close()
	return true, writeVia(dst, 0o644, func(w io.Writer) error {
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(w, h), contextReader{ctx, src}); err != nil {
			return err
		}
		if [32]byte(h.Sum(nil)) != b.digest {
			return refuse("bad-hash", "image "+b.file, "its bytes are not those that were signed")
		}
		return nil
	})
}
