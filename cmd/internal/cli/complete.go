// SPDX-License-Identifier: Apache-2.0

package cli

// Completion. The shells' scripts are small and know nothing: they hand the words typed so far to the binary, under the hidden
// word __complete, and show what it answers. So a script installed with one version completes the commands of the next.

import (
	"context"
	"flag"
	"fmt"
	"strings"
)

const (
	completeWord = "__complete"
	wantFiles    = ":files" // the answer that makes a script offer file names
)

// candidate is one word offered and what it means.
type candidate struct{ word, short string }

// printCandidates answers a completion script: words are those after the binary's name, the last one as far as it is typed.
func (a *App) printCandidates(env *Env, words []string) error {
	last := ""
	if len(words) > 0 {
		words, last = words[:len(words)-1], words[len(words)-1]
	}
	for _, c := range a.candidates(words, last) {
		if c.word == wantFiles || strings.HasPrefix(c.word, last) {
			fmt.Fprintf(env.Stdout, "%s\t%s\n", c.word, c.short)
		}
	}
	return nil
}

// candidates lists what may come after the complete words before.
func (a *App) candidates(before []string, last string) []candidate {
	cmds, cmd := a.commands(), (*Command)(nil)
	global := a.globalFlags(&Env{})
	fs, args := global, []string(nil)
	for i := 0; i < len(before); i++ {
		w := before[i]
		if strings.HasPrefix(w, "-") && w != "-" {
			name, value, hasValue := strings.Cut(strings.TrimLeft(w, "-"), "=")
			f := fs.Lookup(name)
			if f != nil && !isBool(f) && !hasValue {
				i++ // the next word is its value
				if i == len(before) {
					return []candidate{{wantFiles, ""}}
				}
				value, hasValue = before[i], true
			}
			if f != nil && hasValue {
				_ = f.Value.Set(value) // a command's own completion may look at it; a bad value is for the command to report
			}
			continue
		}
		if cmd != nil && cmd.Sub == nil {
			args = append(args, w)
			continue
		}
		c, err := find(cmds, w, "")
		if err != nil {
			return nil
		}
		cmd, cmds = c, c.Sub
		fs = a.flagSet(c, global)
	}
	switch {
	case strings.HasPrefix(last, "-"):
		return flagCandidates(fs)
	case cmd == nil || cmd.Sub != nil:
		out := make([]candidate, 0, len(cmds))
		for _, c := range cmds {
			out = append(out, candidate{c.Name, c.Short})
		}
		return out
	case cmd.Name == "help":
		return a.candidates(args, last)
	}
	return argCandidates(cmd, args)
}

func flagCandidates(fs *flag.FlagSet) []candidate {
	var out []candidate
	fs.VisitAll(func(f *flag.Flag) {
		_, usage := flag.UnquoteUsage(f)
		out = append(out, candidate{"--" + f.Name, usage})
	})
	return out
}

// argCandidates offers words for the argument after args.
func argCandidates(cmd *Command, args []string) []candidate {
	var next *arg
	spec := parseArgs(cmd.Args)
	switch {
	case len(spec) == 0:
		return nil
	case len(args) < len(spec):
		next = &spec[len(args)]
	case spec[len(spec)-1].many:
		next = &spec[len(spec)-1]
	default:
		return nil
	}
	words := next.choices
	if cmd.Complete != nil {
		words = append(words, cmd.Complete(args)...)
	}
	if len(words) == 0 && (strings.Contains(next.name, "FILE") || strings.Contains(next.name, "DIR")) {
		return []candidate{{wantFiles, ""}}
	}
	out := make([]candidate, 0, len(words))
	for _, w := range words {
		out = append(out, candidate{w, ""})
	}
	return out
}

// completionCommand prints the script of a shell.
func completionCommand() *Command {
	return &Command{
		Name: "completion", Args: "bash|zsh|fish", Short: "print the completion script of a shell",
		Long: `Load it in the running shell, or put it where the shell looks for completions:

  source <(backstay completion bash)
  backstay completion zsh > "${fpath[1]}/_backstay"
  backstay completion fish > ~/.config/fish/completions/backstay.fish

The script asks the binary for words, so it need not be renewed with it.`,
		Run: func(_ context.Context, env *Env, args []string) error {
			_, err := fmt.Fprint(env.Stdout, strings.ReplaceAll(completionScript(args[0]), "NAME", env.App().Name))
			return err
		},
	}
}

func completionScript(shell string) string {
	switch shell {
	case "bash":
		return `# bash completion for NAME
_NAME() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == :files* ]]; then
            compopt -o default
            return
        fi
        COMPREPLY+=("${line%%$'\t'*}")
    done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _NAME NAME
`
	case "zsh":
		return `#compdef NAME
_NAME() {
    local line
    local -a found
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        if [[ $line == :files* ]]; then
            _files
            return
        fi
        [[ -n $line ]] && found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    _describe NAME found
}
if [[ $funcstack[1] == _NAME ]]; then
    _NAME "$@"
else
    compdef _NAME NAME
fi
`
	}
	return `# fish completion for NAME
function __NAME_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete $words[2..-1] 2>/dev/null)
    if string match -q ':files*' -- $found[1]
        __fish_complete_path (commandline -ct)
        return
    end
    printf '%s\n' $found
end
complete -c NAME -f -a '(__NAME_complete)'
`
}
