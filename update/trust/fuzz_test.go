// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

// files answers requests from a map, without a network.
type files map[string][]byte

func (f files) RoundTrip(r *http.Request) (*http.Response, error) {
	b, ok := f[strings.TrimPrefix(r.URL.Path, "/")]
	resp := &http.Response{StatusCode: http.StatusOK, Request: r, Header: http.Header{}, ContentLength: int64(len(b)), Body: io.NopCloser(bytes.NewReader(b))}
	if !ok {
		resp.StatusCode = http.StatusNotFound
	}
	return resp, nil
}

// unpinned is a repository without digests: what is fuzzed reaches the parser.
func unpinned(t testing.TB) *trusttest.Repo {
	r := trusttest.New(t)
	r.AddTarget(trusttest.ProductRole, image, []byte("image"), map[string]any{"a": 1})
	r.Publish("root", trusttest.ProductRole, "assign", "targets", "snapshot", "timestamp")
	for name := range r.Snapshot.Signed.Meta {
		r.Snapshot.Signed.Meta[name] = metadata.MetaFile(2)
	}
	r.SignSnapshot()
	r.Timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(2)
	r.SignTimestamp()
	return r
}

var fuzzed = []string{
	"metadata/2.root.json", "metadata/timestamp.json", "metadata/2.snapshot.json", "metadata/2.targets.json",
	"metadata/2." + trusttest.ProductRole + ".json",
}

// FuzzRefresh serves any bytes in the place of one file, and stores them as its
// cached copy: the client must answer, by refusing or by accepting what is
// signed, and must not end the process. With sign set, the bytes are the signed
// part and properly signed: a mistake or a thief on the other side.
func FuzzRefresh(f *testing.F) {
	repo := unpinned(f)
	served := repo.Copy()
	for i, path := range fuzzed {
		f.Add(byte(i), false, served[path])
		signed, err := json.Marshal(trusttest.Signed(f, served[path]))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), true, signed)
		f.Add(byte(i), false, []byte(`{"signed":{"_type":"targets","targets":{"x":null}},"signatures":[]}`))
		f.Add(byte(i), true, []byte(`{"_type":"timestamp","meta":{"snapshot.json":null},"version":2}`))
	}
	keys := []*trusttest.Key{repo.Keys["root"][0], repo.Keys["timestamp"][0], repo.Keys["snapshot"][0], repo.Keys["targets"][0], repo.Keys[trusttest.ProductRole][0]}
	f.Fuzz(func(t *testing.T, which byte, sign bool, raw []byte) {
		i := int(which) % len(fuzzed)
		if sign {
			var signed map[string]any
			if json.Unmarshal(raw, &signed) != nil || signed == nil {
				return
			}
			var err error
			if raw, err = trusttest.TrySignMap(signed, keys[i]); err != nil {
				return // it has no canonical form
			}
		}
		all := files{}
		for k, v := range served {
			all[k] = v
		}
		all[fuzzed[i]] = raw
		store := &trusttest.Store{}
		store.Edit(func(s *trust.State) {
			switch i {
			case 0:
				s.Roots = [][]byte{raw}
			case 1:
				s.Timestamp = raw
			case 2:
				s.Snapshot = raw
			case 3:
				s.Targets = map[string][]byte{"targets": raw}
			case 4:
				s.Targets = map[string][]byte{trusttest.ProductRole: raw}
			}
		})
		c, err := trust.New(trust.Config{
			FactoryRoot: repo.Factory, MetadataURL: "http://localhost/metadata", TargetsURL: "http://localhost/targets", Store: store,
			HTTP: &http.Client{Transport: all}, Now: func() time.Time { return trusttest.Start }, Interop: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		tr, err := c.Refresh(t.Context())
		if err == nil {
			_, err = tr.Target(t.Context(), image)
		}
		if err != nil && !errors.Is(err, update.ErrRefused) && !errors.Is(err, update.ErrRetry) {
			t.Errorf("error in no class: %v", err)
		}
	})
}

// FuzzFactoryRoot: what is in the image may be damaged as well.
func FuzzFactoryRoot(f *testing.F) {
	repo := trusttest.New(f)
	f.Add(repo.Factory)
	f.Add([]byte(`{"signed":{"_type":"root","roles":{"root":null}},"signatures":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, err := trust.New(trust.Config{FactoryRoot: raw, MetadataURL: "http://localhost/", TargetsURL: "http://localhost/", Store: &trusttest.Store{}})
		if err != nil && !errors.Is(err, update.ErrSetup) {
			t.Errorf("error in no class: %v", err)
		}
	})
}
