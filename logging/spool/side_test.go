// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/backstay/backstay/logging"
)

// Personal values stay with their record until it is pruned, and a collector gets them with it.
func TestPersonalValuesStayWithTheRecord(t *testing.T) {
	eachStore(t, func(t *testing.T) {
		b := newBench(t)
		l := b.open()
		fillLog(t, l, 20)
		l = b.reopen(l)
		fillLog(t, l, 20)
		leaf := leafAt(t, l, 7)
		r, err := leaf.Decode()
		if err != nil || r.Subject != "root" || bytes.Contains(leaf.Body, []byte(`"root"`)) {
			t.Errorf("record %s, side %s, %v", leaf.Body, leaf.Side, err)
		}
		rep, err := l.Verify(t.Context())
		if err != nil || rep.Personal != 40 {
			t.Errorf("%+v, %v", rep, err)
		}
		batch, err := l.Batch(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, leaf := range batch.Leaves {
			if leaf.Side == nil {
				t.Fatalf("record %d is sent without its personal values", leaf.Index)
			}
		}
		if err := l.Receipt(t.Context(), b.collector().take(l)); err != nil {
			t.Fatal(err)
		}
	})
}

// TestChangedPersonalValueIsFoundAndNotSent changes a value on flash: the log goes on, Verify names the record, and no
// collector gets the value.
func TestChangedPersonalValueIsFoundAndNotSent(t *testing.T) {
	b := newBench(t)
	l := b.open()
	fillLog(t, l, 20)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range b.files() {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Replace(data, []byte(`"value":"root"`), []byte(`"value":"toor"`), 1)
		if bytes.Equal(changed, data) {
			t.Fatal("no personal value in the file")
		}
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l = b.open()
	if s := l.State(); s.Origin.Epoch != 1 {
		t.Errorf("a changed value began epoch %d", s.Origin.Epoch)
	}
	rep, err := l.Verify(t.Context())
	var r *logging.Refusal
	if !errors.As(err, &r) || r.Code != logging.CodeSideMismatch || rep.Bad == nil {
		t.Fatalf("verify: %v", err)
	}
	batch, err := l.Batch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range batch.Leaves {
		if strings.Contains(string(leaf.Side), "toor") || leaf.Index == rep.Bad.First && leaf.Side != nil {
			t.Errorf("record %d is sent with %s", leaf.Index, leaf.Side)
		}
		if leaf.Index != rep.Bad.First && leaf.Index > 0 && leaf.Side == nil {
			t.Errorf("record %d lost its values", leaf.Index)
		}
	}
}
