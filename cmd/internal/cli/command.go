// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line both binaries share: a table of commands, how it is parsed, how help, completion and the
// manual page are printed from it, how an error is worded and which code the process ends with.
//
// It owns the form, never the content: it knows no pillar, opens no file and starts nothing. A command writes data to
// Env.Stdout and everything else to Env.Stderr, and returns an error instead of ending the process; only main exits.
// What it prints may come from a device or a server that lies, so control characters never reach the terminal (see clean).
//
// Parsing is the standard library's flag package: flags come before arguments, one or two dashes mean the same.
package cli

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Command is one row of the command table: a group when Sub is set, an action when Run is set, never both.
type Command struct {
	Name  string // one word, lower case
	Args  string // what follows the flags: "FILE", "[RULE...]", "bash|zsh|fish", or "" for nothing. The count is checked from it
	Short string // one line for lists: lower case, no full stop
	Long  string // whole paragraphs for `help` and the manual; optional

	// Flags adds the command's own flags. It may be called more than once and must only register them: a flag's value is
	// captured by the closure that built the command.
	Flags func(*flag.FlagSet)

	// Run does the work. args are the arguments left after the flags and fit Args. The returned error decides the exit code
	// (see App.Classify); nil is 0.
	Run func(ctx context.Context, env *Env, args []string) error

	// Complete offers words for the next argument; optional. Choices in Args are offered anyway.
	Complete func(args []string) []string

	Sub []*Command
}

// App is a whole binary.
type App struct {
	Name     string // as typed: "backstay"
	Short    string // one line, lower case, no full stop
	Long     string // whole paragraphs for the top of the help and the manual
	Version  string
	Commands []*Command

	// Flags adds flags that every command takes, before or after its name (`backstay --config F status` and
	// `backstay status --config F`). --json and --help are always there.
	Flags func(*flag.FlagSet)

	// Classify chooses exit code, `why:` and `next:` for an error that is not an *Error already. It returns ExitFailed when it
	// does not know the error. May be nil.
	Classify func(error) (exit Exit, why, next string)
}

// Env is what a command may touch of the process. A test builds its own; main uses OSEnv.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer // data only
	Stderr io.Writer // errors, progress, remarks
	JSON   bool      // --json was given: data and errors are JSON on Stdout
	Getenv func(string) string

	app  *App
	path []string // the command that runs, without the binary's name
}

// OSEnv is the environment of this process.
func OSEnv() *Env {
	return &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}
}

// App returns the application that runs the command: its table is what help, completion and the manual are made from.
func (e *Env) App() *App { return e.app }

