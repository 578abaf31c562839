// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/repo"
)

// policyFlags name the floor an operator's policy is laid over: what the devices have in their image.
type policyFlags struct {
	profiles list
	floor    string
}

func (f *policyFlags) register(fs *flag.FlagSet) {
	fs.Var(&f.profiles, "profile", "built-in `profile` the devices have (baseline.profiles); may be repeated; base if not given")
	fs.StringVar(&f.floor, "floor", "", "`file` with the maker's own policy (baseline.floor_file)")
}

// base composes the floor.
func (f *policyFlags) base() (configs.Policy, error) {
	profiles := []string(f.profiles)
	if len(profiles) == 0 {
		profiles = []string{"base"}
	}
	if f.floor == "" {
		return configs.Load(profiles...)
	}
	data, err := os.ReadFile(f.floor)
	if err != nil {
		return configs.Policy{}, err
	}
	return configs.LoadFloor(data, profiles...)
}

// operatorPolicy is a policy as written, and what it makes of a floor.
type operatorPolicy struct {
	raw    []byte
	own    configs.Policy
	merged configs.Policy
}

func (p operatorPolicy) accepted() configs.Accepted {
	return configs.Accepted{Serial: p.own.Serial, SHA256: sha256.Sum256(p.raw)}
}

func layOver(floor configs.Policy, raw []byte) (p operatorPolicy, err error) {
	p.raw = raw
	if p.own, err = configs.ParsePolicy(raw); err != nil {
		return p, err
	}
	p.merged, err = configs.Merge(floor, p.own)
	return p, err
}

func readPolicy(floor configs.Policy, name string) (operatorPolicy, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return operatorPolicy{}, err
	}
	return layOver(floor, raw)
}

func policyCommand() *cli.Command {
	return &cli.Command{
		Name: "policy", Short: "check, compare and publish the configuration policy of a fleet",
		Sub: []*cli.Command{policyLintCommand(), policyDiffCommand(), policyPublishCommand()},
	}
}

func policyLintCommand() *cli.Command {
	var f policyFlags
	return &cli.Command{
		Name: "lint", Args: "FILE", Short: "say everything that is wrong with a policy, as a device would refuse it",
		Flags: f.register,
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			floor, err := f.base()
			if err != nil {
				return err
			}
			p, err := readPolicy(floor, args[0])
			if err == nil {
				err = configs.CheckFresh(p.own, time.Now())
			}
			if err != nil {
				return err
			}
			out := struct {
				ID      string `json:"id"`
				Serial  uint64 `json:"serial"`
				Floor   string `json:"floor"`
				Rules   int    `json:"rules"`
				Adjusts int    `json:"adjusts"`
				Waivers int    `json:"waivers"`
			}{p.own.ID, p.own.Serial, floor.ID, len(p.own.Rules), len(p.own.Adjust), len(p.own.Waivers)}
			if env.JSON {
				return env.PrintJSON("backstayctl.policy.lint/1", out)
			}
			fmt.Fprintf(env.Stdout, "%s serial %d over %s: %d rules of its own, %d adjusted, %d waived\n",
				out.ID, out.Serial, out.Floor, out.Rules, out.Adjusts, out.Waivers)
			return nil
		},
	}
}

func policyDiffCommand() *cli.Command {
	var f policyFlags
	return &cli.Command{
		Name: "diff", Args: "NEW [OLD]", Short: "show what a new policy changes on the devices, and what could go wrong",
		Long: `Compares what the two files make of the floor; without OLD, the floor alone is what was before. The column risk says

  exposes   a protection gets weaker or ends: a waiver, a looser setting, a rule that is gone
  lock-out  a repair that could cut somebody off is made by devices themselves from now on
  changes   devices repair what they only reported before
  reports   devices report something they did not report before

Ends with code 6 when something exposes.`,
		Flags: f.register,
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			floor, err := f.base()
			if err != nil {
				return err
			}
			old := operatorPolicy{merged: floor}
			if len(args) == 2 {
				if old, err = readPolicy(floor, args[1]); err != nil {
					return err
				}
			}
			p, err := readPolicy(floor, args[0])
			if err != nil {
				return err
			}
			diff := comparePolicies(old.merged, p.merged)
			if err := printPolicyDiff(env, diff); err != nil {
				return err
			}
			if n := exposing(diff); n > 0 {
				e := cli.Findings(fmt.Sprintf("%d changes expose devices", n), "have somebody else read them")
				if env.JSON {
					return e.Quiet()
				}
				return e
			}
			return nil
		},
	}
}

