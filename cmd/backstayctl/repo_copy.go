// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
)

func repoSnapshotCommand() *cli.Command {
	var f repoFlags
	var to string
	var products, versions list
	return &cli.Command{
		Name: "snapshot", Short: "copy what is published onto a stick, for devices without a network",
		Long: `Copies the metadata, and the images that are rolled out, into a directory. On the device: backstay update install --from DIR.
The checks are the same as over the network, so a stick is worth no more than what is signed on it: a device refuses it once its
metadata has expired, or when the device has seen newer.

Nothing is signed here. The copy is played through a device before the command ends well.`,
		Flags: func(fs *flag.FlagSet) {
			f.register(fs)
			fs.StringVar(&to, "to", "", "`directory` to write to")
			fs.Var(&products, "product", "`name` of a product whose devices it is for; may be repeated; all if not given")
			fs.Var(&versions, "version", "`version` to take; may be repeated; all that are rolled out if not given")
		},
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			if to == "" {
				return cli.Usagef("snapshot needs --to, the directory to write to")
			}
			r, err := f.open()
			if err != nil {
				return err
			}
			defer r.Close()
			c, err := r.CopyTo(ctx, to, products, versions)
			if err != nil {
				return f.explain(err)
			}
			if env.JSON {
				return env.PrintJSON("backstayctl.repo.snapshot/1", c)
			}
			t := env.Table()
			for _, rel := range c.Releases {
				t.Row("release", rel)
			}
			t.Row("copied", c.Dir, cli.Bytes(c.Bytes))
			t.Row("good until", c.Expires.UTC().Format(time.RFC3339))
			return t.Flush()
		},
	}
}
