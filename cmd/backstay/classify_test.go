// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/agent/store"
	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/update"
)

// TestClassify is the exit code and the advice of every kind of error, wrapped as it arrives.
func TestClassify(t *testing.T) {
	_, confErr := config.Parse([]byte(`{"update": {"health": [{"name": "x", "kind": "exec"}]}}`))
	answer := func(c control.Class, code string) error {
		return &control.Error{Class: c, Code: code, What: "what", Why: "why"}
	}
	for _, tt := range []struct {
		err       error
		exit      cli.Exit
		why, next string
	}{
		{answer(control.ClassRefused, "below-floor"), cli.ExitRefused, "why", "ask your operator to publish a release at or above the floor; this device cannot go below it"},
		{answer(control.ClassRefused, "never-heard-of"), cli.ExitRefused, "why", "backstay status"},
		{answer(control.ClassSetup, ""), cli.ExitNotReady, "why", "backstay config check"},
		{answer(control.ClassSetup, "not-enrolled"), cli.ExitNotReady, "why", "backstay identity enroll"},
		{answer(control.ClassRetry, ""), cli.ExitRetry, "why", "try again later; backstay status shows what the agent is waiting for"},
		{answer(control.ClassUsage, "bad-parameters"), cli.ExitUsage, "why", "backstay help"},
		{answer(control.ClassFailed, ""), cli.ExitFailed, "why", "see the agent's log"},
		{answer("of-a-newer-agent", ""), cli.ExitFailed, "why", "see the agent's log"},
		{control.ErrNotRunning, cli.ExitNotReady, "", "start the agent with the init system, or in the foreground: backstay run"},
		{control.ErrDenied, cli.ExitNotReady, "", "run the command as root"},
		{update.ErrReboot, cli.ExitReboot, "", "reboot the device and start the agent again"},
		{store.ErrLocked, cli.ExitRetry, "", "the agent is running: ask it with backstay status, or backstay identity show"},
		{&configError{"f", confErr}, cli.ExitNotReady, "", "backstay config explain update.health[0].argv"},
		{&configError{"f", fs.ErrNotExist}, cli.ExitNotReady, "", "write f, or name another file with --config; backstay config explain lists the keys"},
		{&configError{"f", errors.New("line 3: no")}, cli.ExitNotReady, "", "correct f; backstay config explain lists the keys"},
		{&update.Refusal{Code: "x", What: "a", Why: "b"}, cli.ExitRefused, "", "backstay status"},
		{&identity.Refusal{Code: "not-born", What: "a", Why: "b", Class: identity.ErrSetup}, cli.ExitNotReady, "", "backstay identity init"},
		{update.ErrSetup, cli.ExitNotReady, "", "backstay config check"},
		{identity.ErrRetry, cli.ExitRetry, "", "try again later; backstay status shows what the agent is waiting for"},
		{configs.ErrSetup, cli.ExitNotReady, "", "backstay config check"},
		{logging.ErrRefused, cli.ExitRefused, "", "backstay status"},
		{errors.New("disk on fire"), cli.ExitFailed, "", ""},
	} {
		exit, why, next := classify(fmt.Errorf("run agent: %w", tt.err))
		if exit != tt.exit || why != tt.why || next != tt.next {
			t.Errorf("%v: %d, %q, %q\nwant %d, %q, %q", tt.err, exit, why, next, tt.exit, tt.why, tt.next)
		}
	}
}

// TestAdviceIsForCodesThatExist: a refusal that is renamed must not lose its advice unnoticed.
func TestAdviceIsForCodesThatExist(t *testing.T) {
	used := map[string]bool{}
	for _, dir := range []string{"update", "identity", "configs", "logging", "agent"} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil {
						used[s] = true
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for _, a := range advices() {
		for _, code := range a.codes {
			if !used[code] {
				t.Errorf("there is advice for %q, and no code of that name", code)
			}
			if seen[code] {
				t.Errorf("there is advice for %q twice; the second is never given", code)
			}
			seen[code] = true
		}
	}
}
