// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/testdata/testneed"
)

var errKnown = errors.New("known thing")

type coded struct{}

func (coded) Error() string     { return "no: because" }
func (coded) ErrorCode() string { return "the-code" }

// testApp is a small table that prints what reached its commands.
func testApp() *cli.App {
	var loud bool
	var out, config string
	echo := func(_ context.Context, env *cli.Env, args []string) error {
		fmt.Fprintf(env.Stdout, "loud=%v out=%q config=%q args=%q\n", loud, out, config, args)
		return nil
	}
	flags := func(fs *flag.FlagSet) {
		fs.BoolVar(&loud, "loud", false, "say it loudly")
		fs.StringVar(&out, "out", "", "write to `file`")
	}
	fail := func(err error) func(context.Context, *cli.Env, []string) error {
		return func(context.Context, *cli.Env, []string) error { return err }
	}
	return &cli.App{
		Name: "tool", Short: "does things", Version: "1.2.3",
		Long:  "First paragraph.\n\n  tool echo x\n\n.second starts with a dot and has a back\\slash.",
		Flags: func(fs *flag.FlagSet) { fs.StringVar(&config, "config", "/etc/tool", "configuration `file`") },
		Commands: append([]*cli.Command{
			{Name: "echo", Args: "FILE [MORE...]", Short: "print arguments", Flags: flags, Run: echo},
			{Name: "group", Short: "holds commands", Sub: []*cli.Command{
				{Name: "leaf", Short: "takes nothing", Run: echo},
				{Name: "pick", Args: "red|green|blue", Short: "takes a colour", Run: echo, Complete: func([]string) []string { return []string{"grey"} }},
				{Name: "words", Args: "[WORD]", Short: "offers words", Run: echo, Complete: func([]string) []string { return []string{"alpha", "beta"} }},
			}},
			{Name: "known", Short: "fails", Run: fail(errKnown)},
			{Name: "coded", Short: "fails", Run: fail(fmt.Errorf("wrap: %w", coded{}))},
			{Name: "plain", Short: "fails", Run: fail(errors.New("plain trouble \x1b[31m\u202e"))},
			{Name: "found", Short: "finds", Run: fail(cli.Findings("2 rules fail", "tool fix"))},
			{Name: "quiet", Short: "finds", Run: fail(cli.Findings("2 rules fail", "tool fix").Quiet())},
			{Name: "boot", Short: "reboots", Run: fail(cli.Reboot("written", "wait"))},
		}, cli.Standard()...),
		Classify: func(err error) (cli.Exit, string, string) {
			if errors.Is(err, errKnown) {
				return cli.ExitRefused, "thing", "ask somebody"
			}
			return cli.ExitFailed, "", ""
		},
	}
}

func run(line ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	code = testApp().Main(context.Background(), line, &cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut})
	return code, out.String(), errOut.String()
}

func TestDispatch(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"echo a", `loud=false out="" config="/etc/tool" args=["a"]`},
		{"echo --loud -out f a b c", `loud=true out="f" config="/etc/tool" args=["a" "b" "c"]`},
		{"--config x echo a", `loud=false out="" config="x" args=["a"]`},
		{"echo --config=y a", `loud=false out="" config="y" args=["a"]`},
		{"--config x echo --config z a", `loud=false out="" config="z" args=["a"]`},
		{"echo -- --loud", `loud=false out="" config="/etc/tool" args=["--loud"]`},
		{"echo a -", `loud=false out="" config="/etc/tool" args=["a" "-"]`},
		{"group leaf", `loud=false out="" config="/etc/tool" args=[]`},
		{"group pick green", `loud=false out="" config="/etc/tool" args=["green"]`},
	} {
		code, out, errOut := run(strings.Fields(tt.line)...)
		if code != 0 || strings.TrimSpace(out) != tt.want {
			t.Errorf("%s: exit %d, %s%s, want %s", tt.line, code, out, errOut, tt.want)
		}
	}
}

