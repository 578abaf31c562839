// SPDX-License-Identifier: Apache-2.0

// Command backstay is the device's half: the agent the init system starts, and the commands a person types on the device.
//
// One file per command. A command that shows or changes something asks the running agent over its control socket; it opens no
// state of its own, because the agent holds the locks. Which exit code and which `next:` line an error gets is in classify.go.
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
	code := app(wire()).Main(ctx, os.Args[1:], cli.OSEnv())
	stop()
	os.Exit(code)
}
