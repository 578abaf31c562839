// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/scan"
)

// scanJob is one call of scan.
type scanJob struct {
	profiles, fixRules                list
	policy, failOn, known, writeKnown string
	sarif, junit                      string
	open                              scan.Options
	timeout                           time.Duration
	all, dryFix, fix                  bool
	image                             string // as it was given
	copies                            string
}

func scanCommand() *cli.Command {
	j := &scanJob{}
	return &cli.Command{
		Name: "scan", Args: "IMAGE", Short: "check a root file system before it ships: a directory, or a tar, squashfs or ext4 image",
		Long: `The rules that a device runs, against what will be its root file system. Images are read in place: nothing is mounted or unpacked, and
no privilege is needed. What an image is shows in its content, not in its name: tar and cpio, plain or compressed with gzip, bzip2, xz or
zstd, squashfs 4 with every compressor, ext2, ext3 and ext4, and one partition of a disk image. "-" reads an archive from standard input.

Ends with code 6 when a problem is open that is at least as bad as --fail-on. A rule that could not be judged is a problem, too. Problems
that were there before scanning began go into a file, written by --write-baseline and read by --baseline; those to live with are waived
in the policy, with a reason and an end date.

A directory that an ordinary user unpacked has lost its owners: scan the image instead, or say --assume-root, or give a device table or the
file that fakeroot -s saves as --owners.`,
		Flags: j.flags,
		Run:   j.run,
	}
}

func (j *scanJob) flags(fs *flag.FlagSet) {
	fs.Var(&j.profiles, "profile", "check profile `NAME`; may be repeated (default base). Built in: "+strings.Join(configs.Profiles(), ", "))
	fs.StringVar(&j.policy, "policy", "", "lay the operator's policy in `FILE` over the profiles")
	fs.StringVar(&j.failOn, "fail-on", "low", "fail on problems of this `SEVERITY` and above: low, medium, high, critical or never")
	fs.StringVar(&j.known, "baseline", "", "accept the known findings in `FILE`; new ones still fail")
	fs.StringVar(&j.writeKnown, "write-baseline", "", "write what is found to `FILE` as known findings, and end with code 0")
	fs.StringVar(&j.sarif, "sarif", "", "write a SARIF 2.1.0 report to `FILE`; - is standard output")
	fs.StringVar(&j.junit, "junit", "", "write a JUnit XML report to `FILE`; - is standard output")
	fs.StringVar(&j.open.Partition, "partition", "", "scan partition `NUMBER` (or its label) of a disk image")
	fs.BoolVar(&j.open.AssumeRoot, "assume-root", false, "in a directory, read what the owner of its top owns as root's")
	fs.StringVar(&j.open.Owners, "owners", "", "for a directory, take modes and owners from `FILE`: a device table, or what fakeroot -s saved")
	fs.StringVar(&j.open.TempDir, "temp-dir", "", "keep the contents of compressed archives in `DIR` (nameless; default $TMPDIR)")
	fs.Int64Var(&j.open.MaxTemp, "max-temp", scan.DefaultMaxTemp, "keep at most this many `BYTES` there")
	fs.DurationVar(&j.timeout, "timeout", 10*time.Minute, "give up after this `TIME`")
	fs.BoolVar(&j.all, "all", false, "list the rules that pass or do not apply, too")
	fs.BoolVar(&j.dryFix, "dry-run-fix", false, "in a directory, show the changes that --fix would make")
	fs.BoolVar(&j.fix, "fix", false, "in a directory, make the safe fixes; needs --copies")
	fs.Var(&j.fixRules, "fix-rule", "fix this `RULE` and no other, also one that could lock somebody out; may be repeated")
	fs.StringVar(&j.copies, "copies", "", "keep copies of what --fix changes in `DIR`, outside of the tree")
}

func (j *scanJob) run(ctx context.Context, env *cli.Env, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, j.timeout)
	defer cancel()
	j.image = args[0]
	if err := j.check(); err != nil {
		return err
	}
	policy, err := j.load()
	if err != nil {
		return err
	}
	src, err := scan.Open(ctx, args[0], env.Stdin, j.open)
	if err != nil {
		return scanError(err)
	}
	defer src.Close()
	r, err := j.result(ctx, src, policy)
	if errors.Is(err, context.DeadlineExceeded) {
		return &cli.Error{Exit: cli.ExitFailed, Code: "timeout", What: "scan " + args[0], Why: "it took longer than " + j.timeout.String(), Next: "give a longer --timeout"}
	}
	if err != nil {
		return err
	}
	r.Profiles = j.profiles
	if j.writeKnown != "" {
		return j.writeBaseline(env, &r)
	}
	if j.known != "" {
		b, err := scan.ReadBaseline(j.known)
		if err != nil {
			return err
		}
		r.Accept(b)
	}
	r.Judge(j.failOn)
	return j.print(env, &r)
}