// TestErrors is the wording of everything that can be wrong about a line, and of every way a command ends.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		line string
		code cli.Exit
		text string
	}{
		{"", 2, "error: tool needs a command\nwhy:   the commands are help, echo, group, known, coded, plain, found, quiet, boot, version, completion, man\nnext:  tool --help\n"},
		{"ehco a", 2, "error: unknown command \"ehco\"\nwhy:   the nearest command is \"echo\"\nnext:  tool echo\n"},
		{"group", 2, "error: tool group needs a command\nwhy:   the commands are leaf, pick, words\nnext:  tool group --help\n"},
		{"group zzzzzz", 2, "error: unknown command \"zzzzzz\"\nwhy:   the commands are leaf, pick, words\nnext:  tool group --help\n"},
		{"echo", 2, "error: missing FILE\nnext:  tool echo [--loud] [--out FILE] FILE [MORE...]\n"},
		{"group leaf x", 2, "error: unexpected argument \"x\"\nwhy:   this command takes no arguments\nnext:  tool group leaf\n"},
		{"group words a b", 2, "error: unexpected argument \"b\"\nnext:  tool group words [WORD]\n"},
		{"group pick gren", 2, "error: \"gren\" is not one of red, green, blue\nwhy:   the nearest is \"green\"\nnext:  tool group pick red|green|blue\n"},
		{"echo --luod a", 2, "error: unknown flag --luod\nwhy:   the nearest flag is --loud\nnext:  tool echo --help\n"},
		{"--loud echo a", 2, "error: unknown flag --loud\nwhy:   --loud is a flag of a command and goes after its name\nnext:  tool echo --loud\n"},
		{"echo --out", 2, "error: flag --out needs a value\nnext:  tool echo --help\n"},
		{"echo --loud=perhaps a", 2, "error: invalid boolean value \"perhaps\" for -loud: parse error\nnext:  tool echo --help\n"},
		{"echo a --out f --loud b", 2, "error: flag \"--out\" must come before the arguments\nwhy:   everything after the first argument is an argument\nnext:  tool echo --out f --loud a b\n"},
		{"echo --loud a* --out f", 2, "error: flag \"--out\" must come before the arguments\nwhy:   everything after the first argument is an argument\nnext:  tool echo --help\n"},
		{"echo a --help", 2, "error: --help must come before the arguments\nwhy:   everything after the first argument is an argument\nnext:  tool echo --help\n"},
		{"known", 5, "error: known thing\nwhy:   thing\nnext:  ask somebody\n"},
		{"coded", 1, "error: wrap: no: because\n"},
		{"plain", 1, "error: plain trouble \\u001b[31m\\u202e\n"},
		{"found", 6, "error: 2 rules fail\nnext:  tool fix\n"},
		{"quiet", 6, ""},
		{"boot", 4, "done:  written\nnext:  wait\n"},
		{"help group lef", 2, "error: unknown command \"lef\"\nwhy:   the nearest command is \"leaf\"\nnext:  tool help group leaf\n"},
	} {
		code, out, errOut := run(strings.Fields(tt.line)...)
		if code != int(tt.code) || errOut != tt.text || out != "" {
			t.Errorf("%q: exit %d, want %d\nstderr:\n%s\nwant:\n%s\nstdout: %s", tt.line, code, tt.code, errOut, tt.text, out)
		}
	}
}

func TestErrorsAsJSON(t *testing.T) {
	for _, tt := range []struct {
		line, class, code string
		exit              int
	}{
		{"--json known", "refused", "", 5},
		{"coded --json", "failed", "the-code", 1},
		{"--json echo", "usage", "missing-argument", 2},
		{"echo --json --nope a", "usage", "unknown-flag", 2},
		{"boot --json", "reboot", "reboot", 4},
	} {
		code, out, errOut := run(strings.Fields(tt.line)...)
		var got struct {
			Schema, Class, Code, Message, Why, Next string
			Exit                                    int
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Errorf("%q: %v in %q", tt.line, err, out)
			continue
		}
		if code != tt.exit || got.Exit != tt.exit || got.Schema != cli.ErrorSchema || got.Class != tt.class || got.Code != tt.code || errOut != "" {
			t.Errorf("%q: exit %d, %+v, stderr %q", tt.line, code, got, errOut)
		}
		if !strings.HasPrefix(out, "{\n  \"schema\": ") {
			t.Errorf("%q: the first key is not schema:\n%s", tt.line, out)
		}
	}
	if code, out, _ := run("--json", "quiet"); code != 6 || out != "" {
		t.Errorf("a quiet error prints %q and ends with %d", out, code)
	}
}

func TestClassifyOfRefusalSaysReasonOnce(t *testing.T) {
	app := testApp()
	app.Classify = func(error) (cli.Exit, string, string) { return cli.ExitRefused, "below the floor", "" }
	app.Commands[2].Run = func(context.Context, *cli.Env, []string) error { return errors.New("release 1: below the floor") }
	var errOut bytes.Buffer
	app.Main(context.Background(), []string{"known"}, &cli.Env{Stdout: &bytes.Buffer{}, Stderr: &errOut})
	if want := "error: release 1\nwhy:   below the floor\n"; errOut.String() != want {
		t.Errorf("got %q, want %q", errOut.String(), want)
	}
}

