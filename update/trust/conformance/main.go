// SPDX-License-Identifier: Apache-2.0

// Command conformance is the client that the public TUF conformance suite
// (theupdateframework/tuf-conformance) drives. It is package trust with a
// directory for a store and a command line around it; the verification is the
// device's own. `make conformance` runs the suite.
//
// Two things are here because the suite needs them and nowhere else: the time
// comes from date(1), which the suite fakes, and [trust.Config].Interop lets in
// repositories of other makers.
//
//	conformance --metadata-dir DIR init ROOT
//	conformance --metadata-dir DIR --metadata-url URL refresh
//	conformance --metadata-dir DIR --metadata-url URL --target-name T ... --target-base-url URL --target-dir DIR download
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/update/trust"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

type options struct {
	metadataDir, metadataURL, targetURL, targetDir string
	names                                          []string
}

func run(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("conformance", flag.ContinueOnError)
	f.StringVar(&o.metadataDir, "metadata-dir", "", "directory of trusted metadata")
	f.StringVar(&o.metadataURL, "metadata-url", "", "where metadata is served")
	f.StringVar(&o.targetURL, "target-base-url", "", "where targets are served")
	f.StringVar(&o.targetDir, "target-dir", "", "directory of downloaded targets")
	f.Func("target-name", "a target to download; may be repeated", func(s string) error {
		o.names = append(o.names, s)
		return nil
	})
	if err := f.Parse(args); err != nil {
		return err
	}
	switch f.Arg(0) {
	case "init":
		return initialize(o, f.Arg(1))
	case "refresh":
		_, _, err := refresh(ctx, o)
		return err
	case "download":
		return download(ctx, o)
	}
	return fmt.Errorf("unknown command %q", f.Arg(0))
}

func initialize(o options, root string) error {
	raw, err := os.ReadFile(root)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.metadataDir, factoryFile), raw, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.metadataDir, "root.json"), raw, 0o644)
}

func refresh(ctx context.Context, o options) (*trust.Client, *trust.Trusted, error) {
	factory, err := os.ReadFile(filepath.Join(o.metadataDir, factoryFile))
	if err != nil {
		return nil, nil, err
	}
	now, err := date()
	if err != nil {
		return nil, nil, err
	}
	targets := o.targetURL
	if targets == "" {
		targets = o.metadataURL
	}
	c, err := trust.New(trust.Config{
		FactoryRoot: factory, MetadataURL: o.metadataURL, TargetsURL: targets,
		Store: dirStore{o.metadataDir}, Now: func() time.Time { return now }, Interop: true,
		// The suite publishes some hundred versions and roles of other makers' sizes.
		Limits: trust.Limits{Snapshot: 2_000_000, Role: 5_000_000, RootChain: 5_000_000, Cache: 20_000_000},
	})
	if err != nil {
		return nil, nil, err
	}
	t, err := c.Refresh(ctx)
	return c, t, err
}

// date asks date(1): libfaketime reaches it, but not a static Go program.
func date() (time.Time, error) {
	out, err := exec.Command("date", "+%s").Output()
	if err != nil {
		return time.Time{}, fmt.Errorf("ask date(1): %w", err)
	}
	s, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	return time.Unix(s, 0), err
}

func download(ctx context.Context, o options) error {
	c, t, err := refresh(ctx, o)
	if err != nil {
		return err
	}
	for _, name := range o.names {
		info, err := t.Target(ctx, name)
		if err != nil {
			return err
		}
		if err := save(ctx, c, info, filepath.Join(o.targetDir, url.PathEscape(name))); err != nil {
			return err
		}
	}
	return nil
}

// save downloads a target unless the file is already the signed one.
func save(ctx context.Context, c *trust.Client, info trust.TargetInfo, path string) error {
	if have, err := os.ReadFile(path); err == nil && int64(len(have)) == info.Length && sha256.Sum256(have) == info.SHA256 {
		return nil
	}
	r, err := c.Open(ctx, info, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	part := path + ".part"
	defer os.Remove(part)
	w, err := os.Create(part)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}
