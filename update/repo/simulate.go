// SPDX-License-Identifier: Apache-2.0

package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
)

// simulate plays a device against a tree that is not published yet: one fresh
// from the factory, and one that holds what is published now.
func (r *Repo) simulate(ctx context.Context, dir string, s *site) error {
	factory, err := r.FactoryRoot()
	if err != nil {
		return err
	}
	for _, from := range []string{"from the factory root", "from what is published now"} {
		store := &memoryStore{}
		if from != "from the factory root" {
			there, err := seed(ctx, factory, dir, store)
			if err != nil {
				return err
			}
			if !there {
				continue
			}
		}
		if err := r.walk(ctx, factory, store, s); err != nil {
			return refuseSimulation(from, err)
		}
	}
	return nil
}

func refuseSimulation(from string, err error) error {
	return &update.Refusal{Code: "simulation", What: "a device coming " + from, Why: "it would refuse: " + err.Error(), Err: err}
}

// walk does what a device does, for every product and every release assigned.
func (r *Repo) walk(ctx context.Context, factory []byte, store trust.Store, s *site) error {
	c, err := newClient(factory, store, s, r.now)
	if err != nil {
		return err
	}
	t, err := c.Refresh(ctx)
	if err != nil {
		return err
	}
	for _, product := range r.productsOf(s) {
		if err := walkProduct(ctx, c, t, product); err != nil {
			return fmt.Errorf("product %s: %w", product, err)
		}
	}
	return nil
}

func walkProduct(ctx context.Context, c *trust.Client, t *trust.Trusted, product string) error {
	a, err := assignment(ctx, c, t, product)
	if err != nil {
		return err
	}
	for _, e := range a.Entries {
		image, err := t.Target(ctx, e.Path)
		if err != nil {
			return fmt.Errorf("%s is assigned: %w", e.Path, err)
		}
		custom, err := update.ParseCustom(image.Custom)
		if err != nil {
			return err
		}
		for _, p := range custom.Payloads {
			got, err := t.Target(ctx, p.Path)
			if err != nil {
				return fmt.Errorf("payload of %s: %w", e.Path, err)
			}
			if got.Length != p.Length || got.SHA256 != p.SHA256 {
				return fmt.Errorf("payload %s is not the one that %s names", p.Path, e.Path)
			}
		}
		// A device of every hardware the release names, with an agent that is new
		// enough and a floor that allows it: what is left is whether the two
		// authorities agree.
		for _, hw := range custom.Compatible {
			dev := update.Device{Product: product, Compatible: hw, Agent: custom.MinAgent}
			g := update.Genuine{Path: image.Path, Length: image.Length, SHA256: image.SHA256, Custom: custom}
			if _, err := update.Choose(dev, g, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func newClient(factory []byte, store trust.Store, files http.RoundTripper, now func() time.Time) (*trust.Client, error) {
	return trust.New(trust.Config{
		FactoryRoot: factory, MetadataURL: "http://repository.invalid/metadata", TargetsURL: "http://repository.invalid/targets",
		HTTP: &http.Client{Transport: files}, Store: store, Now: now,
	})
}

// seed brings store to the state of a device that has seen what is published in
// dir, when it was published. It reports whether anything is.
func seed(ctx context.Context, factory []byte, dir string, store trust.Store) (bool, error) {
	old, err := load(filepath.Join(dir, "metadata"), roleTimestamp, 0)
	if errors.Is(err, errAbsent) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c, err := newClient(factory, store, published(dir), func() time.Time { return old.issued() })
	if err != nil {
		return false, err
	}
	if _, err := c.Refresh(ctx); err != nil {
		return false, fmt.Errorf("read what is published in %s: %w", dir, err)
	}
	return true, nil
}

// memoryStore is a device's trust state that lives as long as the simulation.
type memoryStore struct{ state trust.State }

func (m *memoryStore) LoadTrust() (trust.State, error) { return m.state, nil }
func (m *memoryStore) SaveTrust(s trust.State) error   { m.state = s; return nil }

// RoundTrip serves the tree from memory.
func (s *site) RoundTrip(q *http.Request) (*http.Response, error) {
	b, ok := s.files[strings.TrimPrefix(q.URL.Path, "/")]
	if !ok {
		return response(q, http.StatusNotFound, nil, 0), nil
	}
	if b.file == "" {
		return response(q, http.StatusOK, io.NopCloser(bytes.NewReader(b.bytes)), b.length), nil
	}
	return openResponse(q, b.file)
}

// published serves a directory without a socket.
type published string

// RoundTrip serves a file below the directory and nothing outside it.
func (p published) RoundTrip(q *http.Request) (*http.Response, error) {
	root, err := os.OpenRoot(string(p))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(filepath.FromSlash(strings.TrimPrefix(q.URL.Path, "/")))
	if err != nil {
		return response(q, http.StatusNotFound, nil, 0), nil
	}
	return fileResponse(q, f)
}

func openResponse(q *http.Request, name string) (*http.Response, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return fileResponse(q, f)
}

func fileResponse(q *http.Request, f *os.File) (*http.Response, error) {
	fi, err := f.Stat()
	if err != nil || fi.IsDir() {
		f.Close()
		return response(q, http.StatusNotFound, nil, 0), nil
	}
	return response(q, http.StatusOK, f, fi.Size()), nil
}

func response(q *http.Request, status int, body io.ReadCloser, length int64) *http.Response {
	if body == nil {
		body = http.NoBody
	}
	return &http.Response{
		StatusCode: status, Status: strconv.Itoa(status) + " " + http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: body, ContentLength: length, Request: q,
	}
}

// verifyImages downloads every assigned image of a product as a device would,
// and throws the bytes away.
func verifyImages(ctx context.Context, c *trust.Client, t *trust.Trusted, product string) error {
	a, err := assignment(ctx, c, t, product)
	if err != nil {
		return err
	}
	for _, e := range a.Entries {
		image, err := t.Target(ctx, e.Path)
		if err != nil {
			return err
		}
		body, err := c.Open(ctx, image, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, contextReader{ctx, body})
		body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// assignment fetches a product's statement; the zero Assignment if nothing is
// rolled out yet.
func assignment(ctx context.Context, c *trust.Client, t *trust.Trusted, product string) (update.Assignment, error) {
	info, err := t.Target(ctx, update.AssignmentPath(product))
	if isCode(err, "unknown-target") {
		return update.Assignment{}, nil
	}
	if err != nil {
		return update.Assignment{}, err
	}
	b, err := c.Fetch(ctx, info, update.MaxAssignment)
	if err != nil {
		return update.Assignment{}, err
	}
	return update.ParseAssignment(b)
}
