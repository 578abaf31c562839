// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
)

// manCommand prints the manual page.
func manCommand() *Command {
	return &Command{
		Name: "man", Short: "print the manual page",
		Long: "Read it, or install it:\n\n  backstay man | man -l -\n  backstay man > /usr/local/share/man/man1/backstay.1",
		Run: func(_ context.Context, env *Env, _ []string) error {
			env.App().WriteMan(env.Stdout)
			return nil
		},
	}
}

// WriteMan writes the manual page in roff with the man(7) macros. Like the help it depends on the table alone.
func (a *App) WriteMan(w io.Writer) {
	fmt.Fprintf(w, ".\\\" Printed by `%s man`.\n.TH %s 1 \"\" %q\n", a.Name, strings.ToUpper(a.Name), a.Name+" "+a.Version)
	fmt.Fprintf(w, ".SH NAME\n%s \\- %s\n", roff(a.Name), roff(a.Short))
	fmt.Fprintf(w, ".SH SYNOPSIS\n.B %s\n[flags] COMMAND [flags] [arguments]\n", roff(a.Name))
	if a.Long != "" {
		fmt.Fprint(w, ".SH DESCRIPTION\n")
		manText(w, a.Long)
	}
	fmt.Fprint(w, ".SH COMMANDS\n")
	a.walk(func(path []string, cmd *Command) {
		fmt.Fprintf(w, ".SS %s\n.B %s\n", quoted(strings.Join(path, " ")), roff(a.typed(path)))
		if line := synopsis(cmd); line != "" {
			fmt.Fprintln(w, roff(line))
		}
		fmt.Fprintf(w, ".PP\n%s.\n", roff(capital(cmd.Short)))
		manText(w, cmd.Long)
		own := flag.NewFlagSet("", flag.ContinueOnError)
		if cmd.Flags != nil {
			cmd.Flags(own)
		}
		manFlags(w, own)
	})
	fmt.Fprint(w, ".SH OPTIONS\nThese go with every command, before or after its name.\n")
	manFlags(w, a.globalFlags(&Env{}))
	fmt.Fprint(w, ".SH EXIT STATUS\n")
	for _, e := range Exits() {
		fmt.Fprintf(w, ".TP\n.B %d\n%s.\n", int(e), roff(capital(e.Meaning())))
	}
	fmt.Fprint(w, ".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nWhen set to anything, no word is coloured.\n")
}

// manText writes paragraphs; lines indented by two blanks are shown as they are.
func manText(w io.Writer, text string) {
	if text == "" {
		return
	}
	fmt.Fprint(w, ".PP\n")
	literal := false
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		indented := strings.HasPrefix(line, "  ")
		switch {
		case indented && !literal:
			fmt.Fprint(w, ".PP\n.nf\n.RS 4\n")
		case !indented && literal:
			fmt.Fprint(w, ".RE\n.fi\n")
		}
		literal = indented
		switch {
		case indented:
			fmt.Fprintln(w, roff(line[2:]))
		case line == "":
			fmt.Fprintln(w, ".PP")
		default:
			fmt.Fprintln(w, roff(line))
		}
	}
	if literal {
		fmt.Fprint(w, ".RE\n.fi\n")
	}
}

func manFlags(w io.Writer, fs *flag.FlagSet) {
	fs.VisitAll(func(f *flag.Flag) {
		_, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(w, ".TP\n.B %s\n%s.\n", roff(flagForm(f)), roff(capital(usage)))
	})
}

// roff escapes text: backslashes, hyphens that must stay hyphens, and a dot or quote that would start a request.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// quoted makes a macro's single argument.
func quoted(s string) string { return `"` + strings.ReplaceAll(roff(s), `"`, `\(dq`) + `"` }

// capital begins a sentence.
func capital(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}