// check looks at flags that need or exclude each other.
func (j *scanJob) check() error {
	if len(j.profiles) == 0 {
		j.profiles = list{"base"}
	}
	switch j.failOn {
	case "low", "medium", "high", "critical", "never":
	default:
		return cli.Usagef("--fail-on %q: want low, medium, high, critical or never", j.failOn)
	}
	switch {
	case j.fix && j.dryFix:
		return cli.Usagef("--fix and --dry-run-fix exclude each other")
	case j.fix && j.copies == "":
		return cli.Usagef("--fix needs --copies, the directory for copies of what it changes")
	case len(j.fixRules) > 0 && !j.fix && !j.dryFix:
		return cli.Usagef("--fix-rule needs --fix or --dry-run-fix")
	case j.sarif == "-" && (j.junit == "-"):
		return cli.Usagef("--sarif - and --junit - would be mixed on standard output")
	}
	return nil
}

func (j *scanJob) load() (configs.Policy, error) {
	p, err := configs.Load(j.profiles...)
	if err != nil || j.policy == "" {
		return p, err
	}
	data, err := os.ReadFile(j.policy)
	if err != nil {
		return p, err
	}
	op, err := configs.ParsePolicy(data)
	if err != nil {
		return p, err
	}
	return configs.Merge(p, op)
}

func (j *scanJob) result(ctx context.Context, src *scan.Source, p configs.Policy) (scan.Result, error) {
	if !j.fix && !j.dryFix {
		return scan.Run(ctx, src, p, time.Now)
	}
	if src.Root == nil {
		return scan.Result{}, &cli.Error{Exit: cli.ExitRefused, Code: "read-only", What: "fix " + src.Name,
			Why: "it is " + src.Kind + ", and images are read only", Next: "fix the directory that the image is made from"}
	}
	return scan.Fix(ctx, src, p, time.Now, j.copies, j.fixRules, j.dryFix)
}

func (j *scanJob) writeBaseline(env *cli.Env, r *scan.Result) error {
	old, err := scan.ReadBaseline(j.writeKnown)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	b := r.Baseline(old)
	var out bytes.Buffer
	if err := b.Write(&out); err != nil {
		return err
	}
	if err := os.WriteFile(j.writeKnown, out.Bytes(), 0o666); err != nil {
		return err
	}
	if env.JSON {
		return env.PrintJSON("backstayctl.scan-write-baseline/1", struct {
			File  string `json:"file"`
			Known int    `json:"known"`
		}{j.writeKnown, len(b.Known)})
	}
	fmt.Fprintf(env.Stdout, "%s: %d known findings; read the file before you commit it\n", j.writeKnown, len(b.Known))
	return nil
}

// print writes every report that was asked for.
func (j *scanJob) print(env *cli.Env, r *scan.Result) error {
	for _, out := range []struct {
		name  string
		write func(*bytes.Buffer) error
	}{
		{j.sarif, func(b *bytes.Buffer) error { return r.WriteSARIF(b, cli.Version) }},
		{j.junit, func(b *bytes.Buffer) error { return r.WriteJUnit(b) }},
	} {
		if out.name == "" {
			continue
		}
		var b bytes.Buffer
		if err := out.write(&b); err != nil {
			return err
		}
		if out.name == "-" {
			if _, err := env.Stdout.Write(b.Bytes()); err != nil {
				return err
			}
		} else if err := os.WriteFile(out.name, b.Bytes(), 0o666); err != nil {
			return err
		}
	}
	many := fmt.Sprintf("%d problems are open", r.Failing)
	if r.Failing == 1 {
		many = "1 problem is open"
	}
	failed := cli.Findings(many, "fix the image; or accept what is old: backstayctl scan --write-baseline FILE "+j.image)
	switch {
	case j.sarif == "-" || j.junit == "-":
	case env.JSON:
		if err := env.PrintJSON("backstayctl.scan/1", r); err != nil {
			return err
		}
		failed = failed.Quiet() // one object: the problems are the data
	default:
		if err := r.WriteText(env.Stdout, j.all); err != nil {
			return err
		}
	}
	if r.Failing > 0 {
		return failed
	}
	return nil
}

// scanError says what to do with a file that cannot be scanned.
func scanError(err error) error {
	var u *scan.Unsupported
	if errors.As(err, &u) {
		return &cli.Error{Exit: cli.ExitNotReady, Code: "unsupported-image", What: "cannot scan " + u.Name, Why: u.What, Next: u.Next, Err: err}
	}
	return err
}
