// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/nft"
	"github.com/backstay/backstay/testdata/testneed"
)

// These tests run in network namespaces: the test process is the peer, a child process is the device, and a child of the
// device is the agent, which can be killed without the device going with it.
const (
	roleEnv  = "BACKSTAY_TEST_FIREWALL"
	stateEnv = "BACKSTAY_TEST_STATE"
	device   = "10.9.0.2"
	mgmtPort = "7000"
	window   = 2 * time.Second
)

func child(t testing.TB, role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"-test.run=^TestFirewallRole$", "-test.v"}, args...)...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// TestFirewallRole is no test: it is the device or the agent of the tests below.
func TestFirewallRole(t *testing.T) {
	switch role, arg, _ := strings.Cut(os.Getenv(roleEnv), " "); role {
	case "device":
		beDevice(t)
	case "agent":
		beAgent(t, arg)
	default:
		t.Skip("it plays the device for the tests of the firewall")
	}
}

// beDevice answers on two ports and starts agents, until its input ends.
func beDevice(t *testing.T) {
	fmt.Println("device: started")
	in := bufio.NewScanner(os.Stdin)
	var agent *exec.Cmd
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), " ")
		switch verb {
		case "up":
			linkUp(t, "lo", nil)
			linkUp(t, "dev0", net.ParseIP(device))
			for _, port := range []string{"22", "2323"} {
				l, err := net.Listen("tcp", device+":"+port)
				if err != nil {
					t.Fatal(err)
				}
				go echo(l)
			}
			fmt.Println("device: up")
		case "agent":
			agent = child(t, "agent "+arg)
			agent.Stdout = os.Stdout
			if err := agent.Start(); err != nil {
				t.Fatal(err)
			}
		case "wait":
			_ = agent.Wait() // what it has to say it printed
		case "kill":
			if err := errors.Join(agent.Process.Kill(), ignoreExit(agent.Wait())); err != nil {
				t.Fatal(err)
			}
			fmt.Println("device: killed")
		}
	}
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
	}
}

