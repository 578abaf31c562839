// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/update/repo"
)

// signFlags are the three ways to sign: here, elsewhere, and bringing home what
// was signed elsewhere.
type signFlags struct {
	repoFlags
	show                       bool
	proposal, inForce, key, to string
	add                        list
}

func repoSignCommand() *cli.Command {
	var f signFlags
	return &cli.Command{
		Name: "sign", Args: "[ROLE...]", Short: "sign proposals, and put in force what has enough signatures",
		Long: `Without flags it shows what each proposal changes, signs with the keys on this machine and accepts what is complete.

A custodian elsewhere gets the proposal file (staged/N.ROLE.json) and runs
  backstayctl repo sign --proposal 2.root.json --in-force 1.root.json --key root.pem --out sig.json
compares the digest with the others by voice, and sends sig.json back for
  backstayctl repo sign --add sig.json`,
		Flags: func(fs *flag.FlagSet) {
			f.register(fs)
			fs.BoolVar(&f.show, "show", false, "show the proposals and sign nothing")
			fs.Var(&f.add, "add", "signature `file` from a custodian; may be repeated")
			fs.StringVar(&f.proposal, "proposal", "", "proposal `file` to sign on a machine without the repository")
			fs.StringVar(&f.inForce, "in-force", "", "`file` with the version in force, to show what the proposal changes")
			fs.StringVar(&f.key, "key", "", "private key `file` to sign the proposal with")
			fs.StringVar(&f.to, "out", "", "`file` to write the signature to")
		},
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			if f.proposal != "" {
				return f.elsewhere(env)
			}
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			for _, name := range f.add {
				if err := addSignature(r, name); err != nil {
					return f.explain(err)
				}
			}
			if f.show {
				return printProposals(env, &f.repoFlags, r, "backstayctl.repo.proposals/1")
			}
			return f.here(env, r, args)
		},
	}
}

func addSignature(r *repo.Repo, name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	s, err := repo.ParseSignature(b)
	if err != nil {
		return err
	}
	return r.AddSignature(s)
}

// here signs with the keys of this machine.
func (f *signFlags) here(env *cli.Env, r *repo.Repo, roles []string) error {
	before, err := r.Proposals()
	if err != nil {
		return f.explain(err)
	}
	if !env.JSON {
		for _, p := range before {
			if len(roles) == 0 || has(roles, p.Role) {
				showProposal(env, p)
			}
		}
	}
	signed := []repo.Signed{}
	if len(roles) == 0 {
		signed, err = r.SignAll()
	}
	for _, role := range roles {
		var s repo.Signed
		if s, err = r.Sign(role); err != nil {
			break
		}
		signed = append(signed, s)
	}
	if err != nil {
		return f.explain(err)
	}
	if env.JSON {
		return env.PrintJSON("backstayctl.repo.sign/1", struct {
			Signed []repo.Signed `json:"signed"`
		}{signed})
	}
	if len(signed) == 0 {
		fmt.Fprintln(env.Stderr, "nothing is waiting for a signature")
		return nil
	}
	t := env.Table()
	for _, s := range signed {
		state := "in force"
		if !s.Accepted {
			state = "waiting: " + s.Waiting
		}
		t.Row(fmt.Sprintf("%s %d", s.Role, s.Version), plural(s.Keys, "signature added", "signatures added"), state)
	}
	return t.Flush()
}

// elsewhere signs a file on a machine that has no repository.
func (f *signFlags) elsewhere(env *cli.Env) error {
	if !f.show && (f.key == "" || f.to == "") {
		return cli.Usagef("--proposal needs --key and --out, or --show")
	}
	b, err := os.ReadFile(f.proposal)
	if err != nil {
		return err
	}
	var old []byte
	if f.inForce != "" {
		if old, err = os.ReadFile(f.inForce); err != nil {
			return err
		}
	}
	p, err := repo.Describe(b, old)
	if err != nil {
		return f.explain(err)
	}
	p.File = f.proposal
	if !env.JSON {
		showProposal(env, p)
	}
	if f.show {
		if env.JSON {
			return env.PrintJSON("backstayctl.repo.proposals/1", []repo.Proposal{p})
		}
		return nil
	}
	key, err := repo.OpenKeyFile(f.key)
	if err != nil {
		return f.explain(err)
	}
	s, err := repo.SignProposal(b, key)
	if err != nil {
		return f.explain(err)
	}
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.to, append(out, '\n'), 0o644); err != nil {
		return err
	}
	if env.JSON {
		return env.PrintJSON("backstayctl.repo.signature/1", s)
	}
	fmt.Fprintf(env.Stderr, "signed with key %.12s; send %s back\n", s.KeyID, f.to)
	return nil
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// showProposal prints what a person has to know before signing.
func showProposal(env *cli.Env, p repo.Proposal) {
	t := env.Table()
	t.Row("proposal", fmt.Sprintf("%s %d", p.Role, p.Version))
	t.Row("file", p.File)
	t.Row("digest", spaced(p.Digest))
	for i, c := range p.Changes {
		label := ""
		if i == 0 {
			label = "changes"
		}
		t.Row(label, c)
	}
	for i, n := range p.Needs {
		label := ""
		if i == 0 {
			label = "needs"
		}
		t.Row(label, fmt.Sprintf("%d of %s by %s", n.Need, plural(len(n.Keys), "key", "keys"), n.Authority), fmt.Sprintf("has %d", n.Have))
		for _, k := range n.Keys {
			state := "not signed"
			if k.Signed {
				state = "signed"
			}
			t.Row("", fmt.Sprintf("  key %.12s %s", k.ID, k.URI), state)
		}
	}
	t.Flush() //nolint:errcheck // the command's own output reports a broken pipe
	fmt.Fprintln(env.Stdout)
}

