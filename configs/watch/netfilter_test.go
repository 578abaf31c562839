// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/backstay/backstay/configs/nft"
	"github.com/backstay/backstay/testdata/testneed"
)

func TestNetfilter(t *testing.T) {
	if !testneed.Netns(t) {
		return
	}
	source, err := WatchNetfilter()
	if err != nil {
		t.Skip(err)
	}
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	defer root.Close()
	w, err := New(root, false, 4, source)
	must(t, err)
	defer w.Close()
	c, err := nft.Dial()
	if errors.Is(err, nft.ErrUnsupported) || errors.Is(err, nft.ErrPermission) {
		t.Skip(err)
	}
	must(t, err)
	defer c.Close()
	if got := wait(t, w, 50*time.Millisecond); len(got.Paths) != 0 {
		t.Fatalf("announced before anything happened: %q", got.Paths)
	}
	table := nft.Table{Family: nft.Family, Name: nft.TableName}
	table.Set(nft.InputChain(nft.Opening{Ping: true}))
	for _, step := range []func() error{
		func() error { return c.Put(context.Background(), table, nft.Learn) },
		func() error { return c.Remove(context.Background()) },
	} {
		err := step()
		if errors.Is(err, nft.ErrUnsupported) || errors.Is(err, nft.ErrPermission) {
			t.Skip(err)
		}
		must(t, err)
		began := time.Now()
		if got := wait(t, w, 20*time.Second); !slices.Contains(got.Paths, Netfilter) {
			t.Errorf("noticed %q", got.Paths)
		}
		prompt(t, "step", time.Since(began))
	}
}
