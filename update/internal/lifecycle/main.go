// SPDX-License-Identifier: Apache-2.0

// Lifecycle rewrites the picture of the update lifecycle in a Markdown page, between the two lines that mark it. It is run
// by go generate; a test of package update fails when the page and the table differ.
package main

import (
	"fmt"
	"os"

	"github.com/backstay/backstay/update"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lifecycle:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: lifecycle PAGE")
	}
	page, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	out, err := update.Illustrate(string(page))
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", args[0], err)
	}
	return os.WriteFile(args[0], []byte(out), 0o644)
}