func policyPublishCommand() *cli.Command {
	var f policyFlags
	var r repoFlags
	var keys list
	var keep, accept bool
	return &cli.Command{
		Name: "publish", Args: "PRODUCT FILE", Short: "sign a policy for the devices of a product and publish it",
		Long: `The policy becomes the target policy/PRODUCT.json of the repository, signed by the role policy, which the first policy adds.
Devices take it over when it is newer than theirs, fits their floor and has not expired; its serial has to rise.

What exposes devices (see policy diff) needs --accept.`,
		Flags: func(fs *flag.FlagSet) {
			r.register(fs)
			f.register(fs)
			fs.Var(&keys, "key", "key `URI` of the role policy, for the first policy; may be repeated; file:keys/policy-1.pem if not given")
			fs.BoolVar(&keep, "no-publish", false, "sign and leave publishing for later")
			fs.BoolVar(&accept, "accept", false, "publish although something exposes devices")
		},
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			floor, err := f.base()
			if err != nil {
				return err
			}
			p, err := readPolicy(floor, args[1])
			if err != nil {
				return err
			}
			re, err := r.open()
			if err != nil {
				return err
			}
			defer re.Close()
			err = publishPolicy(ctx, env, re, &r, floor, p, args[0], repo.RoleKeys{Keys: keys}, keep, accept)
			if _, ofRepo := errors.AsType[*update.Refusal](err); ofRepo {
				return r.explain(err)
			}
			return err
		},
	}
}

func publishPolicy(ctx context.Context, env *cli.Env, r *repo.Repo, f *repoFlags, floor configs.Policy, p operatorPolicy, product string,
	keys repo.RoleKeys, keep, accept bool) error {
	before := operatorPolicy{merged: floor}
	raw, _, err := r.DevicePolicy(product)
	if err != nil {
		return err
	}
	if raw != nil {
		// A policy that no longer fits the floor is still the one whose serial has to be passed.
		if before, err = layOver(floor, raw); err != nil {
			before.merged = floor
		}
		if err := configs.CheckSerial(before.accepted(), p.accepted()); err != nil {
			return err
		}
	}
	if err := configs.CheckFresh(p.own, time.Now()); err != nil {
		return err
	}
	diff := comparePolicies(before.merged, p.merged)
	if !env.JSON {
		if err := printPolicyDiff(env, diff); err != nil {
			return err
		}
	}
	if n := exposing(diff); n > 0 && !accept {
		return &configs.Refusal{Code: "exposes", What: "publish policy " + p.own.ID, Why: fmt.Sprintf("%d changes expose devices", n)}
	}
	if err := r.SetDevicePolicy(product, p.raw, keys); err != nil {
		return err
	}
	if _, err := r.SignAll(); err != nil {
		return err
	}
	waiting, err := r.Proposals()
	if err != nil {
		return err
	}
	published := len(waiting) == 0 && !keep
	if published {
		if _, err := r.Publish(ctx); err != nil {
			return err
		}
	}
	if env.JSON {
		return env.PrintJSON("backstayctl.policy.publish/1", struct {
			Product   string         `json:"product"`
			Serial    uint64         `json:"serial"`
			Published bool           `json:"published"`
			Changes   []policyChange `json:"changes"`
		}{product, p.own.Serial, published, diff})
	}
	switch {
	case published:
		fmt.Fprintf(env.Stdout, "published %s serial %d for %s\n", p.own.ID, p.own.Serial, product)
	case len(waiting) > 0:
		return printProposals(env, f, r, "backstayctl.repo.proposals/1")
	default:
		fmt.Fprintf(env.Stderr, "next:  %s\n", f.line("repo publish"))
	}
	return nil
}
