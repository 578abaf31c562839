// SPDX-License-Identifier: Apache-2.0

// Command backstayctl is the other end of the wire from the device agent: publishing, enrolment, server, collector, verifier,
// and a lab that runs all of it on one machine.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/backstay/backstay/cmd/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := app().Main(ctx, os.Args[1:], cli.OSEnv())
	stop()
	os.Exit(code)
}

func app() *cli.App {
	return &cli.App{
		Name:     "backstayctl",
		Short:    "publish firmware, enrol devices, collect and verify their audit logs",
		Version:  cli.Version,
		Commands: commands(),
		Classify: classify,
	}
}
