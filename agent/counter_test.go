// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/agent/tpm"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
	"github.com/backstay/backstay/testdata/testneed"
)

// TestPutBackLogIsNoticedByTheTPM puts an old copy of the whole log back, its epoch number included, as somebody with the flash in
// his hands can. No receipt is involved: the counter of the TPM knows better, and the log says so in a new epoch.
func TestPutBackLogIsNoticedByTheTPM(t *testing.T) {
	for _, store := range []string{spool.StoreBolt, spool.StoreSegments} {
		t.Run(store, func(t *testing.T) {
			name, _ := testneed.TPM(t, t.TempDir())
			device, err := tpm.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			counter, err := tpm.OpenCounter(device, 0x01800bac)
			if err != nil {
				t.Fatal(err)
			}
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "audit")
			run := func() logging.Origin {
				t.Helper()
				l, err := spool.Open(spool.Config{Dir: dir, Key: key, Store: store, Counter: counter})
				if err != nil {
					t.Fatal(err)
				}
				if err := l.Append(t.Context(), logging.Event{Code: "account.change", Message: "something to hide"}); err != nil {
					t.Fatal(err)
				}
				s := l.State()
				if s.CounterError != "" {
					t.Error(s.CounterError)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				return s.Origin
			}
			first := run()
			old := filepath.Join(t.TempDir(), "old")
			if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if o := run(); o != first {
				t.Fatalf("an honest restart began %v", o)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(dir, os.DirFS(old)); err != nil {
				t.Fatal(err)
			}
			after := run()
			if after.Epoch <= first.Epoch {
				t.Fatalf("an old copy goes on as %v", after)
			}
			l, err := spool.Open(spool.Config{Dir: dir, Key: key, Store: store, Counter: counter})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for leaf, err := range l.From(t.Context(), 0) {
				if err != nil {
					t.Fatal(err)
				}
				r, err := logging.DecodeLeaf(leaf.Body)
				if err != nil {
					t.Fatal(err)
				}
				if why, _ := r.Attr("reason"); r.Code != "log.start" || why != "rolled-back" {
					t.Errorf("the new epoch begins with %s, %q", r.Code, why)
				}
				return
			}
			t.Error("the new epoch is empty")
		})
	}
}