func TestPrintJSON(t *testing.T) {
	type list struct {
		Items []int `json:"items"`
	}
	for _, tt := range []struct {
		v    any
		want string
	}{
		{struct{}{}, `{"schema":"t/1"}`},
		{list{[]int{1}}, `{"schema":"t/1","items":[1]}`},
		{[]int{1, 2}, `{"schema":"t/1","items":[1,2]}`},
		{[]int(nil), `{"schema":"t/1","items":[]}`},
		{nil, `{"schema":"t/1","items":[]}`},
		{map[string]string{"a": "b"}, `{"schema":"t/1","a":"b"}`},
	} {
		var out, compact bytes.Buffer
		if err := (&cli.Env{Stdout: &out}).PrintJSON("t/1", tt.v); err != nil {
			t.Fatal(err)
		}
		if err := json.Compact(&compact, out.Bytes()); err != nil || compact.String() != tt.want {
			t.Errorf("%#v: %s (%v), want %s", tt.v, compact.String(), err, tt.want)
		}
	}
	if err := (&cli.Env{Stdout: &bytes.Buffer{}}).PrintJSON("t/1", func() {}); err == nil {
		t.Error("a value JSON cannot hold is no error")
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	tab := (&cli.Env{Stdout: &out}).Table("name", "state", "note")
	tab.Row("a", "ok", "")
	tab.Row("größer", "waiting", "x\x1b[2Jy")
	tab.Row("z")
	if err := tab.Flush(); err != nil {
		t.Fatal(err)
	}
	want := "name    state    note\na       ok\ngrößer  waiting  x\\u001b[2Jy\nz\n"
	if out.String() != want {
		t.Errorf("got:\n%q\nwant:\n%q", out.String(), want)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"status", "update", "slot", "zsh", "fish"}
	for in, want := range map[string]string{"statsu": "status", "stauts": "status", "slt": "slot", "fsh": "fish", "xyz": "", "": "", strings.Repeat("a", 1000): ""} {
		if got := cli.Nearest(in, known); got != want {
			t.Errorf("Nearest(%.20q) = %q, want %q", in, got, want)
		}
	}
}

func TestProgressWithoutTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := (&cli.Env{Stderr: &out}).Progress("download 2.5.0", 30_100_000)
		for n := int64(0); n <= 30_100_000; n += 100_000 {
			p.Set(n)
			time.Sleep(50 * time.Millisecond)
		}
		p.Done(30_100_000)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 11 {
			t.Errorf("%d lines, want one each ten percent:\n%s", len(lines), out.String())
		}
		if want := "download 2.5.0  50 %  15.1 MB/30.1 MB  2.0 MB/s  7 s left"; lines[5] != want {
			t.Errorf("got %q, want %q", lines[5], want)
		}
	})
}

func TestProgressUnknownTotalAndJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := (&cli.Env{Stderr: &out}).Progress("read", 0)
		for i := range int64(21) {
			p.Set(i * 1000)
			time.Sleep(time.Second)
		}
		if n := strings.Count(out.String(), "\n"); n != 3 {
			t.Errorf("%d lines in 20 s, want 3:\n%s", n, out.String())
		}
		out.Reset()
		q := (&cli.Env{Stderr: &out, JSON: true}).Progress("read", 10)
		q.Set(10)
		q.Done(10)
		if out.Len() != 0 {
			t.Errorf("JSON mode shows progress: %q", out.String())
		}
	})
}

func TestSizesAndDurations(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_999: "1.0 MB", 12_345_678: "12.3 MB", 1 << 62: "4.6 EB"} {
		if got := cli.Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 9 * time.Second: "9 s", 12 * time.Minute: "12 min", 5*time.Hour + 48*time.Minute: "5 h 48 min",
		3 * time.Hour: "3 h", 61 * 24 * time.Hour: "61 days",
	} {
		if got := cli.Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, tt := range []struct {
		words []string
		want  string
	}{
		{[]string{"gr"}, "group"},
		{[]string{"group", ""}, "leaf pick words"},
		{[]string{"group", "pick", "g"}, "green grey"},
		{[]string{"group", "words", ""}, "alpha beta"},
		{[]string{"group", "words", "alpha", ""}, ""},
		{[]string{"echo", "--l"}, "--loud"},
		{[]string{"echo", "--out", ""}, ":files"},
		{[]string{"echo", "--loud", ""}, ":files"},
		{[]string{"--config", "f", "group", "l"}, "leaf"},
		{[]string{"help", "group", "w"}, "words"},
		{[]string{"completion", ""}, "bash zsh fish"},
		{[]string{"nonsense", ""}, ""},
		{nil, "help echo group known coded plain found quiet boot version completion man"},
	} {
		_, out, _ := run(append([]string{"__complete"}, tt.words...)...)
		var got []string
		for _, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
			word, _, _ := strings.Cut(line, "\t")
			got = append(got, word)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q: %q, want %q", tt.words, got, tt.want)
		}
	}
}

