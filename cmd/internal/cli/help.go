// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// help prints the help of the command path names to Stdout; of the binary when path is empty.
func (a *App) help(env *Env, path []string) error {
	cmds, at := a.commands(), []string(nil)
	var cmd *Command
	for _, name := range path {
		c, err := find(cmds, name, a.typed(append([]string{"help"}, at...)))
		if err != nil {
			return err
		}
		cmd, cmds, at = c, c.Sub, append(at, c.Name)
	}
	a.WriteHelp(env.Stdout, at, cmd)
	return nil
}

// WriteHelp writes the help of one command, or of the binary when cmd is nil. It depends on the table alone, so a golden file
// can hold it.
func (a *App) WriteHelp(w io.Writer, path []string, cmd *Command) {
	if cmd == nil {
		fmt.Fprintf(w, "%s: %s\n\nusage: %s [flags] COMMAND [flags] [arguments]\n", a.Name, a.Short, a.Name)
		writeParagraphs(w, a.Long)
		writeCommands(w, a.commands())
		writeFlags(w, a.globalFlags(&Env{}), "flags of every command")
		fmt.Fprintf(w, "\n`%s help COMMAND` explains a command. Flags come before arguments.\n", a.Name)
		return
	}
	fs := a.flagSet(cmd, flag.NewFlagSet("", flag.ContinueOnError))
	fmt.Fprintf(w, "%s: %s\n\nusage: %s %s\n", a.typed(path), cmd.Short, a.typed(path), synopsis(cmd))
	writeParagraphs(w, cmd.Long)
	if cmd.Sub != nil {
		writeCommands(w, cmd.Sub)
		return
	}
	writeFlags(w, fs, "flags")
	writeFlags(w, a.globalFlags(&Env{}), "flags of every command")
}

// synopsis is what follows the command's name on the usage line.
func synopsis(cmd *Command) string {
	if cmd.Sub != nil {
		return "COMMAND [flags] [arguments]"
	}
	var parts []string
	own := flag.NewFlagSet("", flag.ContinueOnError)
	if cmd.Flags != nil {
		cmd.Flags(own)
	}
	own.VisitAll(func(f *flag.Flag) { parts = append(parts, "["+flagForm(f)+"]") })
	if cmd.Args != "" {
		parts = append(parts, cmd.Args)
	}
	return strings.Join(parts, " ")
}

// flagForm is a flag as it is typed: "--out FILE".
func flagForm(f *flag.Flag) string {
	value, _ := flag.UnquoteUsage(f)
	if value == "" {
		return "--" + f.Name
	}
	return "--" + f.Name + " " + strings.ToUpper(value)
}

func writeParagraphs(w io.Writer, text string) {
	if text = strings.TrimSpace(text); text != "" {
		fmt.Fprintf(w, "\n%s\n", text)
	}
}

func writeCommands(w io.Writer, cmds []*Command) {
	width := 0
	for _, c := range cmds {
		width = max(width, len(c.Name))
	}
	fmt.Fprintf(w, "\ncommands:\n")
	for _, c := range cmds {
		fmt.Fprintf(w, "  %-*s  %s\n", width, c.Name, c.Short)
	}
}

func writeFlags(w io.Writer, fs *flag.FlagSet, title string) {
	width := 0
	fs.VisitAll(func(f *flag.Flag) { width = max(width, len(flagForm(f))) })
	if width == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s:\n", title)
	fs.VisitAll(func(f *flag.Flag) {
		_, usage := flag.UnquoteUsage(f)
		if def := f.DefValue; def != "" && def != "false" && def != "0" && def != "0s" {
			usage += " (default " + def + ")"
		}
		fmt.Fprintf(w, "  %-*s  %s\n", width, flagForm(f), usage)
	})
}
