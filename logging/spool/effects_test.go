// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// TestEveryEffectFails lets each durable effect fail in turn, with and without having happened, while the process lives on.
// Nothing is lost and nothing is there twice.
func TestEveryEffectFails(t *testing.T) { eachStoreNative(t, testEveryEffectFails) }

func testEveryEffectFails(t *testing.T) {
	broken := errors.New("input/output error")
	for n := 0; ; n++ {
		hit := false
		for _, applied := range []bool{false, true} {
			b := newBench(t)
			count := 0
			l, err := spool.OpenWithFuse(b.cfg, func(e spool.Effect) (bool, error) {
				if count++; count == n+1 {
					hit = true
					return applied, broken
				}
				return true, nil
			})
			if err != nil { // the first start failed: the next one works
				if !errors.Is(err, broken) {
					t.Fatal(err)
				}
				if l, err = spool.Open(b.cfg); err != nil {
					t.Fatalf("effect %d, applied %v: %v", n, applied, err)
				}
			}
			c := b.collector()
			for i := range 3 {
				l.Append(t.Context(), critical(i))
				if r := c.take(l); r != nil {
					l.Receipt(t.Context(), r)
				}
				l.Prune(t.Context(), l.State().Acked)
			}
			if err := l.Flush(t.Context()); err != nil {
				t.Errorf("effect %d, applied %v: flush: %v", n, applied, err)
			}
			c.take(l)
			var got []string
			for _, leaf := range c.leaves[l.State().Origin] {
				if r, err := logging.DecodeLeaf(leaf.Body); err == nil && r.Code == "update.installed" {
					got = append(got, r.Message)
				}
			}
			if want := "installed release 1.0.0,installed release 1.0.1,installed release 1.0.2"; strings.Join(got, ",") != want {
				t.Errorf("effect %d, applied %v: the consumer has %q", n, applied, got)
			}
			l.Close()
		}
		if !hit {
			t.Logf("%d durable effects failed, each in two ways", n)
			return
		}
	}
}