// TestBashCompletion loads the script into a real bash with a fake binary behind it.
func TestBashCompletion(t *testing.T) {
	bash := testneed.Program(t, "bash", "bash")
	_, script, _ := run("completion", "bash")
	out, err := exec.Command(bash, "-c", script+`
tool() { echo "asked $*" >>"$ASKED"; printf 'leaf\ttakes nothing\nlean\tx\n'; }
ASKED=$(mktemp); trap 'rm -f "$ASKED"' EXIT
COMP_WORDS=(tool group le); COMP_CWORD=2; _tool
echo "${#COMPREPLY[@]} ${COMPREPLY[*]}"; cat "$ASKED"`).CombinedOutput()
	if want := "2 leaf lean\nasked __complete group le\n"; err != nil || string(out) != want {
		t.Errorf("%v: got %q, want %q", err, out, want)
	}
}

func TestScriptsOfTheOtherShells(t *testing.T) {
	for _, shell := range []string{"zsh", "fish"} {
		_, script, _ := run("completion", shell)
		if !strings.Contains(script, "__complete") || strings.Contains(script, "NAME") || !strings.Contains(script, "tool") {
			t.Errorf("%s:\n%s", shell, script)
		}
		golden(t, "testdata/completion."+shell, []byte(script))
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // the syntax is also checked where the shell is installed
		}
		if out, err := exec.Command(path, "-n", "testdata/completion."+shell).CombinedOutput(); err != nil {
			t.Errorf("%s -n: %v\n%s", shell, err, out)
		}
	}
}

func TestManPage(t *testing.T) {
	_, page, _ := run("man")
	golden(t, "testdata/man.1", []byte(page))
	groff := testneed.Program(t, "groff", "groff-base")
	cmd := exec.Command(groff, "-man", "-ww", "-Tutf8")
	cmd.Stdin = strings.NewReader(page)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil || errOut.Len() > 0 {
		t.Errorf("groff: %v\n%s", err, errOut.String())
	}
	for _, want := range []string{".second starts with a dot and has a back\\slash.", "takes a colour", "the line typed"} {
		if !strings.Contains(strings.ToLower(strings.Join(strings.Fields(out.String()), " ")), want) {
			t.Errorf("the page does not say %q:\n%s", want, out.String())
		}
	}
}

func TestHelp(t *testing.T) {
	var all bytes.Buffer
	for _, line := range []string{"help", "help echo", "help group", "help group pick", "echo --help", "group --help", "group pick -h", "--help"} {
		code, out, errOut := run(strings.Fields(line)...)
		if code != 0 || errOut != "" {
			t.Errorf("%s: exit %d, %s", line, code, errOut)
		}
		fmt.Fprintf(&all, "$ tool %s\n%s\n", line, out)
	}
	golden(t, "testdata/help.txt", all.Bytes())
}

func TestVersionAndSBOM(t *testing.T) {
	code, out, _ := run("--json", "version")
	var v struct {
		Schema, Version, Go, Target string
		FIPS140                     struct{ Enabled bool }
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 || v.Schema != "tool.version/1" || v.Version != "1.2.3" || !strings.HasPrefix(v.Go, "1.") {
		t.Errorf("version: exit %d, %v\n%s", code, err, out)
	}
	code, out, _ = run("version", "--sbom")
	var b struct {
		BOMFormat, SpecVersion, SerialNumber string
		Components                           []struct{ Name, Version string }
		Dependencies                         []struct{ DependsOn []string }
	}
	if err := json.Unmarshal([]byte(out), &b); err != nil || code != 0 {
		t.Fatalf("sbom: exit %d, %v\n%s", code, err, out)
	}
	if b.BOMFormat != "CycloneDX" || b.SpecVersion != "1.5" || len(b.Components) == 0 || b.Components[0].Name != "std" ||
		len(b.Dependencies) != 1 || len(b.Dependencies[0].DependsOn) != len(b.Components) {
		t.Errorf("sbom:\n%s", out)
	}
	if _, again, _ := run("version", "--sbom"); again != out {
		t.Error("two bills of materials of one binary differ")
	}
}
