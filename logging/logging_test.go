// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

var epoch0 = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

// rig is one device with its log in memory, one collector and one agency.
type rig struct {
	signer    *logging.CheckpointSigner
	collector *logging.ReceiptSigner
	agency    *logging.ReceiptSigner
	origin    logging.Origin
	tree      logging.Tree
	leaves    []logging.Leaf
	heads     map[uint64][]byte // checkpoints by size
	receipts  map[uint64][]byte
}

func newRig(t testing.TB) *rig {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := logging.NewCheckpointSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{
		signer: s, collector: receiptSigner(t, "collector.example"), agency: receiptSigner(t, "agency.example"),
		origin: logging.Origin{Device: s.DeviceID(), Epoch: 1}, heads: map[uint64][]byte{}, receipts: map[uint64][]byte{},
	}
}

func receiptSigner(t testing.TB, name string) *logging.ReceiptSigner {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := logging.NewReceiptSigner(name, priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r *rig) policy(t testing.TB, quorum int) logging.Policy {
	t.Helper()
	p, err := logging.NewPolicy([]string{r.collector.Key().String(), r.agency.Key().String()}, quorum)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// grow appends n records and signs the head.
func (r *rig) grow(t testing.TB, n int) *rig {
	t.Helper()
	for range n {
		i := r.tree.Size()
		body, side := logging.EncodeRecord(r.origin, i, epoch0.Add(time.Duration(i)*time.Second), logging.Event{
			Code: "net.listen", Message: fmt.Sprintf("socket %d", i), Subject: "sshd",
			Attrs: []logging.Attr{{Name: "port", Value: fmt.Sprint(1024 + i)}},
		})
		r.leaves = append(r.leaves, logging.Leaf{Index: i, Hash: logging.LeafHash(body), Body: body, Side: side})
		r.tree.Append(logging.LeafHash(body))
	}
	r.heads[r.tree.Size()] = r.sign(t, r.tree)
	return r
}

func (r *rig) sign(t testing.TB, tree logging.Tree) []byte {
	t.Helper()
	msg, err := r.signer.Sign(logging.Checkpoint{Origin: r.origin, Size: tree.Size(), Root: tree.Root()})
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func (r *rig) head() logging.Checkpoint {
	return logging.Checkpoint{Origin: r.origin, Size: r.tree.Size(), Root: r.tree.Root()}
}

func (r *rig) receipt(t testing.TB, by *logging.ReceiptSigner) []byte {
	t.Helper()
	msg, err := by.Sign(r.head(), epoch0)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// items returns the evidence in the order of the log.
func (r *rig) items() []logging.Item {
	var items []logging.Item
	for i := range r.leaves {
		items = append(items, logging.Item{Leaf: &r.leaves[i]})
		if h := r.heads[r.leaves[i].End()]; h != nil {
			items = append(items, logging.Item{Checkpoint: h})
		}
		if h := r.receipts[r.leaves[i].End()]; h != nil {
			items = append(items, logging.Item{Receipt: h})
		}
	}
	return items
}

func (r *rig) header() logging.Header {
	return logging.Header{SPKI: r.signer.SPKI(), Origin: r.origin}
}

func (r *rig) batch(start, end uint64) logging.Batch {
	return logging.Batch{SPKI: r.signer.SPKI(), Origin: r.origin, Start: start, Leaves: slices.Clone(r.leaves[start:end]), Checkpoint: r.heads[end]}
}

func seq(items []logging.Item) iter.Seq2[logging.Item, error] {
	return func(yield func(logging.Item, error) bool) {
		for _, it := range items {
			if !yield(it, nil) {
				return
			}
		}
	}
}

func verify(h logging.Header, items []logging.Item, want logging.Expect) (logging.Report, error) {
	return logging.Verify(context.Background(), h, seq(items), want)
}

func code(err error) string {
	if err == nil {
		return ""
	}
	if r, ok := errors.AsType[*logging.Refusal](err); ok && errors.Is(err, logging.ErrRefused) {
		return r.Code
	}
	return err.Error()
}

func wantCode(t testing.TB, err error, want string) {
	t.Helper()
	if got := code(err); got != want {
		t.Errorf("refusal %q, want %q (error: %v)", got, want, err)
	}
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOriginRoundTrip(t *testing.T) {
	o := logging.Origin{Device: "abcdefghijklmnopqrstuvwxyz", Epoch: 7}
	if got, err := logging.ParseOrigin(o.String()); err != nil || got != o {
		t.Fatalf("%v, %v", got, err)
	}
	for _, s := range []string{
		"", "backstay/audit/", "backstay/audit/abc/1", "backstay/audit/abcdefghijklmnopqrstuvwxyz/0", "backstay/audit/abcdefghijklmnopqrstuvwxyz/01",
		"backstay/audit/abcdefghijklmnopqrstuvwxyz/-1", "backstay/audit/abcdefghijklmnopqrstuvwxyz/+1", "backstay/audit/abcdefghijklmnopqrstuvwxyz/9223372036854775808",
		"backstay/audit/ABCDEFGHIJKLMNOPQRSTUVWXYZ/1", "backstay/audit/abcdefghijklmnopqrstuvwxy1/1", "other/abcdefghijklmnopqrstuvwxyz/1",
		"backstay/audit/abcdefghijklmnopqrstuvwxyz/1/2", "backstay/audit/abcdefghijklmnopqrstuvwxyz",
	} {
		if _, err := logging.ParseOrigin(s); code(err) != logging.CodeMalformed {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestDeviceIDIsTheHashOfTheKey(t *testing.T) {
	r := newRig(t)
	id, err := logging.DeviceID(r.signer.SPKI())
	if err != nil || id != r.signer.DeviceID() || len(id) != 26 {
		t.Fatalf("%q, %v", id, err)
	}
	for _, bad := range [][]byte{nil, []byte("key"), make([]byte, logging.MaxSPKI+1)} {
		if _, err := logging.DeviceID(bad); code(err) != logging.CodeMalformed {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}
