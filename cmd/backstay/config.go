// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/cmd/internal/cli"
)

// configError is a configuration that cannot be used.
type configError struct {
	file string
	err  error
}

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

func (d *device) configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Short: "check, show and explain the configuration; no agent needed",
		Sub: []*cli.Command{d.configCheck(), d.configShow(), d.configExplain()},
	}
}

func (d *device) configCheck() *cli.Command {
	return &cli.Command{
		Name: "check", Short: "check the file, and that the files it names are there and in the right hands",
		Long: "Ends with code 3 when the agent would not start with this file, and with code 6 when a file it names is wrong.",
		Run: func(_ context.Context, env *cli.Env, _ []string) error {
			cfg, err := d.load()
			if err != nil {
				return err
			}
			problems := cfg.CheckPaths()
			failed := cli.Findings(fmt.Sprintf("files named in %s are not as they must be: %d", d.configFile, len(problems)), "")
			if len(problems) > 0 {
				failed.Next = "backstay config explain " + problems[0].Key
			}
			if env.JSON {
				if err := env.PrintJSON("backstay.config-check/1", checkResult(d.configFile, problems)); err != nil || len(problems) == 0 {
					return err
				}
				return failed.Quiet()
			}
			t := env.Table()
			for _, p := range problems {
				t.Row(p.Key, p.Problem)
			}
			if len(problems) == 0 {
				t.Row("ok", d.configFile)
			}
			if err := t.Flush(); err != nil || len(problems) == 0 {
				return err
			}
			return failed
		},
	}
}

type keyProblem struct {
	Key     string `json:"key"`
	Problem string `json:"problem"`
	Line    int    `json:"line,omitempty"`
}

type configCheckResult struct {
	File     string       `json:"file"`
	OK       bool         `json:"ok"`
	Problems []keyProblem `json:"problems"`
}

func checkResult(file string, problems []*config.FieldError) configCheckResult {
	r := configCheckResult{File: file, OK: len(problems) == 0, Problems: []keyProblem{}}
	for _, p := range problems {
		r.Problems = append(r.Problems, keyProblem(*p))
	}
	return r
}

func (d *device) configShow() *cli.Command {
	return &cli.Command{
		Name: "show", Short: "show every value in force, and whether it comes from the file or is the default",
		Run: func(_ context.Context, env *cli.Env, _ []string) error {
			cfg, err := d.load()
			if err != nil {
				return err
			}
			settings := cfg.Effective()
			if env.JSON {
				return env.PrintJSON("backstay.config/1", struct {
					File  string           `json:"file"`
					Items []config.Setting `json:"items"`
				}{d.configFile, settings})
			}
			t := env.Table("key", "from", "value")
			for _, s := range settings {
				t.Row(s.Key, s.Origin, string(s.Value))
			}
			return t.Flush()
		},
	}
}

func (d *device) configExplain() *cli.Command {
	return &cli.Command{
		Name: "explain", Args: "[KEY]", Short: "say what a key means, its default and limits, and who is trusted with the file it names",
		Long: "Without KEY, lists every key. A section explains every key in it.",
		Complete: func([]string) []string {
			var keys []string
			for _, f := range config.Fields() {
				keys = append(keys, f.Key)
			}
			return keys
		},
		Run: func(_ context.Context, env *cli.Env, args []string) error {
			fields := config.Fields()
			if len(args) == 1 {
				var err error
				if fields, err = config.Explain(args[0]); err != nil {
					return unknownKey(err)
				}
			}
			if env.JSON {
				return env.PrintJSON("backstay.config-explain/1", struct {
					Items []config.Field `json:"items"`
				}{fields})
			}
			if len(args) == 0 {
				return listKeys(env, fields)
			}
			for i, f := range fields {
				if i > 0 {
					fmt.Fprintln(env.Stdout)
				}
				if err := explainKey(env, f); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func unknownKey(err error) error {
	e := &cli.Error{Exit: cli.ExitUsage, Code: "unknown-key", What: err.Error(), Next: "backstay config explain", Err: err}
	var field *config.FieldError
	if errors.As(err, &field) {
		what, near, ok := strings.Cut(field.Problem, "; ")
		e.What = fmt.Sprintf("%s %q", what, field.Key)
		e.Why = near
		if i := strings.LastIndexByte(near, ' '); ok && i >= 0 {
			e.Next = "backstay config explain " + near[i+1:]
		}
	}
	return e
}

func listKeys(env *cli.Env, fields []config.Field) error {
	t := env.Table("key", "type", "default")
	for _, f := range fields {
		if !f.Section {
			t.Row(f.Key, f.Type, f.Default)
		}
	}
	return t.Flush()
}

func explainKey(env *cli.Env, f config.Field) error {
	t := env.Table()
	t.Row("key", f.Key)
	t.Row("meaning", f.Doc)
	if !f.Section {
		t.Row("type", f.Type)
		t.Row("default", or(f.Default, "none"))
		if l := f.Limits(); l != "" {
			t.Row("allowed", l)
		}
		if f.Trust != "" {
			t.Row("trusted", f.Trust)
		}
	}
	return t.Flush()
}