// Terminal reports whether w is a terminal a person looks at.
func Terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Main runs the command args name (without the program's name), prints its error and returns the process's exit code.
// A nil env is OSEnv().
func (a *App) Main(ctx context.Context, args []string, env *Env) int {
	if env == nil {
		env = OSEnv()
	}
	if env.Getenv == nil {
		env.Getenv = func(string) string { return "" }
	}
	env.app = a
	env.JSON = env.JSON || wantsJSON(args)
	err := a.run(ctx, args, env)
	if err == nil {
		return int(ExitOK)
	}
	return int(a.report(env, err))
}

// wantsJSON looks for --json before parsing, so that a usage error is JSON too.
func wantsJSON(args []string) bool {
	for _, s := range args {
		switch s {
		case "--":
			return false
		case "--json", "-json", "--json=true", "-json=true":
			return true
		}
	}
	return false
}

// run finds the command and runs it.
func (a *App) run(ctx context.Context, args []string, env *Env) error {
	if len(args) > 0 && args[0] == completeWord {
		return a.printCandidates(env, args[1:])
	}
	global := a.globalFlags(env)
	rest, err := a.parse(global, nil, args)
	if errors.Is(err, flag.ErrHelp) {
		return a.help(env, nil)
	}
	if err != nil {
		return err
	}
	cmds := a.commands()
	for {
		if len(rest) == 0 {
			return a.missing(env, cmds)
		}
		name := rest[0]
		if env.path != nil && (name == "-h" || name == "-help" || name == "--help") {
			return a.help(env, env.path)
		}
		cmd, err := find(cmds, name, a.typed(env.path))
		if err != nil {
			return err
		}
		env.path = append(env.path, cmd.Name)
		rest = rest[1:]
		if cmd.Sub == nil {
			return a.leaf(ctx, cmd, global, rest, env)
		}
		cmds = cmd.Sub
	}
}

// leaf parses the flags of the command found, checks its arguments and runs it.
func (a *App) leaf(ctx context.Context, cmd *Command, global *flag.FlagSet, args []string, env *Env) error {
	fs := a.flagSet(cmd, global)
	rest, err := a.parse(fs, env.path, args)
	if errors.Is(err, flag.ErrHelp) {
		return a.help(env, env.path)
	}
	if err != nil {
		return err
	}
	if err := a.checkOrder(fs, env.path, args, rest); err != nil {
		return err
	}
	if err := checkArgs(cmd.Args, rest); err != nil {
		err.Next = strings.TrimSpace(a.typed(env.path) + " " + synopsis(cmd))
		return err
	}
	return cmd.Run(ctx, env, rest)
}

// commands is the table with help in front of it.
func (a *App) commands() []*Command {
	return append([]*Command{{
		Name: "help", Args: "[COMMAND...]", Short: "explain a command",
		Run: func(_ context.Context, env *Env, args []string) error { return a.help(env, args) },
	}}, a.Commands...)
}

// globalFlags registers the flags every command takes.
func (a *App) globalFlags(env *Env) *flag.FlagSet {
	fs := flag.NewFlagSet(a.Name, flag.ContinueOnError)
	fs.BoolVar(&env.JSON, "json", env.JSON, "print data and errors as JSON, first key \"schema\"")
	if a.Flags != nil {
		a.Flags(fs)
	}
	return fs
}

// flagSet holds the flags of one command. The global flags share their values with global, so that a value given before the
// command's name is not reset by registering the flag again.
func (a *App) flagSet(cmd *Command, global *flag.FlagSet) *flag.FlagSet {
	fs := flag.NewFlagSet(cmd.Name, flag.ContinueOnError)
	if cmd.Flags != nil {
		cmd.Flags(fs)
	}
	global.VisitAll(func(f *flag.Flag) {
		if fs.Lookup(f.Name) == nil {
			fs.Var(f.Value, f.Name, f.Usage)
			fs.Lookup(f.Name).DefValue = f.DefValue
		}
	})
	return fs
}

// typed is a command as a person types it: "backstay update check".
func (a *App) typed(path []string) string {
	return strings.Join(append([]string{a.Name}, path...), " ")
}

// find looks a name up in one level of the table.
func find(cmds []*Command, name, parent string) (*Command, error) {
	names := make([]string, 0, len(cmds))
	for _, c := range cmds {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	e := &Error{Exit: ExitUsage, Code: "unknown-command", What: "unknown command " + quote(name)}
	if near := Nearest(name, names); near != "" {
		e.Why = "the nearest command is " + quote(near)
		e.Next = parent + " " + near
		return nil, e
	}
	e.Why = "the commands are " + strings.Join(names, ", ")
	e.Next = parent + " --help"
	return nil, e
}

// missing is the answer to a group, or the binary, called without a command.
func (a *App) missing(env *Env, cmds []*Command) error {
	names := make([]string, 0, len(cmds))
	for _, c := range cmds {
		names = append(names, c.Name)
	}
	return &Error{
		Exit: ExitUsage, Code: "missing-command", What: a.typed(env.path) + " needs a command",
		Why: "the commands are " + strings.Join(names, ", "), Next: a.typed(env.path) + " --help",
	}
}
