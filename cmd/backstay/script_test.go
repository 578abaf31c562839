// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/intake"
)

var rewrite = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"backstay": main, "fakeagent": fakeAgent, "fakeintake": fakeIntake})
}

// TestScripts runs the real binary. A script may start a fake agent, which answers calls with files, and says with
// `exits CODE backstay ...` which exit code it expects; a script's `cmp` sections are rewritten with -update.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *rewrite,
		Setup: func(env *testscript.Env) error {
			env.Setenv("NO_COLOR", "1")
			// A socket's name has 107 bytes, and a script's directory may be deep.
			dir, err := os.MkdirTemp("", "bs")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			env.Setenv("SOCK", filepath.Join(dir, "s"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "waitfor": waitFor, "expand": expand},
	})
}

// exits runs a command and checks its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE command args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// waitFor waits until a file is there.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	for range 500 {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("%s did not appear", args[0])
}

// expand replaces $WORK and $SOCK in a file: a configuration holds absolute paths.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	for _, name := range []string{"WORK", "SOCK"} {
		b = bytes.ReplaceAll(b, []byte("$"+name), []byte(ts.Getenv(name)))
	}
	ts.Check(os.WriteFile(path, b, 0o600))
}

// fakeAgent answers on the socket args[1] from the directory args[2]: NAME.json is the answer to the call NAME, NAME.N.json the
// one to its Nth, NAME.error an error, NAME.stream a stream. Each call is a line in the directory's file "calls".
func fakeAgent() {
	dir := os.Args[2]
	count := map[string]int{}
	handler := control.Handler{}
	for _, name := range methods() {
		handler[name] = func(_ context.Context, params json.RawMessage) (any, error) {
			count[name]++
			calls, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				return nil, err
			}
			defer calls.Close()
			fmt.Fprintf(calls, "%s %s\n", name, params)
			return fakeAnswer(dir, name, count[name])
		}
	}
	l, err := control.Listen(os.Args[1], nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := (&control.Server{Handler: handler}).Serve(ctx, l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// fakeIntake takes events of programs on the socket args[1] and writes each as a line of the file "events". The code app.full
// finds no room.
func fakeIntake() {
	record := func(_ context.Context, e logging.Event, durable bool) (uint64, error) {
		if e.Code == "app.full" {
			return 0, logging.ErrRetry
		}
		f, err := os.OpenFile("events", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		severity := e.Severity
		if severity == logging.SeverityDefault {
			severity = logging.Lookup(e.Code).Severity
		}
		fmt.Fprintf(f, "%s %s durable=%v", e.Code, severity, durable)
		if e.Subject == fmt.Sprintf("uid %d", os.Geteuid()) {
			fmt.Fprint(f, " uid")
		}
		for _, name := range []string{"door", "by"} {
			if v, ok := e.Attr(name); ok {
				fmt.Fprintf(f, " %s=%s", name, v)
			}
		}
		_, err = fmt.Fprintf(f, " %q\n", e.Message)
		return 1, err
	}
	l, err := intake.Listen(os.Args[1], nil, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := intake.New(intake.Config{Rate: logging.Rate{Per: 1000, Burst: 1000}, Record: record, Emit: func(string, ...slog.Attr) {}})
	if err := s.Serve(ctx, l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func fakeAnswer(dir, name string, n int) (any, error) {
	base := filepath.Join(dir, name)
	if b, err := os.ReadFile(base + ".stream"); err == nil {
		return control.Stream(func(w io.Writer) error {
			whole, isWhole := bytes.CutSuffix(b, []byte("BREAK\n"))
			if _, err := w.Write(whole); err != nil || !isWhole {
				return err
			}
			return &control.Error{Class: control.ClassFailed, Code: "damaged", What: "read log", Why: "record 3 cannot be read"}
		}), nil
	}
	for _, file := range []string{fmt.Sprintf("%s.%d.error", base, n), base + ".error"} {
		if b, err := os.ReadFile(file); err == nil {
			var e control.Error
			if err := json.Unmarshal(b, &e); err != nil {
				return nil, err
			}
			return nil, &e
		}
	}
	for _, file := range []string{fmt.Sprintf("%s.%d.json", base, n), base + ".json"} {
		if b, err := os.ReadFile(file); err == nil {
			return json.RawMessage(b), nil
		}
	}
	return nil, errors.New("the script has no answer for " + name)
}

func methods() []string {
	return []string{
		control.MethodStatus, control.MethodUpdateCheck, control.MethodUpdateInstall, control.MethodUpdateHistory, control.MethodUpdateCancel, control.MethodUpdatePardon,
		control.MethodUpdateStatus, control.MethodUpdateApprove, control.MethodUpdateReject, control.MethodUpdatePostpone,
		control.MethodSlotList, control.MethodSlotMarkGood, control.MethodSlotMarkBad, control.MethodSlotRollback,
		control.MethodBaselineCheck, control.MethodBaselineApply, control.MethodBaselineExplain, control.MethodBaselineUndo,
		control.MethodIdentityShow, control.MethodIdentityEnroll, control.MethodIdentityRenew,
		control.MethodAuditTail, control.MethodAuditVerify, control.MethodAuditExport,
	}
}

// TestHelp holds the help of every command in one file, in the order of the table.
func TestHelp(t *testing.T) {
	var b bytes.Buffer
	a := app(wiring{})
	a.Version = "0"
	a.WriteHelp(&b, nil, nil)
	var level func(path []string, cmds []*cli.Command)
	level = func(path []string, cmds []*cli.Command) {
		for _, c := range cmds {
			p := append(path[:len(path):len(path)], c.Name)
			b.WriteString("\n----\n")
			a.WriteHelp(&b, p, c)
			level(p, c.Sub)
		}
	}
	level(nil, a.Commands)
	golden(t, filepath.Join("testdata", "help.txt"), b.Bytes())
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date, run `go test -update` here\n%s", path, got)
	}
}
