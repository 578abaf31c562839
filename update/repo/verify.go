// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Report is the outcome of Verify.
type Report struct {
	Documents int      `json:"documents"` // signed documents checked
	Images    int      `json:"images"`    // images whose every byte was read
	Files     int      `json:"files"`     // published files compared
	Problems  []string `json:"problems"`
}

// Verify reads everything again and believes nothing: the chain of roots, the
// signatures in force, every image against its digest, and the published tree
// against the repository, byte for byte and as a device from the factory would
// see it. Problems are in the report; the error is for what could not be read.
func (r *Repo) Verify(ctx context.Context) (Report, error) {
	rep := Report{Problems: []string{}}
	problem := func(format string, args ...any) { rep.Problems = append(rep.Problems, fmt.Sprintf(format, args...)) }
	if err := r.verifyRoots(&rep, problem); err != nil {
		return rep, err
	}
	images := map[[32]byte]int64{}
	t, err := r.inForce(roleTargets)
	if err != nil {
		problem("%v", err)
		return rep, nil
	}
	rep.Documents++
	for _, role := range delegated(t) {
		d, err := r.inForce(role)
		if err != nil {
			problem("%v", err)
			continue
		}
		rep.Documents++
		for name, target := range d.targets.Signed.Targets {
			if target == nil || len(target.Hashes["sha256"]) != 32 {
				problem("%s: %s has not exactly one SHA-256", role, name)
			} else if role != roleAssign {
				images[[32]byte(target.Hashes["sha256"])] = target.Length
			} else if _, err := r.readAssignment(strings.TrimSuffix(path.Base(name), ".json"), target); err != nil {
				problem("%v", err)
			}
		}
	}
	for digest, length := range images {
		got, n, err := hashFile(ctx, r.imageFile(digest))
		switch {
		case ctx.Err() != nil:
			return rep, ctx.Err()
		case err != nil:
			problem("image %.12s: %v", hexDigest(digest), err)
		case got != digest || n != length:
			problem("image %.12s: its bytes are not those that were signed", hexDigest(digest))
		}
		rep.Images++
	}
	return rep, r.verifyPublished(ctx, &rep, problem)
}

func (r *Repo) verifyRoots(rep *Report, problem func(string, ...any)) error {
	list, err := versions(r.metadataDir(), roleRoot)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		problem("no root has been signed")
		return nil
	}
	for i, v := range list {
		if v != int64(i+1) {
			problem("%s is missing", fileName(roleRoot, int64(i+1)))
			return nil
		}
		d, err := load(r.metadataDir(), roleRoot, v)
		if err != nil {
			return err
		}
		authorities, err := r.authorities(d)
		if err != nil {
			return err
		}
		for _, a := range authorities {
			if err := a.verify(d); err != nil {
				problem("root %d is not signed as %s demands: %v", v, a.name, err)
			}
		}
		rep.Documents++
	}
	if _, err := r.inForce(roleRoot); err != nil {
		problem("%v", err)
	}
	return nil
}

// verifyPublished compares the published tree with what the repository holds,
// and walks it as a device.
func (r *Repo) verifyPublished(ctx context.Context, rep *Report, problem func(string, ...any)) error {
	dir := r.PublishDir()
	if _, err := load(filepath.Join(dir, "metadata"), roleTimestamp, 0); errors.Is(err, errAbsent) {
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(dir, "metadata"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		pub, err := readLimited(filepath.Join(dir, "metadata", e.Name()), maxDocument)
		if err != nil {
			return err
		}
		own, err := readLimited(filepath.Join(r.metadataDir(), e.Name()), maxDocument)
		if err != nil || string(own) != string(pub) {
			problem("published metadata/%s is not the repository's", e.Name())
		}
		rep.Files++
	}
	factory, err := r.FactoryRoot()
	if err != nil {
		return err
	}
	c, err := newClient(factory, &memoryStore{}, published(dir), r.now)
	if err != nil {
		return err
	}
	t, err := c.Refresh(ctx)
	if err != nil {
		problem("a device would refuse what is published: %v", err)
		return nil
	}
	products, err := r.products()
	if err != nil {
		return err
	}
	for _, p := range products {
		if err := walkProduct(ctx, c, t, p); err != nil {
			problem("a device of %s would refuse what is published: %v", p, err)
		}
		if err := verifyImages(ctx, c, t, p); err != nil {
			problem("a device of %s would refuse an image: %v", p, err)
		}
	}
	return nil
}
