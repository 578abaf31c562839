// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/repo"
)

// repoFlags is what every repo and rollout command takes.
type repoFlags struct{ dir string }

func (f *repoFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.dir, "repo", "repo", "repository `directory`")
}

// open opens the repository for one command.
func (f *repoFlags) open() (*repo.Repo, error) {
	r, err := repo.Open(f.dir, repo.Options{})
	if err != nil {
		return nil, f.explain(err)
	}
	return r, nil
}

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// date is a flag with a time: RFC 3339, or a day, which begins at midnight UTC.
type date struct{ time.Time }

func (d *date) String() string {
	if d.IsZero() {
		return ""
	}
	return d.Format(time.RFC3339)
}

func (d *date) Set(s string) error {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			d.Time = t.UTC()
			return nil
		}
	}
	return errors.New("want 2031-01-31 or 2031-01-31T12:00:00Z")
}

// repoCommand is everything about a signed repository but its rollouts.
func repoCommand() *cli.Command {
	return &cli.Command{
		Name: "repo", Short: "make, sign and publish the repository that devices update from",
		Sub: []*cli.Command{
			repoInitCommand(), repoProductCommand(), repoAddCommand(), repoWithdrawCommand(), repoSignCommand(), repoRotateCommand(),
			repoKeyCommand(), repoDiscardCommand(), repoPublishCommand(), repoSnapshotCommand(), repoVerifyCommand(), repoStatusCommand(),
		},
	}
}

func repoInitCommand() *cli.Command {
	var f repoFlags
	var rootKeys, products list
	var setup repo.Setup
	return &cli.Command{
		Name: "init", Short: "create a repository",
		Long: `Creates the directory, the keys that do not exist yet and the first root of trust, and signs what the keys on this machine
can sign. 1.root.json goes into the device image.

A key is file:PATH (a private key file, created if it is not there; a relative path starts at the repository) or pub:PATH (the
public key of a custodian who signs on another machine).

Key files are not encrypted. Root, targets and product keys belong on a machine without a network; the server that refreshes the
repository needs only snapshot, timestamp and assign.`,
		Flags: func(fs *flag.FlagSet) {
			f.register(fs)
			fs.Var(&rootKeys, "root-key", "root key `URI`; may be repeated; file:keys/root-1.pem if not given")
			fs.IntVar(&setup.Root.Threshold, "root-threshold", 1, "how many root keys must sign")
			fs.Var(&products, "product", "product `name` to add at once; may be repeated")
			fs.StringVar(&setup.Publish, "publish", "public", "`directory` to publish to, relative to the repository")
		},
		Run: func(_ context.Context, env *cli.Env, _ []string) error {
			setup.Root.Keys = rootKeys
			r, err := repo.Create(f.dir, repo.Options{}, setup)
			if err != nil {
				return f.explain(err)
			}
			defer r.Close()
			for _, p := range products {
				if err := r.AddProduct(p, repo.RoleKeys{}); err != nil {
					return f.explain(err)
				}
			}
			if _, err := r.SignAll(); err != nil {
				return f.explain(err)
			}
			return printStatus(env, &f, r)
		},
	}
}

func repoProductCommand() *cli.Command {
	var f repoFlags
	var keys repo.RoleKeys
	var uris list
	return &cli.Command{
		Name: "product", Args: "PRODUCT", Short: "add a product, with keys of its own",
		Flags: func(fs *flag.FlagSet) {
			f.register(fs)
			fs.Var(&uris, "key", "key `URI`; may be repeated; file:keys/product-PRODUCT-1.pem if not given")
			fs.IntVar(&keys.Threshold, "threshold", 1, "how many of the keys must sign")
		},
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			keys.Keys = uris
			if err := r.AddProduct(args[0], keys); err != nil {
				return f.explain(err)
			}
			return printProposals(env, &f, r, "backstayctl.repo.product/1")
		},
	}
}

func repoAddCommand() *cli.Command {
	var f repoFlags
	var n repo.NewRelease
	var compatible, advisories, critical, from list
	var end date
	return &cli.Command{
		Name: "add", Args: "PRODUCT VERSION IMAGE", Short: "add a release; - reads the image from standard input",
		Long: `Stores the image and stages the release. It is genuine once the product's keys have signed (repo sign), and installed once it is
rolled out (rollout start).

The release counter orders releases for devices; the security floor is the lowest counter a device accepts once it has kept this
release, and never goes down.

Beside the image devices get smaller payloads, each when it fits: a delta from a release that they run (--delta-from), and a
compressed image. Making them takes about a second of one processor for each MiB.`,
		Flags: func(fs *flag.FlagSet) {
			f.register(fs)
			fs.Var(&compatible, "compatible", "hardware `name` the image is for; may be repeated")
			fs.Uint64Var(&n.Counter, "counter", 0, "release `counter`; one more than before if 0")
			fs.Uint64Var(&n.Floor, "floor", 0, "security `floor`; as before if 0")
			fs.StringVar(&n.Class, "class", "feature", "`class` of the release: security or feature")
			fs.Var(&advisories, "advisory", "`reference` of a flaw it fixes; may be repeated")
			fs.StringVar(&n.Notes, "notes", "", "a few lines of `text` for the device's user")
			fs.StringVar(&n.SBOM, "sbom", "", "`digest` of its bill of materials, sha256:HEX")
			fs.Var(&end, "support-end", "`day` on which support for it ends")
			fs.StringVar(&n.MinAgent, "min-agent", "", "oldest agent `version` that may install it")
			fs.Var(&critical, "critical", "`name` in its signed properties that a device must understand; may be repeated")
			fs.Var(&from, "delta-from", "`version` to make a delta from, or several with commas between; may be repeated")
			fs.BoolVar(&n.NoCompress, "no-compress", false, "make no compressed image: devices without a fitting delta fetch all of it")
			fs.BoolVar(&n.Reissue, "reissue", false, "allow a counter that is not above every earlier one; the floor still holds")
		},
		Run: func(ctx context.Context, env *cli.Env, args []string) error {
			n.Product, n.Version = args[0], args[1]
			n.Compatible, n.Advisories, n.Critical, n.SupportEnd = compatible, advisories, critical, end.Time
			for _, versions := range from {
				n.DeltaFrom = append(n.DeltaFrom, strings.Split(versions, ",")...)
			}
			if len(compatible) == 0 {
				return cli.Usagef("add needs --compatible, the hardware the image is for")
			}
			image, size, err := openImage(env, args[2])
			if err != nil {
				return err
			}
			defer image.Close()
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			p := env.Progress("add "+n.Version, size)
			counted := &countingReader{r: image, show: p.Set}
			rel, err := r.Add(ctx, n, counted)
			if err != nil {
				return f.explain(err)
			}
			p.Done(counted.n)
			if env.JSON {
				return env.PrintJSON("backstayctl.repo.add/1", rel)
			}
			t := env.Table()
			printRelease(t, rel)
			if err := t.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(env.Stderr, "next:  %s\n", f.line("repo sign"))
			return nil
		},
	}
}

