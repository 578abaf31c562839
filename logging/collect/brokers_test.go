// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/logging/collect"
	"github.com/backstay/backstay/logging/ship"
	"github.com/backstay/backstay/testdata/testneed"
)

// process is a child that is killed and started again.
type process struct {
	t     *testing.T
	addr  string
	start func() *exec.Cmd
	cmd   *exec.Cmd
}

func (p *process) up() {
	p.t.Helper()
	p.cmd = p.start()
	var said bytes.Buffer
	p.cmd.Stdout, p.cmd.Stderr = &said, &said
	if testing.Verbose() {
		p.cmd.Stdout, p.cmd.Stderr = os.Stderr, os.Stderr
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	if p.addr == "" {
		return
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			p.down()
			p.t.Fatalf("%s does not listen: %v\n%s", p.cmd, err, said.Bytes())
		}
	}
}

func (p *process) down() {
	p.cmd.Process.Kill()
	p.cmd.Wait() // the exit status says killed
}

func freeAddr(t *testing.T) string {
	l := mustListen(t)
	l.Close()
	return l.Addr().String()
}

// mosquitto starts the broker with the example configuration of the product, other paths and another port.
func mosquitto(t *testing.T, p *pki) *process {
	t.Helper()
	bin := testneed.Program(t, "mosquitto", "mosquitto")
	p.server()
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mosquitto.conf", "mosquitto.acl"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "configs", "examples", name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("/etc/mosquitto/backstay/", p.dir+"/", "listener 8883\n", "listener "+port+" 127.0.0.1\n").Replace(string(b))
		if name == "mosquitto.conf" {
			text += "\nuser " + me.Username + "\n" // started as root, it would become a user who cannot read the test's keys
		}
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	proc := &process{t: t, addr: addr, start: func() *exec.Cmd { return exec.Command(bin, "-c", filepath.Join(p.dir, "mosquitto.conf")) }}
	proc.up()
	t.Cleanup(proc.down)
	return proc
}

// natsServer starts nats-server and the program that decides for it, both from the module beside the example configuration, with
// that configuration, other paths and other ports.
func natsServer(t *testing.T, p *pki) *process {
	t.Helper()
	module := filepath.Join("..", "..", "configs", "examples", "nats")
	server, callout := goTool(t, module), filepath.Join(t.TempDir(), "callout")
	if out, err := goNATS(module, "build", "-o", callout, ".").CombinedOutput(); err != nil {
		t.Fatalf("build callout: %v\n%s", err, out)
	}
	p.server()
	seed := filepath.Join(p.dir, "callout.seed")
	issuer, err := exec.Command(callout, "-server", "", "-key", seed).Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(module, "nats-server.conf"))
	if err != nil {
		t.Fatal(err)
	}
	addr, inside := freeAddr(t), freeAddr(t)
	conf := filepath.Join(p.dir, "nats-server.conf")
	text := strings.NewReplacer("/etc/nats/backstay/", p.dir+"/", "/var/lib/nats/backstay", filepath.Join(p.dir, "jetstream"),
		"0.0.0.0:8883", addr, "127.0.0.1:4222", inside, "ISSUER_PUBLIC_KEY", strings.TrimSpace(string(issuer))).Replace(string(b))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	password := "NATS_CALLOUT_PASSWORD=" + rand.Text()
	start := func(bin string, args ...string) func() *exec.Cmd {
		return func() *exec.Cmd {
			cmd := exec.Command(bin, args...)
			cmd.Env = append(os.Environ(), password)
			return cmd
		}
	}
	decides := &process{t: t, start: start(callout, "-server", "nats://"+inside, "-key", seed)}
	decides.up()
	t.Cleanup(decides.down)
	broker := &process{t: t, addr: addr, start: start(server, "-c", conf)}
	broker.up()
	t.Cleanup(broker.down)
	time.Sleep(300 * time.Millisecond) // until the two have found each other, the server lets nobody in
	return broker
}

// goNATS is a command of the tool chain in that module. A nats-server that runs in FIPS 140-3 mode, as our own programs are built,
// refuses an authorization callout.
func goNATS(module string, args ...string) *exec.Cmd {
	cmd := exec.Command("go", append([]string{"-C", module}, args...)...)
	cmd.Env = append(os.Environ(), "GOFIPS140=off")
	return cmd
}

// goTool returns the nats-server of a module, built. Without the module's sources there is nothing to test with.
func goTool(t *testing.T, module string) string {
	t.Helper()
	testneed.Native(t)
	out, err := goNATS(module, "tool", "-n", "nats-server").CombinedOutput()
	if err == nil {
		return strings.TrimSpace(string(out))
	}
	if testneed.Strict() {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	t.Skipf("nats-server cannot be built: %v\n%s", err, out)
	return ""
}

func subscriber(c *collect.Collector, addr string, conf *tls.Config) (*collect.Subscriber, error) {
	m, err := collect.SubscriberMQTT(ship.MQTTConfig{Broker: "tls://" + addr, ClientID: "collector", TLS: conf, Timeout: 3 * time.Second})
	if err != nil {
		return nil, err
	}
	return collect.NewSubscriber(collect.SubscriberConfig{Transport: m, Collector: c, BackoffMin: 50 * time.Millisecond, BackoffMax: 400 * time.Millisecond})
}

func newSubscriber(t *testing.T, f *fixture, p *pki, addr string) *collect.Subscriber {
	t.Helper()
	s, err := subscriber(f.c, addr, p.client("collector"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
