// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/backstay/backstay/cmd/internal/cli"

// commands is the command table: one line for each command.
func commands() []*cli.Command {
	return append([]*cli.Command{
		serveCommand(),
		labCommand(),
		repoCommand(),
		rolloutCommand(),
		policyCommand(),
		caCommand(),
		deviceCommand(),
		auditCommand(),
		scanCommand(),
	}, cli.Standard()...)
}
