// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"strconv"
	"strings"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/repo"
)

// rolloutFlags is what the commands that change a rollout take.
type rolloutFlags struct {
	repoFlags
	keep bool
}

func (f *rolloutFlags) register(fs *flag.FlagSet) {
	f.repoFlags.register(fs)
	fs.BoolVar(&f.keep, "no-publish", false, "sign the change and leave publishing for later")
}

// rolloutCommand decides which devices get which signed release.
func rolloutCommand() *cli.Command {
	return &cli.Command{
		Name: "rollout", Short: "decide which devices get which release",
		Sub: []*cli.Command{
			rolloutStartCommand(),
			rolloutEditCommand("pause", "keep more devices from starting a release", (*repo.Repo).PauseRollout),
			rolloutEditCommand("resume", "go on with a rollout that was paused", (*repo.Repo).ResumeRollout),
			rolloutEditCommand("stop", "end a rollout; devices that have the release keep it", (*repo.Repo).StopRollout),
			rolloutStatusCommand(),
		},
	}
}

func rolloutStartCommand() *cli.Command {
	var f rolloutFlags
	var ro repo.Rollout
	var devices list
	var cohort string
	var from, to, deadline date
	return &cli.Command{
		Name: "start", Args: "PRODUCT VERSION", Short: "roll a release out, or change whom its rollout reaches",
		Long: `The cohort is a range of percent of the fleet: --cohort 5 is the first 5 %, --cohort 5-20 the next 15 %. Which devices are in it
depends only on the release and the device, so widening a cohort keeps those that were in it.

The change is signed with the online assign key and published at once.`,
		Flags: func(fs *flag.FlagSet) {
			f.register(fs)
			fs.StringVar(&cohort, "cohort", "100", "percent of the fleet: `N or FROM-TO`")
			fs.Var(&devices, "device", "`id` of a device; only those named get it; may be repeated")
			fs.Var(&from, "not-before", "`time` at which the rollout begins")
			fs.Var(&to, "not-after", "`time` at which it ends")
			fs.Var(&deadline, "deadline", "`time` after which devices do not wait for windows and people any more; for security releases")
			fs.BoolVar(&ro.Downgrade, "downgrade", false, "replace newer versions on purpose; the security floor still holds")
		},
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			ro.Product, ro.Version, ro.Devices, ro.NotBefore, ro.NotAfter = args[0], args[1], devices, from.Time, to.Time
			ro.Deadline = deadline.Time
			var err error
			if ro.From, ro.To, err = parseCohort(cohort); err != nil {
				return err
			}
			return f.change(ctx, env, args[0], func(r *repo.Repo) error {
				_, err := r.StartRollout(ro)
				return err
			})
		},
	}
}

// parseCohort reads "5" or "5-20".
func parseCohort(s string) (from, to uint32, err error) {
	lo, hi, ranged := strings.Cut(s, "-")
	if !ranged {
		lo, hi = "0", s
	}
	a, err1 := strconv.ParseUint(lo, 10, 7)
	b, err2 := strconv.ParseUint(hi, 10, 7)
	if err1 != nil || err2 != nil || a >= b || b > 100 {
		return 0, 0, cli.Usagef("cohort %q is not a percentage from 1 to 100, or a range such as 5-20", s)
	}
	return uint32(a), uint32(b), nil
}

func rolloutEditCommand(verb, short string, edit func(r *repo.Repo, product, version string) (update.Assignment, error)) *cli.Command {
	var f rolloutFlags
	return &cli.Command{
		Name: verb, Args: "PRODUCT VERSION", Short: short, Flags: f.register,
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			return f.change(ctx, env, args[0], func(r *repo.Repo) error {
				_, err := edit(r, args[0], args[1])
				return err
			})
		},
	}
}

// change edits and publishes.
func (f *rolloutFlags) change(ctx context.Context, env *cli.Env, product string, edit func(*repo.Repo) error) error {
	r, err := f.open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := edit(r); err != nil {
		return f.explain(err)
	}
	if !f.keep {
		if _, err := r.Publish(ctx); err != nil {
			return f.explain(err)
		}
	}
	if err := printRollouts(env, &f.repoFlags, r, []string{product}); err != nil {
		return err
	}
	if f.keep && !env.JSON {
		fmt.Fprintf(env.Stderr, "next:  %s\n", f.line("repo publish"))
	}
	return nil
}

func rolloutStatusCommand() *cli.Command {
	var f repoFlags
	return &cli.Command{
		Name: "status", Args: "[PRODUCT]", Short: "show the rollouts, the deciding one first", Flags: f.register,
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			if len(args) == 0 {
				if args, err = r.Products(); err != nil {
					return f.explain(err)
				}
			}
			return printRollouts(env, &f, r, args)
		},
	}
}

func printRollouts(env *cli.Env, f *repoFlags, r *repo.Repo, products []string) error {
	type row struct {
		Product  string            `json:"product"`
		Serial   uint64            `json:"serial"`
		Rollouts []update.Assigned `json:"rollouts"`
	}
	rows := []row{}
	for _, p := range products {
		a, err := r.Rollouts(p)
		if err != nil {
			return f.explain(err)
		}
		rows = append(rows, row{p, a.Serial, append([]update.Assigned{}, a.Entries...)})
	}
	if env.JSON {
		return env.PrintJSON("backstayctl.rollout.status/1", struct {
			Products []row `json:"products"`
		}{rows})
	}
	t := env.Table("product", "release", "counter", "rollout")
	for _, p := range rows {
		for _, e := range p.Rollouts {
			version := strings.TrimSuffix(e.Path[strings.LastIndex(e.Path, "/")+1:], ".img")
			t.Row(p.Product, version, e.Counter, describeRollout(e))
		}
		if len(p.Rollouts) == 0 {
			t.Row(p.Product, "-", "-", "nothing is rolled out")
		}
	}
	return t.Flush()
}
