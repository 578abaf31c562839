// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/agent/migrate"
	"github.com/backstay/backstay/cmd/internal/cli"
)

func (d *device) migrateCommand() *cli.Command {
	var out, root string
	return &cli.Command{
		Name: "migrate", Args: "rauc|mender|swupdate [FILE]",
		Short: "read the configuration of another update agent and propose one for this one",
		Long: `Prints a configuration that this agent accepts, and on standard error what cannot be carried over and what is to be
filled in. Nothing is written, unless -o names a file that does not exist yet. Boot script and partitions stay as they are.
FILE is RAUC's system.conf, Mender's mender.conf or SWUpdate's swupdate.cfg; without it the usual one is read.`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&out, "o", "", "write the configuration to a new `file`, mode 0600")
			fs.StringVar(&root, "root", "/", "`directory` of the device's file tree, for instance an unpacked image")
		},
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			file := ""
			if len(args) > 1 {
				file = args[1]
			}
			if file != "" && root == "/" {
				var err error
				if file, err = filepath.Abs(file); err != nil {
					return err
				}
			}
			p, err := migrate.From(args[0], os.DirFS(root), file)
			if err != nil {
				return &cli.Error{Exit: cli.ExitFailed, Code: "migrate", What: err.Error(), Err: err}
			}
			if env.JSON && out == "" {
				return env.PrintJSON("backstay.migration/1", struct {
					Config  json.RawMessage `json:"config"`
					Remarks []string        `json:"remarks"`
				}{p.Config, p.Remarks})
			}
			for _, r := range p.Remarks {
				fmt.Fprintln(env.Stderr, "note:", r)
			}
			if out == "" {
				_, err = env.Stdout.Write(p.Config)
				return err
			}
			return writeNew(out, p.Config)
		},
	}
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write proposed configuration: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
