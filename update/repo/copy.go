// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
)

// Copied says what CopyTo wrote.
type Copied struct {
	Dir      string    `json:"dir"`
	Products []string  `json:"products"`
	Releases []string  `json:"releases"` // product and version of each image
	Files    int       `json:"files"`
	Bytes    int64     `json:"bytes"`
	Expires  time.Time `json:"expires"` // no device takes anything from it afterwards
}

// CopyTo writes what is published, or the part of it that the devices of some
// products need, into a directory: a stick for devices without a network. No
// products mean all of them, no versions every release that is rolled out.
//
// Which files a device needs is found by being one: a client reads what is
// published, and what it asked for is copied. Another one then installs from the
// copy, so a stick that no device would take is not handed out (code
// simulation). Nothing is signed, so no version is used up.
func (r *Repo) CopyTo(ctx context.Context, to string, products, versions []string) (Copied, error) {
	out := Copied{Dir: to, Products: products, Releases: []string{}}
	from := r.PublishDir()
	stamp, err := load(filepath.Join(from, "metadata"), roleTimestamp, 0)
	if errors.Is(err, errAbsent) {
		return out, refuse("unpublished", "copy repository", "nothing is published in %s yet", from)
	}
	if err != nil {
		return out, err
	}
	if out.Expires = stamp.expires(); !out.Expires.After(r.now()) {
		return out, refuse("metadata-expired", "copy repository", "what is published expired on %s", formatTime(out.Expires))
	}
	if len(products) == 0 {
		if out.Products, err = r.products(); err != nil {
			return out, err
		}
	}
	asked := &asking{files: published(from), names: []string{"metadata/" + fileName(roleRoot, 1)}}
	if err := r.playCopy(ctx, &out, asked, nil, versions); err != nil {
		return out, err
	}
	if err := copyFiles(ctx, from, to, asked.names, &out); err != nil {
		return out, err
	}
	d, err := trust.OpenDirectory(absolute(to))
	if err != nil {
		return out, err
	}
	defer d.Close()
	if err := r.playCopy(ctx, &Copied{Products: out.Products}, nil, d, versions); err != nil {
		return out, refuseSimulation("to the copy", err)
	}
	return out, nil
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// playCopy is a device of every product: over files it asks for every image, in
// a directory it reads them.
func (r *Repo) playCopy(ctx context.Context, out *Copied, files http.RoundTripper, d *trust.Directory, versions []string) error {
	factory, err := r.FactoryRoot()
	if err != nil {
		return err
	}
	c, err := newClient(factory, &memoryStore{}, files, r.now)
	if err != nil {
		return err
	}
	if d != nil {
		c.Local(d)
	}
	t, err := c.Refresh(ctx)
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, product := range out.Products {
		if info, err := t.Policy(ctx, product); err == nil {
			_, err = c.Fetch(ctx, info, update.MaxPolicy)
			if err != nil {
				return err
			}
		} else if !errors.Is(err, update.ErrNothing) {
			return err
		}
		a, err := assignment(ctx, c, t, product)
		if err != nil {
			return err
		}
		for _, e := range a.Entries {
			version := versionOf(product, e.Path)
			if len(versions) > 0 && !slices.Contains(versions, version) {
				continue
			}
			found[version] = true
			out.Releases = append(out.Releases, product+" "+version)
			if err := playImage(ctx, c, t, e.Path, d != nil); err != nil {
				return err
			}
		}
	}
	for _, v := range versions {
		if !found[v] {
			return refuse("no-rollout", "copy repository", "no rollout of %s is published", v)
		}
	}
	return nil
}

// playImage asks for an image and for the payloads that its properties name.
func playImage(ctx context.Context, c *trust.Client, t *trust.Trusted, path string, read bool) error {
	image, err := t.Target(ctx, path)
	if err != nil {
		return err
	}
	var custom struct {
		Payloads []struct {
			Path string `json:"path"`
		} `json:"payloads"`
	}
	if err := json.Unmarshal(image.Custom, &custom); err != nil {
		return err
	}
	all := []trust.TargetInfo{image}
	for _, p := range custom.Payloads {
		info, err := t.Target(ctx, p.Path)
		if err != nil {
			return err
		}
		all = append(all, info)
	}
	for _, info := range all {
		body, err := c.Open(ctx, info, 0)
		if err != nil {
			return err
		}
		if read {
			_, err = io.Copy(io.Discard, contextReader{ctx, body})
		}
		body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// asking notes the files that were asked for and there.
type asking struct {
	files http.RoundTripper
	mu    sync.Mutex
	names []string
}

func (a *asking) RoundTrip(q *http.Request) (*http.Response, error) {
	resp, err := a.files.RoundTrip(q)
	if err == nil && resp.StatusCode == http.StatusOK {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.names = append(a.names, strings.TrimPrefix(q.URL.Path, "/"))
	}
	return resp, err
}

// copyFiles copies files, the timestamp last. One that is there with the same
// length is left alone unless its name does not say what is in it.
func copyFiles(ctx context.Context, from, to string, names []string, out *Copied) error {
	const last = "metadata/" + roleTimestamp + ".json"
	slices.Sort(names)
	names = slices.Compact(names)
	names = append(slices.DeleteFunc(names, func(n string) bool { return n == last }), last)
	for _, name := range names {
		src, err := os.Open(filepath.Join(from, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		fi, err := src.Stat()
		if err != nil {
			src.Close()
			return err
		}
		out.Files++
		out.Bytes += fi.Size()
		dst := filepath.Join(to, filepath.FromSlash(name))
		if old, err := os.Stat(dst); err == nil && old.Size() == fi.Size() && strings.HasPrefix(name, "targets/") {
			src.Close()
			continue
		}
		err = writeVia(dst, 0o644, func(w io.Writer) error {
			_, err := io.Copy(w, contextReader{ctx, src})
			return err
		})
		src.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
