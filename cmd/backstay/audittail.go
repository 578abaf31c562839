// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging"
)

// tailing is what the command line says about which records to show.
type tailing struct {
	params control.TailParams
	n      int
	since  string
	follow bool
}

func (d *device) auditTail() *cli.Command {
	var t tailing
	return &cli.Command{
		Name: "tail", Short: "show the newest records, all or those that match",
		Flags: func(fs *flag.FlagSet) {
			fs.IntVar(&t.n, "n", 20, fmt.Sprintf("`number` of records, at most %d", control.MaxTail))
			fs.BoolVar(&t.follow, "follow", false, "go on showing records as they come, until interrupted; JSON gets one object per look")
			fs.StringVar(&t.params.Code, "code", "", "only codes that match the `pattern`: auth.*")
			fs.StringVar(&t.params.Severity, "severity", "", "only records of at least this `level`: info, low, medium, high, critical, fatal")
			fs.StringVar(&t.params.Source, "source", "", "only what this `source` saw: kaudit, login, intake ...")
			fs.StringVar(&t.since, "since", "", "only events since this `time`: 2h, 2026-11-25 or 2026-11-25T10:00:00Z")
		},
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			if t.n < 1 || t.n > control.MaxTail {
				return cli.Usagef("-n must be from 1 to %d", control.MaxTail)
			}
			var err error
			if t.params.Since, err = moment(t.since, time.Now()); err != nil {
				return err
			}
			return d.tail(ctx, env, t)
		},
	}
}

// moment reads a time, or how long ago it was.
func moment(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(s); err == nil && ago >= 0 {
		return now.Add(-ago).UTC(), nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(form, s); err == nil {
			return at, nil
		}
	}
	return time.Time{}, cli.Usagef("--since %q is neither a duration such as 2h nor a time such as 2026-11-25T10:00:00Z", s)
}

func (d *device) tail(ctx context.Context, env *cli.Env, t tailing) error {
	params := t.params
	params.Newest, params.Limit = true, t.n
	for first := true; ; first = false {
		r, err := ask[control.Tail](ctx, d, control.MethodAuditTail, params)
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if first || len(r.Items) > 0 {
			if err := printTail(env, r); err != nil {
				return err
			}
		}
		if !t.follow {
			return nil
		}
		if r.Next == 0 { // an older agent
			r.Next = r.Size
		}
		params.From, params.Newest, params.Limit = max(r.Next, params.From), false, control.MaxTail
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func printTail(env *cli.Env, r control.Tail) error {
	if env.JSON {
		return env.PrintJSON("backstay.audit-tail/1", r)
	}
	t := env.Table()
	for _, rec := range r.Items {
		text := rec.Message
		if rec.Shed {
			text = "body dropped for lack of space, hash kept"
		}
		index := fmt.Sprint(rec.Index)
		if rec.Last > rec.Index {
			index = fmt.Sprintf("%d-%d", rec.Index, rec.Last)
			text = fmt.Sprintf("bodies of %d records dropped for lack of space, one hash kept", rec.Last-rec.Index+1)
		}
		t.Row(index, when(rec.Time), or(rec.Severity, "-"), or(rec.Code, "-"), or(rec.Outcome, "-"), or(logging.ShortCommitment(rec.Subject), "-"), text)
	}
	return t.Flush()
}
