// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

func (d *device) updateCommand() *cli.Command {
	return &cli.Command{
		Name: "update", Short: "look for, install, and review firmware updates",
		Sub: []*cli.Command{d.updateCheck(), d.updateInstall(), d.updateStatus(), d.updateApprove(), d.updateReject(), d.updatePostpone(),
			d.updateHistory(), d.updateCancel(), d.updatePardon()},
	}
}

func (d *device) updateCheck() *cli.Command {
	return &cli.Command{
		Name: "check", Short: "ask the repository now whether there is a release for this device; install nothing",
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			r, err := ask[control.UpdateCheck](ctx, d, control.MethodUpdateCheck, nil)
			if err != nil {
				return err
			}
			return printCheck(env, r)
		},
	}
}

func printCheck(env *cli.Env, r control.UpdateCheck) error {
	if env.JSON {
		return env.PrintJSON("backstay.update-check/1", r)
	}
	t := env.Table()
	t.Row("running", or(r.Current, "unknown"))
	if r.Release == nil {
		t.Row("newest", "the same: nothing to install")
		return t.Flush()
	}
	t.Row("newest", r.Release.Version, fmt.Sprintf("release %d", r.Release.Counter), or(r.Release.Class, "-"), cli.Bytes(r.Release.Length))
	for _, a := range r.Release.Advisories {
		t.Row("fixes", a)
	}
	for line := range strings.Lines(r.Release.Notes) {
		t.Row("notes", strings.TrimSpace(line))
	}
	if !r.Started {
		t.Row("next:", "backstay update install")
	}
	return t.Flush()
}

func (d *device) updateInstall() *cli.Command {
	var noWait bool
	var from string
	return &cli.Command{
		Name: "install", Short: "install the newest release for this device now",
		Long: `Does not wait for maintenance windows, postponement or consent; what the maker set as conditions, such as a charged
battery, holds all the same, and the command ends with code 7 when one does not.

With --from the release and everything that vouches for it come from a directory, such as a stick made by backstayctl repo
snapshot: nothing is asked over the network, and every check is the same. What is older than this device knows is refused.

Waits until the image is written and proven and the boot loader is told to try it; then the device reboots and the
command ends with code 4. Breaking the command off does not break the update off: that is ` + "`backstay update cancel`.",
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&from, "from", "", "`directory` with a copy of the repository, instead of the servers")
			fs.BoolVar(&noWait, "no-wait", false, "return as soon as the update has begun")
		},
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			params := control.InstallParams{}
			if from != "" {
				path, err := filepath.Abs(from) // the agent runs elsewhere
				if err != nil {
					return err
				}
				params.From = path
			}
			r, err := ask[control.UpdateCheck](ctx, d, control.MethodUpdateInstall, params)
			if err != nil {
				return err
			}
			if !r.Started || noWait {
				return printCheck(env, r)
			}
			return (&follower{d: d, env: env, release: r.Release}).follow(ctx)
		},
	}
}

// How often the agent is asked while an update runs, and how long an update that was started may still look idle.
const (
	followEvery = 250 * time.Millisecond
	followGrace = 5 * time.Second
)

// follower shows an update as it goes on and turns its end into the command's.
type follower struct {
	d        *device
	env      *cli.Env
	release  *control.Release
	bar      *cli.Progress
	seen     bool // the update left idle
	armed    bool // it reached the boot loader
	lastSlot string
}

func (f *follower) follow(ctx context.Context) error {
	began := time.Now()
	for {
		s, err := ask[control.Status](ctx, f.d, control.MethodStatus, nil)
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil && f.armed && errors.Is(err, control.ErrNotRunning):
			return f.rebooting()
		case err != nil:
			return err
		}
		done, err := f.step(s.Update, time.Since(began))
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followEvery):
		}
	}
}

