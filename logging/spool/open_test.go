// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

func TestOneProcessAtATime(t *testing.T) {
	eachStore(t, func(t *testing.T) {
		b := newBench(t)
		b.open()
		if _, err := spool.Open(b.cfg); !errors.Is(err, logging.ErrRetry) {
			t.Errorf("second Open: %v", err)
		}
	})
}

func TestOpenErrors(t *testing.T) {
	b := newBench(t)
	l := b.open()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, fn := range map[string]func(*spool.Config){
		"capacity too small": func(c *spool.Config) { c.Capacity = 1 }, "capacity too large": func(c *spool.Config) { c.Capacity = 1 << 40 },
		"directory is a file": func(c *spool.Config) { c.Dir = filepath.Join(c.Dir, "audit.db") },
	} {
		cfg := b.cfg
		fn(&cfg)
		if _, err := spool.Open(cfg); !errors.Is(err, logging.ErrSetup) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What bbolt says on JFFS2.
	err := spool.OpenError("audit.db", &os.PathError{Op: "mmap", Path: "audit.db", Err: syscall.EINVAL})
	if !errors.Is(err, logging.ErrSetup) || !strings.Contains(err.Error(), "JFFS2") {
		t.Errorf("invalid argument: %v", err)
	}
}

func TestClosed(t *testing.T) { eachStore(t, testClosed) }

func testClosed(t *testing.T) {
	b := newBench(t)
	l := b.open()
	if err := l.Append(t.Context(), ordinary(1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, batchErr := l.Batch(ctx, 0)
	_, verifyErr := l.Verify(ctx)
	for i, err := range []error{l.Append(ctx, ordinary(2)), l.Flush(ctx), l.Prune(ctx, 0), l.Receipt(ctx, nil), batchErr, verifyErr, l.Export(ctx, io.Discard)} {
		if !errors.Is(err, spool.ErrClosed) {
			t.Errorf("call %d after Close: %v", i, err)
		}
	}
	if s := b.open().State(); s.Size != 2 {
		t.Errorf("Close did not write what was pending: %+v", s)
	}
}

func TestCancelledContext(t *testing.T) { eachStore(t, testCancelledContext) }

func testCancelledContext(t *testing.T) {
	l := newBench(t).open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, batchErr := l.Batch(ctx, 0)
	_, verifyErr := l.Verify(ctx)
	for i, err := range []error{l.Append(ctx, ordinary(2)), l.Flush(ctx), l.Prune(ctx, 0), l.Receipt(ctx, nil), batchErr, verifyErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("call %d: %v", i, err)
		}
	}
}
