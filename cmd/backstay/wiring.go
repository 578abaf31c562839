// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/agent"
	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/agent/store"
	"github.com/backstay/backstay/cmd/internal/cli"
)

// wire connects the commands that run without an agent to what they run.
func wire() wiring { return wiring{run: runAgent, born: makeBirth, firstBoot: firstBoot} }

func runAgent(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	return agent.Run(ctx, cfg, agent.Options{Version: cli.Version, Release: cli.ReleaseTime(), Logger: log})
}

func firstBoot(ctx context.Context, cfg *config.Config, log *slog.Logger, dryRun bool) (control.Findings, error) {
	return agent.FirstBoot(ctx, cfg, agent.Options{Version: cli.Version, Release: cli.ReleaseTime(), Logger: log}, dryRun)
}

// makeBirth opens the identity alone, makes the birth key if there is none, and reads what the factory records. The state
// database is locked meanwhile: with the agent running there is nothing left to make, and `identity show` tells the same.
func makeBirth(ctx context.Context, cfg *config.Config) (b birth, err error) {
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return b, fmt.Errorf("make state directory: %w", err)
	}
	db, err := store.Open(filepath.Join(cfg.StateDir, "state.db"))
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	noEvents := func(string, ...slog.Attr) {} // the log is signed with the key made here: it begins when the agent first runs
	id, err := agent.OpenIdentity(cfg, db, agent.NewClock(cli.ReleaseTime()), noEvents)
	if err != nil {
		return b, err
	}
	if err := id.Born(ctx); err != nil {
		return b, err
	}
	spki, err := x509.MarshalPKIXPublicKey(id.Birth().Public())
	if err != nil {
		return b, fmt.Errorf("encode birth key: %w", err)
	}
	s := id.Status()
	return birth{ID: s.DeviceID, SPKI: base64.StdEncoding.EncodeToString(spki), Serial: s.Serial, KeyClass: string(s.Class)}, nil
}
