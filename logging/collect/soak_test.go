// SPDX-License-Identifier: Apache-2.0

package collect_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
	"github.com/backstay/backstay/logging/ship"
	"github.com/backstay/backstay/logging/spool"
	"github.com/backstay/backstay/testdata/testneed"
)

// The tests in this file run real devices (spool, shipper, TLS) while what is behind them is killed with SIGKILL at random
// moments, and then count: every event of every device is at the collector, once, in order, under a root that verifies.

// spooled is a device with a real spool and shipper.
type spooled struct {
	id      string
	log     *spool.Log
	shipper *ship.Shipper
	sent    int
}

func newSpooled(t *testing.T, p *pki, addr string, policy logging.Policy) *spooled {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := &spooled{}
	if d.log, err = spool.Open(spool.Config{Dir: t.TempDir(), Key: key, Policy: policy}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.log.Close() })
	d.id = d.log.State().Origin.Device
	m, err := ship.NewMQTT(ship.MQTTConfig{Broker: "tls://" + addr, ClientID: d.id, TLS: p.client(d.id), Filters: ship.Filters(d.id), Timeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	d.shipper, err = ship.New(ship.Config{Log: ship.Spool(d.log), Transports: []ship.Transport{m}, Rejoin: 400 * time.Millisecond, Device: d.id,
		ResendAfter: 500 * time.Millisecond, BackoffMin: 50 * time.Millisecond, BackoffMax: 400 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// emit appends n events, in commits of random size.
func (d *spooled) emit(t *testing.T, n int) {
	for range n {
		e := logging.Event{Code: "auth.ok", Subject: "TEST", Message: strconv.Itoa(d.sent)}
		if d.sent%37 == 0 {
			e.Severity = logging.SeverityHigh // committed at once
		}
		if err := d.log.Append(t.Context(), e); err != nil {
			t.Errorf("append: %v", err)
			return
		}
		d.sent++
	}
}

// soak runs devices for a time while kill is called again and again, lets everything settle, and returns the devices.
func soak(t *testing.T, p *pki, addr string, policy logging.Policy, kill func()) []*spooled {
	t.Helper()
	duration, devices := 5*time.Second, 3
	if os.Getenv("BACKSTAY_LONG") == "1" {
		duration, devices = 5*time.Minute, 8
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	fleet := make([]*spooled, devices)
	end := time.Now().Add(duration)
	for i := range fleet {
		d := newSpooled(t, p, addr, policy)
		fleet[i] = d
		wg.Go(func() {
			if err := d.shipper.Run(ctx); err != nil {
				t.Errorf("ship: %v", err)
			}
		})
		wg.Go(func() {
			for time.Now().Before(end) {
				// What a full spool does is another test's question: here nothing may be shed.
				if st := d.log.State(); st.Size-st.Acked > 5000 {
					time.Sleep(20 * time.Millisecond)
					continue
				}
				d.emit(t, 1+mrand.IntN(40))
				time.Sleep(time.Duration(mrand.IntN(30)) * time.Millisecond)
			}
		})
	}
	kills := 0
	for time.Now().Before(end) {
		time.Sleep(time.Duration(200+mrand.IntN(700)) * time.Millisecond)
		kill()
		kills++
	}
	settled := time.Now()
	total := 0
	for _, d := range fleet {
		for wait := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if err := d.log.Flush(ctx); err != nil {
				t.Errorf("flush: %v", err)
			}
			if st := d.log.State(); st.Acked == st.Size && st.Pending == 0 && time.Now().After(end) {
				break
			}
			if time.Now().After(wait) {
				t.Fatalf("%s does not settle: %+v, shipper %+v", d.id, d.log.State(), d.shipper.Status())
			}
		}
		total += d.sent
	}
	t.Logf("%d devices, %d events, %d kills, settled in %v", devices, total, kills, time.Since(settled).Round(time.Millisecond))
	cancel()
	wg.Wait()
	return fleet
}

// count compares what the collector has with what the devices did.
func count(t *testing.T, store *collect.Bolt, policy logging.Policy, fleet []*spooled) {
	t.Helper()
	for _, d := range fleet {
		o := d.log.State().Origin
		h, items, err := store.Evidence(t.Context(), o, 0)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := logging.Verify(t.Context(), h, items, logging.Expect{Device: d.id, Policy: policy})
		if err != nil || rep.Size != d.log.State().Size || o.Epoch != 1 {
			t.Errorf("%s: %+v, %v", d.id, rep, err)
		}
		next := 0
		for l, err := range store.Records(t.Context(), o, 0) {
			if err != nil {
				t.Fatal(err)
			}
			r, err := logging.DecodeLeaf(l.Body)
			if err != nil {
				t.Fatal(err)
			}
			if r.Subject != "TEST" {
				continue
			}
			if r.Message != strconv.Itoa(next) {
				t.Fatalf("%s: event %s where %d belongs", d.id, r.Message, next)
			}
			next++
		}
		if next != d.sent {
			t.Errorf("%s: %d of %d events", d.id, next, d.sent)
		}
	}
	if alarms, err := store.Alarms(t.Context(), ""); err != nil || len(alarms) != 0 {
		t.Errorf("alarms %+v, %v", alarms, err)
	}
}

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
	var out io.Writer = io.Discard
	if testing.Verbose() {
		out = os.Stderr
	}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("%s does not listen: %v", p.cmd, err)
		}
	}
}

func (p *process) down() {
	p.cmd.Process.Kill()
	p.cmd.Wait() // the exit status says killed
}

// restart is one kill, with a pause now and then that lets a backlog build up.
func (p *process) restart() {
	p.down()
	if mrand.IntN(3) == 0 {
		time.Sleep(time.Duration(mrand.IntN(800)) * time.Millisecond)
	}
	p.up()
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

func newSubscriber(t *testing.T, f *fixture, p *pki, addr string) *collect.Subscriber {
	t.Helper()
	m, err := collect.SubscriberMQTT(ship.MQTTConfig{Broker: "tls://" + addr, ClientID: "collector", TLS: p.client("collector"), Timeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	s, err := collect.NewSubscriber(collect.SubscriberConfig{Transport: m, Collector: f.c, BackoffMin: 50 * time.Millisecond, BackoffMax: 400 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMosquittoKilled(t *testing.T) {
	p := newPKI(t)
	broker := mosquitto(t, p)
	f := newFixture(t)
	stop := run(t, newSubscriber(t, f, p, broker.addr))
	fleet := soak(t, p, broker.addr, f.policy, broker.restart)
	stop()
	count(t, f.store, f.policy, fleet)
}

// TestMosquittoACL: what a stolen device certificate can do through the example configuration.
func TestMosquittoACL(t *testing.T) {
	p := newPKI(t)
	broker := mosquitto(t, p)
	f := newFixture(t)
	sub := newSubscriber(t, f, p, broker.addr)
	run(t, sub)
	victim, thief := newDevice(t), newDevice(t)
	victim.append(5)
	thief.append(5)
	dial := func(d *device, filters ...string) *ship.MQTT {
		t.Helper()
		m, err := ship.NewMQTT(ship.MQTTConfig{Broker: "tls://" + broker.addr, ClientID: d.id(), TLS: p.client(d.id()), Filters: filters})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	honest := dial(victim, ship.Filters(victim.id())...)
	lost, err := honest.Connect(t.Context(), ship.Message{})
	if err != nil {
		t.Fatal(err)
	}
	// The thief says he is the victim; his certificate says otherwise.
	taker, err := ship.NewMQTT(ship.MQTTConfig{Broker: "tls://" + broker.addr, ClientID: victim.id(), TLS: p.client(thief.id()), Filters: []string{"#"}})
	if err != nil {
		t.Fatal(err)
	}
	defer taker.Close()
	if _, err := taker.Connect(t.Context(), ship.Message{}); err != nil {
		t.Logf("subscription to # refused: %v", err)
	} else {
		for _, d := range []*device{victim, thief} {
			taker.Publish(topicOf(victim, ship.Audit), encode(t, d.batch(0, 5)), false)
			taker.Publish(topicOf(victim, ship.Receipt), []byte("x"), true)
		}
		taker.Publish(topicOf(thief, ship.Audit), encode(t, thief.batch(0, 5)), false)
	}
	if _, err := honest.Publish(topicOf(victim, ship.Audit), encode(t, victim.batch(0, 3)), false); err != nil {
		t.Fatal(err)
	}
	select {
	case msg := <-honest.Receipts():
		if got, err := f.policy.Open(msg.Payload); err != nil || got[0].Checkpoint.Size != 3 {
			t.Errorf("the victim received %q: %v", msg.Payload, err)
		}
	case <-lost:
		t.Fatal("the victim was pushed off")
	case <-time.After(5 * time.Second):
		t.Fatal("no receipt")
	}
	if err := sub.Ring(victim.id(), "look"); err != nil {
		t.Error(err)
	}
	select {
	case msg := <-honest.Receipts():
		if msg.Topic != topicOf(victim, ship.Doorbell) || string(msg.Payload) != "look" {
			t.Errorf("instead of the doorbell: %+v", msg)
		}
	case <-time.After(5 * time.Second):
		t.Error("no doorbell")
	}
	select {
	case msg := <-taker.Receipts():
		if msg.Topic != topicOf(thief, ship.Receipt) && msg.Topic != topicOf(thief, ship.Doorbell) {
			t.Errorf("the thief heard %s", msg.Topic)
		}
	case <-time.After(300 * time.Millisecond):
	}
	if dev, err := f.store.Device(t.Context(), victim.id()); err != nil || dev.Size != 3 || dev.Open != 0 {
		t.Errorf("the victim's log: %+v, %v", dev, err)
	}
	// No certificate, no connection.
	if c, err := tls.Dial("tcp", broker.addr, &tls.Config{RootCAs: p.pool, ServerName: "localhost"}); err == nil {
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the broker talks to a client without certificate")
		}
		c.Close()
	}
}

// TestFrontKilled kills the embedded server and its store, in a process of their own.
func TestFrontKilled(t *testing.T) {
	p := newPKI(t)
	p.server()
	dir := t.TempDir()
	key, err := collect.CreateKey(filepath.Join(dir, "receipt.key"), "TEST/collector")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := logging.NewPolicy([]string{key.Key().String()}, 1)
	if err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	child := &process{t: t, addr: addr, start: func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFrontChild$")
		cmd.Env = append(os.Environ(), "BACKSTAY_TEST_FRONT="+strings.Join([]string{addr, dir, p.dir}, "|"))
		return cmd
	}}
	child.up()
	fleet := soak(t, p, addr, policy, child.restart)
	child.down()
	store, err := collect.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	count(t, store, policy, fleet)
}

// TestFrontChild is the process that TestFrontKilled kills.
func TestFrontChild(t *testing.T) {
	args := strings.Split(os.Getenv("BACKSTAY_TEST_FRONT"), "|")
	if len(args) != 3 {
		t.Skip("only run by TestFrontKilled")
	}
	if err := frontChild(t.Context(), args[0], args[1], args[2]); err != nil {
		t.Fatal(err)
	}
}

func frontChild(ctx context.Context, addr, dir, certs string) error {
	store, err := collect.Open(dir)
	if err != nil {
		return err
	}
	defer store.Close()
	key, err := collect.LoadKey(filepath.Join(dir, "receipt.key"))
	if err != nil {
		return err
	}
	c, err := collect.New(collect.CollectorConfig{Store: store, Key: key})
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(certs, "server.pem"), filepath.Join(certs, "server.key"))
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(certs, "ca.pem"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return fmt.Errorf("no certificate in ca.pem")
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	front, err := collect.NewFront(collect.FrontConfig{Listener: l, Collector: c, Rate: 1000, Verify: (&pki{}).verify,
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}})
	if err != nil {
		return err
	}
	return front.Run(ctx)
}
