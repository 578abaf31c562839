// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
)

// forgetting says which personal values go.
type forgetting struct {
	store, device, field, value, before string
	all                                 bool
	until                               time.Time
}

func auditForgetCommand() *cli.Command {
	var f forgetting
	return &cli.Command{
		Name: "forget", Short: "delete personal values from a store; every record and every proof stays",
		Long: `Records hold commitments to user names, addresses and other personal values; the values stand beside them. This deletes
values, and rewrites the file of the store so that they are in no page of it. What is left proves as much as before.

The collector must not be running. Copies that were exported, and messages kept as evidence of an alarm, are not changed.`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&f.store, "store", "", "`directory` of a collector's store")
			fs.StringVar(&f.device, "device", "", "only records of the device with this `id`")
			fs.StringVar(&f.field, "field", "", "only values of this `name`: subject, source_address ...")
			fs.StringVar(&f.value, "value", "", "only this `value`, such as a user name")
			fs.StringVar(&f.before, "before", "", "only records of events before this `time`, RFC 3339 or a day")
			fs.BoolVar(&f.all, "all", false, "every personal value, when none of the above limits it")
		},
		Run: func(ctx context.Context, env *cli.Env, _ []string) error { return f.run(ctx, env) },
	}
}

func (f *forgetting) run(ctx context.Context, env *cli.Env) error {
	limited := f.device != "" || f.field != "" || f.value != "" || f.before != ""
	if f.store == "" || f.all == limited {
		return cli.Usagef("give --store, and either what to forget or --all")
	}
	if f.before != "" {
		var err error
		if f.until, err = time.Parse(time.RFC3339, f.before); err != nil {
			if f.until, err = time.Parse(time.DateOnly, f.before); err != nil {
				return cli.Usagef("--before %q is neither a time such as 2026-11-25T10:00:00Z nor a day such as 2026-11-25", f.before)
			}
		}
	}
	n, err := f.forget(ctx)
	if err != nil {
		return f.explain(err)
	}
	if err := collect.Rewrite(f.store); err != nil {
		return f.explain(err)
	}
	if env.JSON {
		return env.PrintJSON("backstayctl.audit.forget/1", map[string]int{"values": n})
	}
	_, err = fmt.Fprintf(env.Stdout, "forgot %d values\n", n)
	return err
}

func (f *forgetting) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &cli.Error{Exit: cli.ExitNotReady, Code: "no-store", What: "there is no store in " + f.store, Next: "give --store the directory that serve has as --collector", Err: err}
	case errors.Is(err, logging.ErrRetry):
		return &cli.Error{Exit: cli.ExitRetry, Code: "store-busy", What: "the collector is running and holds the store", Next: "stop it, forget, and start it again", Err: err}
	case errors.Is(err, collect.ErrUnknown):
		return &cli.Error{Exit: cli.ExitNotReady, Code: "unknown-device", What: "nothing is stored of device " + f.device,
			Next: "backstayctl device list --store " + f.store, Err: err}
	}
	return err
}

func (f *forgetting) forget(ctx context.Context) (n int, err error) {
	// Opened for reading first: a store that is not there must not be made.
	probe, err := collect.OpenReadOnly(f.store)
	if err != nil {
		return 0, err
	}
	e := evidence{store: f.store, device: f.device}
	origins, err := e.origins(ctx, probe)
	if err := errors.Join(err, probe.Close()); err != nil {
		return 0, err
	}
	s, err := collect.Open(f.store)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for _, o := range origins {
		k, err := s.Forget(ctx, o, f.match)
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (f *forgetting) match(l logging.Leaf, p logging.Personal) bool {
	if f.field != "" && p.Field != f.field || f.value != "" && p.Value != f.value {
		return false
	}
	if f.until.IsZero() {
		return true
	}
	// What cannot be read has no time; it goes with the rest rather than stay for ever.
	r, err := logging.DecodeLeaf(l.Body)
	return err != nil || r.Time.Before(f.until)
}