func printRelease(t *cli.Table, r repo.Release) {
	state := "signed"
	if r.Staged {
		state = "staged"
	}
	t.Row("release", r.Product+" "+r.Version, state)
	t.Row("image", "sha256:"+r.SHA256, strconv.FormatInt(r.Length, 10)+" bytes")
	t.Row("counter", r.Counter, fmt.Sprintf("floor %d", r.Floor))
	t.Row("for", strings.Join(r.Compatible, " "), r.Class)
	for _, p := range r.Payloads {
		what := "compressed"
		if p.From != "" {
			what = "delta from " + p.From
		}
		t.Row("payload", what, fmt.Sprintf("%d bytes, %.1f %% of the image", p.Length, float64(p.Length)*100/float64(r.Length)))
	}
}

func openImage(env *cli.Env, name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		return io.NopCloser(env.Stdin), 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, fmt.Errorf("open image: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("open image: %w", err)
	}
	return f, fi.Size(), nil
}

// countingReader tells a progress line how far it is.
type countingReader struct {
	r    io.Reader
	n    int64
	show func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.show(c.n)
	return n, err
}

func repoWithdrawCommand() *cli.Command {
	var f repoFlags
	return &cli.Command{
		Name: "withdraw", Args: "PRODUCT VERSION", Short: "stop offering a release; devices that run it keep it",
		Flags: f.register,
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			if err := r.Withdraw(args[0], args[1]); err != nil {
				return f.explain(err)
			}
			return printProposals(env, &f, r, "backstayctl.repo.withdraw/1")
		},
	}
}

// line is a command line for this repository, to paste.
func (f *repoFlags) line(command string) string {
	group, rest, _ := strings.Cut(command, " ")
	verb, args, _ := strings.Cut(rest, " ")
	s := "backstayctl " + group + " " + verb
	if f.dir != "repo" {
		s += " --repo " + f.dir
	}
	if args != "" {
		s += " " + args
	}
	return s
}

// explain turns an error of package repo into one with an exit code and a way
// on. Which advice belongs to which refusal is decided here and nowhere else.
func (f *repoFlags) explain(err error) error {
	e := &cli.Error{Exit: cli.ExitFailed, What: err.Error(), Err: err}
	switch {
	case errors.Is(err, update.ErrRefused):
		e.Exit = cli.ExitRefused
	case errors.Is(err, update.ErrRetry):
		e.Exit, e.Next = cli.ExitRetry, "wait for the other process and try again"
	case errors.Is(err, update.ErrSetup):
		e.Exit, e.Next = cli.ExitNotReady, f.line("repo init")
	case errors.Is(err, repo.ErrNoKey):
		e.Exit = cli.ExitNotReady
	}
	if r, ok := errors.AsType[*update.Refusal](err); ok {
		e.Code, e.What, e.Why = r.Code, r.What, r.Why
		e.Next = f.next(r.Code)
	}
	return e
}

func (f *repoFlags) next(code string) string {
	switch code {
	case "unsigned", "threshold":
		return f.line("repo status") + " shows whose signature is missing; " + f.line("repo sign") + " signs with the keys of this machine"
	case "unpublished":
		return f.line("repo publish")
	case "deadline":
		return "leave --deadline out, or release with --class security"
	case "metadata-expired":
		return f.line("repo rotate ROLE") + ", then " + f.line("repo sign")
	case "version-reused":
		return "give the image a version that was never used; if nothing was added, this repository is not the one that published"
	case "behind":
		return "work on the repository that published last; bring this copy up to date first"
	case "unknown-product":
		return f.line("repo product PRODUCT")
	case "unknown-release", "no-rollout":
		return f.line("rollout status")
	case "below-floor", "floor-lowered":
		return "release with a counter at or above the floor; a floor never goes down"
	case "counter-reused":
		return "leave --counter out, or say --reissue if it is meant"
	case "older":
		return "say --downgrade if devices are to go back on purpose"
	case "simulation":
		return "nothing was published; undo the last change or sign what it needs"
	case "clock", "from-the-future":
		return "set this machine's clock"
	case "key-readable":
		return "chmod 600 the key file, and think about who may have read it"
	case "too-large":
		return f.line("repo withdraw PRODUCT VERSION") + " for releases that nobody should install any more"
	case "exists":
		return f.line("repo status")
	case "no-proposal", "other-proposal":
		return f.line("repo sign --show")
	}
	return f.line("repo status")
}
