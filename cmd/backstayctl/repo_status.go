// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/repo"
)

func repoPublishCommand() *cli.Command {
	var f repoFlags
	return &cli.Command{
		Name: "publish", Short: "sign snapshot and timestamp and write the tree that a file server serves",
		Long: `A device is tried against the result first; what it would refuse is not published. Run it again before the time it prints, or let
serve do it: devices refuse updates once the timestamp has expired.`,
		Flags: f.register,
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			p, err := r.Publish(ctx)
			if err != nil {
				return f.explain(err)
			}
			if env.JSON {
				return env.PrintJSON("backstayctl.repo.publish/1", p)
			}
			return printPublished(env, p)
		},
	}
}

func printPublished(env *cli.Env, p repo.Published) error {
	t := env.Table()
	state := "published"
	if !p.Changed {
		state = "unchanged"
	}
	t.Row(state, p.Dir)
	t.Row("versions", fmt.Sprintf("root %d, targets %d, snapshot %d, timestamp %d", p.Root, p.Targets, p.Snapshot, p.Timestamp))
	t.Row("refresh", "by "+day(p.Next), "expires "+day(p.Expires))
	return t.Flush()
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04Z") }

func repoVerifyCommand() *cli.Command {
	var f repoFlags
	return &cli.Command{
		Name: "verify", Short: "read everything again and check every signature, digest and published file",
		Flags: f.register,
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			rep, err := r.Verify(ctx)
			if err != nil {
				return f.explain(err)
			}
			if env.JSON {
				if err := env.PrintJSON("backstayctl.repo.verify/1", rep); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(env.Stdout, "checked %d documents, %d images, %d published files\n", rep.Documents, rep.Images, rep.Files)
				for _, p := range rep.Problems {
					fmt.Fprintf(env.Stdout, "problem: %s\n", p)
				}
			}
			if n := len(rep.Problems); n > 0 {
				return cli.Findings(plural(n, "problem", "problems"), f.line("repo status"))
			}
			return nil
		},
	}
}

func repoStatusCommand() *cli.Command {
	var f repoFlags
	return &cli.Command{
		Name: "status", Short: "show roles, expiry, signatures that are missing, releases and rollouts",
		Flags: f.register,
		Run: func(_ context.Context, env *cli.Env, _ []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			return printStatus(env, &f, r)
		},
	}
}

func printStatus(env *cli.Env, f *repoFlags, r *repo.Repo) error {
	s, err := r.Status()
	if err != nil {
		return f.explain(err)
	}
	if env.JSON {
		return env.PrintJSON("backstayctl.repo.status/1", s)
	}
	t := env.Table("role", "version", "state", "expires", "sign by", "keys", "here", "size")
	for _, x := range s.Roles {
		expires, due := "-", "-"
		if x.Version > 0 {
			expires, due = day(x.Expires), day(x.Due)
		}
		t.Row(x.Role, x.Version, x.State, expires, due, fmt.Sprintf("%d of %d", x.Threshold, x.Keys), x.Here,
			fmt.Sprintf("%d %%", (x.Size*100+x.Limit-1)/x.Limit))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(s.Products) > 0 {
		fmt.Fprintln(env.Stdout)
		if err := printProducts(env, s.Products); err != nil {
			return err
		}
	}
	fmt.Fprintln(env.Stdout)
	if s.Published == nil {
		fmt.Fprintln(env.Stdout, "nothing is published")
	} else {
		fmt.Fprintf(env.Stdout, "published timestamp %d in %s, expires %s\n", s.Published.Timestamp, s.Published.Dir, day(s.Published.Expires))
	}
	for _, p := range s.Problems {
		fmt.Fprintf(env.Stdout, "problem: %s\n", p)
	}
	return nil
}

func printProducts(env *cli.Env, products []repo.ProductStatus) error {
	t := env.Table("product", "release", "counter", "floor", "class", "state", "image", "smallest", "rollout")
	for _, p := range products {
		rollouts := map[string]update.Assigned{}
		for _, e := range p.Rollouts {
			rollouts[e.Path] = e
		}
		for _, r := range p.Releases {
			state, rollout := "signed", "-"
			if r.Staged {
				state = "staged"
			}
			if e, ok := rollouts[r.Path]; ok {
				rollout = describeRollout(e)
			}
			t.Row(p.Product, r.Version, r.Counter, r.Floor, r.Class, state, r.Length, smallest(r), rollout)
		}
		if len(p.Releases) == 0 {
			t.Row(p.Product, "-", "-", "-", "-", "-", "-", "-", "-")
		}
	}
	return t.Flush()
}

// smallest is how many bytes a device needs at best.
func smallest(r repo.Release) int64 {
	n := r.Length
	for _, p := range r.Payloads {
		n = min(n, p.Length)
	}
	return n
}

// describeRollout says in one cell whom a rollout reaches.
func describeRollout(e update.Assigned) string {
	parts := []string{"everybody"}
	if e.From != 0 || e.To != 100 {
		parts[0] = strconv.Itoa(int(e.From)) + "-" + strconv.Itoa(int(e.To)) + " %"
	}
	if len(e.Devices) > 0 {
		parts = append(parts, plural(len(e.Devices), "named device", "named devices"))
	}
	if !e.NotBefore.IsZero() {
		parts = append(parts, "from "+day(e.NotBefore))
	}
	if !e.NotAfter.IsZero() {
		parts = append(parts, "until "+day(e.NotAfter))
	}
	if e.Downgrade {
		parts = append(parts, "downgrade")
	}
	if e.Paused {
		parts = append(parts, "paused")
	}
	if !e.Deadline.IsZero() {
		parts = append(parts, "deadline "+e.Deadline.UTC().Format("2006-01-02 15:04Z"))
	}
	return strings.Join(parts, ", ")
}