// step looks at one state of the update.
func (f *follower) step(u control.Update, since time.Duration) (done bool, err error) {
	if u.Slot != "" {
		f.lastSlot = u.Slot
	}
	if u.Waiting != nil && u.Last != nil {
		return true, u.Last
	}
	switch u.State {
	case "idle":
		if !f.seen && since < followGrace {
			return false, nil
		}
		if u.Last != nil {
			return true, u.Last
		}
		return true, f.print("release " + f.version() + " is installed")
	case "downloading":
		f.seen = true
		if u.Release != nil && f.bar == nil {
			f.bar = f.env.Progress("download "+u.Release.Version, u.Release.Length)
		}
		if f.bar != nil {
			f.bar.Set(u.Bytes)
		}
		return false, nil
	case "arming", "rebooting":
		f.seen, f.armed = true, true
		if f.bar != nil && u.Release != nil {
			f.bar.Done(u.Release.Length)
			f.bar = nil
		}
		if u.State == "rebooting" {
			return true, f.rebooting()
		}
		return false, nil
	}
	f.seen = true
	return false, nil
}

func (f *follower) version() string {
	if f.release == nil {
		return "requested"
	}
	return f.release.Version
}

func (f *follower) rebooting() error {
	return cli.Reboot(fmt.Sprintf("release %s is in slot %s, and the device reboots to try it", f.version(), or(f.lastSlot, "-")),
		"after the reboot: backstay status")
}

func (f *follower) print(what string) error { return printDone(f.env, control.Done{What: what}) }

func (d *device) updateHistory() *cli.Command {
	return &cli.Command{
		Name: "history", Short: "show how earlier updates ended, and which releases are left alone after failing here",
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			h, err := ask[control.History](ctx, d, control.MethodUpdateHistory, nil)
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstay.update-history/1", h)
			}
			if len(h.Items) == 0 {
				fmt.Fprintln(env.Stdout, "no update yet")
				return nil
			}
			t := env.Table("ended", "version", "slot", "result", "reason")
			for _, o := range h.Items {
				t.Row(when(o.Ended), o.Version, or(o.Slot, "-"), o.Result, reason(o.Code, o.Why))
			}
			if err := t.Flush(); err != nil || len(h.Quarantine) == 0 {
				return err
			}
			fmt.Fprintln(env.Stdout)
			t = env.Table("left alone", "failures", "until", "reason")
			for _, q := range h.Quarantine {
				until := when(q.NotBefore)
				if q.Never {
					until = "for good"
				}
				t.Row(q.Version, q.Attempts, until, q.Why)
			}
			return t.Flush()
		},
	}
}

func reason(code, why string) string {
	if code != "" && why != "" {
		return code + ": " + why
	}
	return code + why
}

func (d *device) updateCancel() *cli.Command {
	return &cli.Command{
		Name: "cancel", Short: "give up the update in progress, as long as it has not begun to install, or waits",
		Run: d.do(control.MethodUpdateCancel),
	}
}

func (d *device) updatePardon() *cli.Command {
	return &cli.Command{
		Name: "pardon", Short: "let releases in quarantine be tried again",
		Long: "A release that failed is not tried again for a time, in the end never. This is for a person who has removed the cause.",
		Run:  d.do(control.MethodUpdatePardon),
	}
}

// do is a command that asks the agent to do one thing and says what was done; exit code 4 when a reboot goes with it.
func (d *device) do(method string) func(context.Context, *cli.Env, []string) error {
	return func(ctx context.Context, env *cli.Env, _ []string) error {
		r, err := ask[control.Done](ctx, d, method, nil)
		if err != nil {
			return err
		}
		if r.Reboot {
			return cli.Reboot(r.What, "after the reboot: backstay status")
		}
		return printDone(env, r)
	}
}

func printDone(env *cli.Env, r control.Done) error {
	if env.JSON {
		return env.PrintJSON("backstay.done/1", r)
	}
	t := env.Table()
	t.Row(r.What)
	return t.Flush()
}
