// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"strings"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging/client"
)

// pairs collects repeated --attr flags.
type pairs map[string]any

func (p pairs) String() string { return "" }

func (p pairs) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return errors.New("want name=value")
	}
	if _, twice := p[name]; twice {
		return errors.New(name + " is given twice")
	}
	p[name] = value
	return nil
}

func (d *device) auditWrite() *cli.Command {
	e := client.Event{Attrs: pairs{}}
	var to string
	return &cli.Command{
		Name: "write", Args: "CODE [MESSAGE...]", Short: "write an event of one of the product's own programs",
		Long: `The event is recorded as app.CODE, with the user, process and program that wrote it as the kernel names them. For a
program that stays, the socket is faster than this command: docs/audit-api.md.`,
		Flags: func(fs *flag.FlagSet) {
			fs.Var(pairs(e.Attrs), "attr", "`name=value` to record with it; may be repeated")
			fs.StringVar(&e.Severity, "severity", "", "`level`: info, low, medium, high, critical or fatal; info if not given")
			fs.StringVar(&e.Outcome, "outcome", "", "`word`: success or failure")
			fs.StringVar(&e.Session, "session", "", "`name` that ties the events of one login or job together")
			fs.BoolVar(&e.Durable, "durable", false, "return when a power cut cannot lose it any more; costs a write to flash")
			fs.StringVar(&to, "to", "", "intake socket `path`, instead of the one in the configuration")
		},
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			e.Code, e.Message = args[0], strings.Join(args[1:], " ")
			path, err := d.intakeSocket(to)
			if err != nil {
				return err
			}
			log := client.New(path)
			defer log.Close() //nolint:errcheck // the event was answered
			if err := log.Write(ctx, e); err != nil {
				return writeError(path, err)
			}
			what := "wrote app." + strings.TrimPrefix(e.Code, "app.")
			if e.Durable {
				what += ", it is durable"
			}
			return printDone(env, control.Done{What: what})
		},
	}
}

// intakeSocket is where to write. A program that may write need not be able to read the configuration.
func (d *device) intakeSocket(to string) (string, error) {
	if to != "" {
		return to, nil
	}
	cfg, err := d.load()
	switch {
	case err == nil && cfg.Audit.Intake.Socket == "":
		return "", &cli.Error{Exit: cli.ExitNotReady, Code: "intake-off", What: "programs cannot write into the log",
			Why: "audit.intake.socket is empty", Next: "backstay config explain audit.intake"}
	case err == nil:
		return cfg.Audit.Intake.Socket, nil
	case d.configFile != config.DefaultFile:
		return "", err
	}
	return client.DefaultSocket, nil
}

func writeError(path string, err error) error {
	e := &cli.Error{Exit: cli.ExitFailed, What: "the event was not recorded", Why: err.Error(), Err: err}
	var r *client.Refused
	switch {
	case client.NotRunning(err):
		e.Exit, e.Code, e.Why, e.Next = cli.ExitNotReady, "not-running", "nobody listens on "+path, "start the agent, or name its socket with --to"
	case errors.Is(err, os.ErrPermission):
		e.Exit, e.Code, e.Next = cli.ExitRefused, "not-allowed", "add this user id to audit.intake.allow_uids"
	case errors.As(err, &r):
		e.Code, e.Why = r.Code, r.Why
		switch {
		case r.Temporary():
			e.Exit, e.Next = cli.ExitRetry, "try again later"
		case r.Code == "not-allowed":
			e.Exit, e.Next = cli.ExitRefused, "add this user id to audit.intake.allow_uids"
		case r.Code == "malformed":
			e.Exit, e.Next = cli.ExitUsage, "backstay audit write --help"
		}
	}
	return e
}
