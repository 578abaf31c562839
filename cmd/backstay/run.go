// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"

	"github.com/backstay/backstay/cmd/internal/cli"
)

func (d *device) runCommand() *cli.Command {
	level := slog.LevelInfo
	return &cli.Command{
		Name: "run", Short: "start the agent; this is what the init system calls",
		Long: `The agent stays in the foreground, writes its engineering log to standard error and ends on SIGTERM or SIGINT. With
reboot.method "exit" it ends with code 4 when the device must reboot; the supervisor does that and starts it again.`,
		Flags: func(fs *flag.FlagSet) {
			fs.TextVar(&level, "log-level", slog.LevelInfo, "least `level` logged: debug, info, warn or error")
		},
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			cfg, err := d.load()
			if err != nil {
				return err
			}
			options := &slog.HandlerOptions{Level: level}
			var handler slog.Handler = slog.NewTextHandler(env.Stderr, options)
			if env.JSON {
				handler = slog.NewJSONHandler(env.Stderr, options)
			}
			if err := d.run(ctx, cfg, slog.New(handler)); err != nil && ctx.Err() == nil {
				return fmt.Errorf("run agent: %w", err)
			}
			return nil
		},
	}
}
