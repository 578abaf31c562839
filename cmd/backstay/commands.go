// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

// wiring is what two commands do without a running agent. A test replaces it.
type wiring struct {
	// run is the agent. It returns when ctx ends, and with an error that is update.ErrReboot when the supervisor must reboot.
	run func(ctx context.Context, cfg *config.Config, log *slog.Logger) error
	// born makes the birth key on the first call and reports it on every one.
	born func(ctx context.Context, cfg *config.Config) (birth, error)
	// firstBoot checks and repairs once, before the agent and the network are up.
	firstBoot func(ctx context.Context, cfg *config.Config, log *slog.Logger, dryRun bool) (control.Findings, error)
}

// device is what the commands share: the two flags that say which agent is meant.
type device struct {
	wiring
	configFile string
	socket     string
}

// app is the command table.
func app(w wiring) *cli.App {
	d := &device{wiring: w}
	return &cli.App{
		Name:    "backstay",
		Short:   "keep this device on firmware its maker signed, in a safe configuration, with a log nobody can edit",
		Version: cli.Version,
		Long: `The agent (backstay run) does the work. The other commands ask it over a local socket, so they need it running and
the right user. Every command that prints data prints it as JSON with --json.`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&d.configFile, "config", config.DefaultFile, "configuration `file`")
			fs.StringVar(&d.socket, "socket", "", "control socket `path`, instead of the one in the configuration")
		},
		Commands: append([]*cli.Command{
			d.runCommand(),
			d.statusCommand(),
			d.updateCommand(),
			d.slotCommand(),
			d.baselineCommand(),
			d.identityCommand(),
			d.auditCommand(),
			d.configCommand(),
			d.migrateCommand(),
		}, cli.Standard()...),
		Classify: classify,
	}
}

// load reads the configuration.
func (d *device) load() (*config.Config, error) {
	cfg, err := config.Load(d.configFile)
	if err != nil {
		return nil, &configError{file: d.configFile, err: err}
	}
	return cfg, nil
}

// client returns the client of the agent that is meant. Without a readable configuration the socket's default is tried: a
// broken file must not keep a person from looking at the agent that still runs.
func (d *device) client() (*control.Client, error) {
	if d.socket != "" {
		return &control.Client{Socket: d.socket}, nil
	}
	cfg, err := d.load()
	if err == nil {
		return &control.Client{Socket: cfg.Control.Socket}, nil
	}
	if d.configFile != config.DefaultFile {
		return nil, err
	}
	return &control.Client{Socket: filepath.Join("/run/backstay", "control.sock")}, nil
}

// ask makes one call to the agent.
func ask[R any](ctx context.Context, d *device, method string, params any) (R, error) {
	var r R
	c, err := d.client()
	if err != nil {
		return r, err
	}
	return r, c.Call(ctx, method, params, &r)
}

// stream makes a call whose answer is bytes.
func (d *device) stream(ctx context.Context, method string, params any, w io.Writer) error {
	c, err := d.client()
	if err != nil {
		return err
	}
	return c.Stream(ctx, method, params, w)
}
