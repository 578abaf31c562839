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
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/collect"
	"github.com/backstay/backstay/logging/ship"
	"github.com/backstay/backstay/logging/spool"
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
	if d.log, err = spool.Open(spool.Config{Dir: t.TempDir(), Key: key, Policy: policy, Capacity: 64 << 20}); err != nil {
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

// eventRate is how many events per second all devices of a soak emit together.
const eventRate = 500

// soak runs devices while kill is called again and again, lets everything settle, and returns the devices.
func soak(t *testing.T, p *pki, addr string, policy logging.Policy, kill func()) []*spooled {
	t.Helper()
	kills, devices := 3, 5
	if os.Getenv("BACKSTAY_LONG") == "1" {
		kills = 100
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	fleet := make([]*spooled, devices)
	done := make(chan struct{})
	for i := range fleet {
		d := newSpooled(t, p, addr, policy)
		fleet[i] = d
		wg.Go(func() {
			if err := d.shipper.Run(ctx); err != nil {
				t.Errorf("ship: %v", err)
			}
		})
		wg.Go(func() { d.keepEmitting(t, float64(eventRate)/float64(devices), done) })
	}
	began := time.Now()
	for range kills {
		time.Sleep(time.Duration(200+mrand.IntN(700)) * time.Millisecond)
		kill()
	}
	close(done)
	stopped := time.Now()
	total := 0
	for _, d := range fleet {
		d.settle(t, ctx)
		total += d.sent
	}
	t.Logf("%d devices, %d events in %v (%.0f per second), %d kills, settled %v after the last", devices, total, stopped.Sub(began).Round(time.Millisecond),
		float64(total)/stopped.Sub(began).Seconds(), kills, time.Since(stopped).Round(time.Millisecond))
	cancel()
	wg.Wait()
	return fleet
}

// keepEmitting emits rate events per second, unevenly, until done is closed.
func (d *spooled) keepEmitting(t *testing.T, rate float64, done <-chan struct{}) {
	for began := time.Now(); ; {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(mrand.IntN(60)) * time.Millisecond):
		}
		d.emit(t, int(time.Since(began).Seconds()*rate)-d.sent)
	}
}

// settle waits until everything the device has is acknowledged.
func (d *spooled) settle(t *testing.T, ctx context.Context) {
	t.Helper()
	for wait := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err := d.log.Flush(ctx); err != nil {
			t.Errorf("flush: %v", err)
		}
		st := d.log.State()
		if st.Acked == st.Size && st.Pending == 0 {
			return
		}
		if time.Now().After(wait) {
			sh := d.shipper.Status()
			t.Fatalf("%s does not settle: acked %d of %d, sent %d, connected %v, %s", d.id, st.Acked, st.Size, sh.Sent, sh.Connected, sh.LastError)
		}
	}
}

// count compares what the collector has with what the devices did: every event once and in its place, under a root that
// verifies.
func count(t *testing.T, store *collect.Bolt, policy logging.Policy, fleet []*spooled) {
	t.Helper()
	var lost, twice, misplaced, shed int
	for _, d := range fleet {
		o := d.log.State().Origin
		h, items, err := store.Evidence(t.Context(), o, 0)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := logging.Verify(t.Context(), h, items, logging.Expect{Device: d.id, Policy: policy})
		if err != nil || rep.Size != d.log.State().Size || rep.Acked != rep.Size || o.Epoch != 1 {
			t.Errorf("%s: %+v, %v", d.id, rep, err)
		}
		seen, last := make(map[int]int), -1
		for l, err := range store.Records(t.Context(), o, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if l.Shed() { // what a full spool does is another test's question
				shed++
				continue
			}
			r, err := l.Decode()
			if err != nil {
				t.Fatal(err)
			}
			if r.Subject != "TEST" {
				continue
			}
			n, err := strconv.Atoi(r.Message)
			if err != nil {
				t.Fatal(err)
			}
			if seen[n]++; seen[n] > 1 {
				twice++
			} else if n < last {
				misplaced++
			}
			last = n
		}
		lost += d.sent - len(seen)
	}
	t.Logf("at the collector: %d lost, %d twice, %d out of order", lost, twice, misplaced)
	if lost != 0 || twice != 0 || misplaced != 0 || shed != 0 {
		t.Errorf("%d lost, %d twice, %d out of order, %d bodies shed", lost, twice, misplaced, shed)
	}
	if alarms, err := store.Alarms(t.Context(), ""); err != nil || len(alarms) != 0 {
		t.Errorf("alarms %+v, %v", alarms, err)
	}
}

// killed is the test: a broker, or the front, and the collector behind it die again and again by SIGKILL.
func killed(t *testing.T, p *pki, kind string, broker *process) {
	t.Helper()
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
	if broker != nil {
		addr = broker.addr
		p.client("collector")
	}
	collector := &process{t: t, start: func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCollectorChild$")
		cmd.Env = append(os.Environ(), "BACKSTAY_TEST_COLLECTOR="+strings.Join([]string{kind, addr, dir, p.dir}, "|"))
		return cmd
	}}
	procs := []*process{collector}
	if broker == nil {
		collector.addr = addr
	} else {
		procs = append(procs, broker)
	}
	collector.up()
	fleet := soak(t, p, addr, policy, func() {
		// Either may go first and come back first, and both are down together.
		for _, i := range mrand.Perm(len(procs)) {
			procs[i].down()
			time.Sleep(time.Duration(mrand.IntN(100)) * time.Millisecond)
		}
		if mrand.IntN(3) == 0 {
			time.Sleep(time.Duration(mrand.IntN(800)) * time.Millisecond) // lets a backlog build up
		}
		for _, i := range mrand.Perm(len(procs)) {
			procs[i].up()
		}
	})
	collector.down()
	store, err := collect.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	count(t, store, policy, fleet)
}

func TestMosquittoKilled(t *testing.T) {
	p := newPKI(t)
	killed(t, p, "subscriber", mosquitto(t, p))
}

func TestNATSKilled(t *testing.T) {
	p := newPKI(t)
	killed(t, p, "subscriber", natsServer(t, p))
}

// TestFrontKilled kills the embedded server and its store, in a process of their own.
func TestFrontKilled(t *testing.T) {
	p := newPKI(t)
	p.server()
	killed(t, p, "front", nil)
}

// TestCollectorChild is the process that these tests kill.
func TestCollectorChild(t *testing.T) {
	args := strings.Split(os.Getenv("BACKSTAY_TEST_COLLECTOR"), "|")
	if len(args) != 4 {
		t.Skip("only run by the tests that kill it")
	}
	if err := collectorChild(t.Context(), args[0], args[1], args[2], args[3]); err != nil {
		t.Fatal(err)
	}
}

func collectorChild(ctx context.Context, kind, addr, dir, certs string) error {
	store, err := collect.Open(dir)
	if err != nil {
		return err
	}
	defer store.Close()
	key, err := collect.LoadKey(filepath.Join(dir, "receipt.key"))
	if err != nil {
		return err
	}
	c, err := collect.New(collect.CollectorConfig{Store: store, Presence: store, Key: key})
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
	name := map[string]string{"front": "server", "subscriber": "collector"}[kind]
	cert, err := tls.LoadX509KeyPair(filepath.Join(certs, name+".pem"), filepath.Join(certs, name+".key"))
	if err != nil {
		return err
	}
	if kind == "subscriber" {
		sub, err := subscriber(c, addr, &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{cert}})
		if err != nil {
			return err
		}
		return sub.Run(ctx)
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
