// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

func TestTailFilters(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	log, err := spool.Open(spool.Config{Dir: t.TempDir(), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	a := &agent{log: log}
	old := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 300 {
		e := logging.NewEvent("exec", slog.String("source", "exec"), slog.String("message", fmt.Sprint(i)))
		switch {
		case i%100 == 50:
			e = logging.NewEvent("auth.fail", slog.String("source", "login"), slog.String("subject", "eve"), slog.String("source_address", "192.0.2.1"))
		case i == 99:
			e = logging.NewEvent("auth.ok", slog.String("source", "login"), slog.Time("time", old))
		}
		if err := log.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		p    control.TailParams
		want []uint64
	}{
		"newest":             {control.TailParams{Newest: true, Limit: 2}, []uint64{299, 300}},
		"pattern":            {control.TailParams{Newest: true, Limit: 9, Code: "auth.*"}, []uint64{51, 100, 151, 251}},
		"newest two of them": {control.TailParams{Newest: true, Limit: 2, Code: "auth.*"}, []uint64{151, 251}},
		"severity":           {control.TailParams{Newest: true, Limit: 9, Severity: "medium"}, []uint64{51, 151, 251}},
		"source and time":    {control.TailParams{Newest: true, Limit: 9, Source: "login", Since: old.Add(time.Hour)}, []uint64{51, 151, 251}},
		"from, in steps":     {control.TailParams{From: 60, Limit: 2, Source: "login"}, []uint64{100, 151}},
		"nothing":            {control.TailParams{Newest: true, Limit: 9, Code: "update.*"}, nil},
	} {
		got, err := a.tail(t.Context(), tc.p)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var index []uint64
		for _, r := range got.Items {
			index = append(index, r.Index)
		}
		next := got.Size
		if name == "from, in steps" {
			next = 152
		}
		if !reflect.DeepEqual(index, tc.want) || got.Next != next {
			t.Errorf("%s: %v, next %d; want %v, next %d", name, index, got.Next, tc.want, next)
		}
	}
	got, err := a.tail(t.Context(), control.TailParams{Newest: true, Limit: 1, Code: "auth.fail"})
	if err != nil || got.Items[0].Subject != "eve" || sourceOf(got.Items[0]) != "login" || got.Items[0].Rule == "" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, p := range []control.TailParams{{Severity: "awful"}, {Code: "[a"}} {
		var e *control.Error
		if _, err := a.tail(t.Context(), p); !errors.As(err, &e) || e.Class != control.ClassUsage {
			t.Errorf("%+v: %v", p, err)
		}
	}
}