// spaced groups a digest so that it can be read aloud.
func spaced(digest string) string {
	var parts []string
	for ; len(digest) > 8; digest = digest[8:] {
		parts = append(parts, digest[:8])
	}
	return strings.Join(append(parts, digest), " ")
}

// printProposals prints what is staged.
func printProposals(env *cli.Env, f *repoFlags, r *repo.Repo, schema string) error {
	list, err := r.Proposals()
	if err != nil {
		return f.explain(err)
	}
	if env.JSON {
		return env.PrintJSON(schema, list)
	}
	for _, p := range list {
		showProposal(env, p)
	}
	if len(list) == 0 {
		fmt.Fprintln(env.Stderr, "nothing is waiting for a signature")
		return nil
	}
	fmt.Fprintf(env.Stderr, "next:  %s\n", f.line("repo sign"))
	return nil
}

func repoRotateCommand() *cli.Command {
	var f repoFlags
	var c repo.KeyChange
	var add, remove list
	return &cli.Command{
		Name: "rotate", Args: "ROLE", Short: "change the keys of a role, or only its expiry",
		Long: `Stages the next root (for root, targets, snapshot, timestamp) or the next targets (for assign and products) with other keys. Without
flags the role's own document is staged unchanged, with a new expiry.

A removed key is refused by every device that has seen the new version. A new root needs signatures by the old root's keys and by
its own.`,
		Flags: func(fs *flag.FlagSet) {
			f.register(fs)
			fs.Var(&add, "add", "key `URI` to add; may be repeated")
			fs.Var(&remove, "remove", "`id` of a key to revoke, at least 8 digits; may be repeated")
			fs.IntVar(&c.Threshold, "threshold", 0, "how many of the keys must sign; unchanged if 0")
		},
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			c.Role, c.Add, c.Remove = args[0], add, remove
			if _, err := r.Rotate(c); err != nil {
				return f.explain(err)
			}
			return printProposals(env, &f, r, "backstayctl.repo.rotate/1")
		},
	}
}

func repoDiscardCommand() *cli.Command {
	var f repoFlags
	return &cli.Command{
		Name: "discard", Args: "ROLE", Short: "drop the proposal of a role and its signatures",
		Flags: f.register,
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			if err := r.Discard(args[0]); err != nil {
				return f.explain(err)
			}
			return printProposals(env, &f, r, "backstayctl.repo.discard/1")
		},
	}
}

func repoKeyCommand() *cli.Command {
	return &cli.Command{
		Name: "key", Args: "FILE", Short: "create a signing key, and FILE.pub with its public half",
		Long: `For a custodian: FILE stays on this machine and is not encrypted (mode 0600), FILE.pub goes to whoever keeps the repository and
becomes a key of a role as pub:FILE.pub. Any PKCS#8 PEM key, Ed25519 or ECDSA P-256, made elsewhere does as well.`,
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			key, err := repo.NewKey(args[0])
			if err != nil {
				return err
			}
			if err := repo.WritePublic(args[0]+".pub", key.Public()); err != nil {
				return err
			}
			id, err := repo.KeyID(key.Public())
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstayctl.repo.key/1", struct {
					ID      string `json:"id"`
					Private string `json:"private"`
					Public  string `json:"public"`
				}{id, args[0], args[0] + ".pub"})
			}
			t := env.Table()
			t.Row("key", id)
			t.Row("private", args[0], "keep it here")
			t.Row("public", args[0]+".pub", "hand it out")
			return t.Flush()
		},
	}
}