// beAgent runs the engine once over the running system of its namespace, and says what came of it.
func beAgent(t *testing.T, arg string) {
	verb, want, _ := strings.Cut(arg, " ")
	p, err := configs.ParsePolicy([]byte(`{"schema":1,"id":"fw","serial":1,"rules":[{"id":"firewall.input","title":"closed","why":"x","severity":"high","kind":"firewall","target":"input","want":` +
		want + `,"fix":"fix-with-confirm"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot("/")
	if err != nil {
		t.Fatal(err)
	}
	e := &configs.Engine{Root: root, Policy: p, Live: true, StateDir: os.Getenv(stateEnv), Now: time.Now}
	mgmt, err := net.Listen("tcp", device+":"+mgmtPort)
	if err != nil {
		t.Fatal(err)
	}
	defer mgmt.Close()
	e.Confirm = func(ctx context.Context) error { // somebody reaches the management port by a new connection
		fmt.Println("agent: trial")
		if verb == "hang" {
			select {}
		}
		if err := mgmt.(*net.TCPListener).SetDeadline(time.Now().Add(window)); err != nil {
			return err
		}
		c, err := mgmt.Accept()
		if err != nil {
			return err
		}
		return c.Close()
	}
	ctx := context.Background()
	switch verb {
	case "undo":
		done, err := e.Undo(ctx)
		fmt.Printf("agent: undone %d %v\n", len(done), err)
		return
	case "recover":
		done, err := e.Recover(ctx)
		fmt.Printf("agent: recovered %d %v\n", len(done), err)
		return
	}
	r, err := e.Apply(ctx, nil, verb == "dry")
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(r.Findings[0])
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("agent: %s\n", out)
}

// lab is the two namespaces, seen from the peer.
type lab struct {
	t     *testing.T
	state string
	in    io.Writer
	lines chan string
}

func newLab(t *testing.T) *lab {
	c, err := nft.Dial()
	if err == nil {
		_, err = c.Dump(t.Context())
		c.Close()
	}
	if errors.Is(err, nft.ErrUnsupported) || errors.Is(err, nft.ErrPermission) {
		t.Skip(err)
	}
	cmd := child(t, "device")
	testneed.Namespace(cmd)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	state := t.TempDir()
	cmd.Env = append(cmd.Env, stateEnv+"="+state)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("the kernel gives no network namespace: %v", err)
	}
	l := &lab{t: t, state: state, in: in, lines: make(chan string, 64)}
	go func() {
		defer close(l.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			if strings.HasPrefix(s.Text(), "device: ") || strings.HasPrefix(s.Text(), "agent: ") {
				l.lines <- s.Text()
			} else if strings.Contains(s.Text(), "_test.go") {
				fmt.Println(s.Text())
			}
		}
	}()
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	l.expect("device: started")
	veth(t, "peer0", "dev0", cmd.Process.Pid)
	linkUp(t, "peer0", net.ParseIP("10.9.0.1"))
	l.say("up")
	l.expect("device: up")
	return l
}

func (l *lab) say(line string) {
	l.t.Helper()
	if _, err := io.WriteString(l.in, line+"\n"); err != nil {
		l.t.Fatal(err)
	}
}

// expect waits for a line that begins so and returns the rest.
func (l *lab) expect(prefix string) string {
	l.t.Helper()
	for end := time.After(30 * time.Second); ; {
		select {
		case line, ok := <-l.lines:
			if !ok {
				l.t.Fatalf("the device ended before %q", prefix)
			}
			if rest, is := strings.CutPrefix(line, prefix); is {
				return rest
			}
			l.t.Fatalf("the device says %q, want %q", line, prefix)
		case <-end:
			l.t.Fatalf("the device does not say %q", prefix)
		}
	}
}

// finding runs the agent and gives what it says of the rule; while it is on trial, meanwhile is called.
func (l *lab) finding(verb, want string, trial bool, meanwhile func()) configs.Finding {
	l.t.Helper()
	l.say("agent " + verb + " " + want)
	if trial {
		l.expect("agent: trial")
		meanwhile()
	}
	var f configs.Finding
	if err := json.Unmarshal([]byte(l.expect("agent: ")), &f); err != nil {
		l.t.Fatal(err)
	}
	l.say("wait")
	return f
}

// forget makes the agent forget what was taken back.
func (l *lab) forget() {
	l.t.Helper()
	if err := os.Remove(filepath.Join(l.state, "memory.json")); err != nil {
		l.t.Fatal(err)
	}
}

func reach(port string) (net.Conn, error) {
	return net.DialTimeout("tcp", device+":"+port, 700*time.Millisecond)
}

func (l *lab) open(port string, want bool) {
	l.t.Helper()
	c, err := reach(port)
	if err == nil {
		c.Close()
	}
	if (err == nil) != want {
		l.t.Errorf("port %s: %v, want open: %v", port, err, want)
	}
}

// session is a connection that was there before.
type session struct{ net.Conn }

func (s session) alive() error {
	_ = s.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := s.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(s, make([]byte, 1))
	return err
}

func startSession(t *testing.T) session {
	c, err := reach("2323")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s := session{c}
	if err := s.alive(); err != nil {
		t.Fatal(err)
	}
	return s
}

// manage plays the server: it connects to the management port until that works or the time is over.
func manage() {
	for end := time.Now().Add(window); time.Now().Before(end); {
		if c, err := reach(mgmtPort); err == nil {
			c.Close()
			return
		}
	}
}

const (
	managed = `{"tcp":["22","7000"],"learn_seconds":10}`
	cutOff  = `{"tcp":["22"],"learn_seconds":10}`
)

func TestFirewallIsKeptWhenTheDeviceIsStillManaged(t *testing.T) {
	if !testneed.Netns(t) {
		return
	}
	l := newLab(t)
	s := startSession(t)
	if f := l.finding("dry", managed, false, nil); f.Result != configs.Fail || len(f.Changes) != 1 || !strings.Contains(f.Changes[0].Diff, "+\t\ttcp dport { 22, 7000 } accept") {
		t.Errorf("dry run: %+v", f)
	}
	l.open("2323", true)
	// The session is silent when the change begins, speaks once while the kernel learns, and is known from then on.
	spoken := make(chan error, 1)
	time.AfterFunc(time.Second, func() { spoken <- s.alive() })
	began := time.Now()
	f := l.finding("apply", managed, true, manage)
	if f.Result != configs.Fixed {
		t.Fatalf("%+v", f)
	}
	if d := time.Since(began); d > 9*time.Second {
		t.Errorf("it took %v although every connection was known after a second", d)
	}
	if err := <-spoken; err != nil {
		t.Errorf("the session died: %v", err)
	}
	l.open("2323", false)
	l.open("22", true)
	if err := s.alive(); err != nil {
		t.Errorf("the session died with the agent: %v", err)
	}
	if f := l.finding("apply", managed, false, nil); f.Result != configs.Pass || len(f.Changes) != 0 {
		t.Errorf("a second run: %+v", f)
	}
	l.say("agent undo " + managed)
	if got := l.expect("agent: undone "); got != "1 <nil>" {
		t.Errorf("undo: %s", got)
	}
	l.say("wait")
	l.open("2323", true)
}

func TestFirewallThatCutsTheManagementPathIsTakenBack(t *testing.T) {
	if !testneed.Netns(t) {
		return
	}
	l := newLab(t)
	f := l.finding("apply", cutOff, true, func() {
		l.open("2323", false)
		manage()
	})
	if f.Result != configs.Reverted {
		t.Errorf("%+v", f)
	}
	l.open("2323", true)
	l.open("22", true)
	// What was in force before is in force again. An hour later, that is: what was taken back rests.
	l.forget()
	if f := l.finding("apply", managed, true, manage); f.Result != configs.Fixed {
		t.Errorf("%+v", f)
	}
	l.forget()
	if f := l.finding("apply", cutOff, true, manage); f.Result != configs.Reverted {
		t.Errorf("%+v", f)
	}
	l.open("2323", false)
	if f := l.finding("apply", managed, false, nil); f.Result != configs.Pass {
		t.Errorf("%+v", f)
	}
}

func TestFirewallOnTrialDiesWithItsAgent(t *testing.T) {
	if !testneed.Netns(t) {
		return
	}
	l := newLab(t)
	l.say("agent hang " + cutOff)
	l.expect("agent: trial")
	l.open("2323", false)
	l.say("kill")
	l.expect("device: killed")
	l.open("2323", true)
	l.say("agent recover " + cutOff)
	if got := l.expect("agent: recovered "); got != "0 <nil>" {
		t.Errorf("recover: %s", got)
	}
	l.say("wait")
	l.open("2323", true)
}
