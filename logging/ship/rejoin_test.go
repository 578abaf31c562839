// SPDX-License-Identifier: Apache-2.0

package ship_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
	"github.com/backstay/backstay/testdata/testneed"
)

// emptyLog is a log in which nothing happens.
type emptyLog struct {
	origin  logging.Origin
	changed chan struct{}
}

func (l emptyLog) State(context.Context) (ship.State, error) {
	return ship.State{Origin: l.origin}, nil
}
func (l emptyLog) Batch(context.Context, uint64) (logging.Batch, error) {
	return logging.Batch{}, errors.New("empty")
}
func (l emptyLog) Acknowledge(context.Context, []byte) (uint64, ship.State, error) {
	return 0, ship.State{}, errors.New("empty")
}
func (l emptyLog) Changed() <-chan struct{} { return l.changed }

// center is one broker of a whole fleet: it counts attempts by the second and can be away.
type center struct {
	mu       sync.Mutex
	away     bool
	began    time.Time
	attempts map[int]int // by second since began
	lost     map[*member]chan struct{}
}

type member struct {
	*center
	inbox chan ship.Message
}

func (m *member) Connect(context.Context, ship.Message) (<-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attempts[int(time.Since(m.began)/time.Second)]++
	if m.away {
		return nil, errors.New("connection refused")
	}
	m.lost[m] = make(chan struct{})
	return m.lost[m], nil
}
func (m *member) Publish(string, []byte, bool) (<-chan struct{}, error) {
	done := make(chan struct{})
	close(done)
	return done, nil
}
func (m *member) Receipts() <-chan ship.Message { return m.inbox }
func (m *member) Close() error                  { return nil }

// goAway cuts everybody off in one instant, as a broker that dies does.
func (c *center) goAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away, c.began, c.attempts = true, time.Now(), make(map[int]int)
	for m, lost := range c.lost {
		close(lost)
		delete(c.lost, m)
	}
}

func (c *center) comeBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away, c.attempts, c.began = false, make(map[int]int), time.Now()
}

func (c *center) connected() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.lost)
}

// TestFleetDoesNotStampede: the broker of 10 000 devices goes away under all of them in one instant and returns. However long
// it was away, no second may bring more than a small part of the fleet, and the fleet must be back in a known time.
func TestFleetDoesNotStampede(t *testing.T) {
	testneed.Native(t)
	const devices = 10000
	for _, tc := range []struct {
		away, back time.Duration // all are back within the second
		most       int           // attempts in the worst second after the return
	}{
		{100 * time.Millisecond, 61 * time.Second, 420},
		{10 * time.Second, 61 * time.Second, 420},
		{time.Minute, 2 * time.Minute, 420},
		{10 * time.Minute, 5 * time.Minute, 150},
	} {
		t.Run(fmt.Sprint(tc.away), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &center{attempts: make(map[int]int), lost: make(map[*member]chan struct{}), began: time.Now()}
				log := emptyLog{newMemLog(t, testKey(t, "TEST/collector")).origin, make(chan struct{})}
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				for range devices {
					s, err := ship.New(ship.Config{Log: log, Transports: []ship.Transport{&member{c, nil}}, Device: log.origin.Device})
					if err != nil {
						t.Fatal(err)
					}
					wg.Go(func() { s.Run(ctx) })
				}
				time.Sleep(time.Minute + time.Second)
				if n := c.connected(); n != devices {
					t.Fatalf("%d devices connected at first", n)
				}
				c.goAway()
				time.Sleep(tc.away)
				if n := c.worst(); n > 420 {
					t.Errorf("%d attempts in one second while the broker is away", n)
				}
				c.comeBack()
				time.Sleep(tc.back)
				if n := c.connected(); n != devices {
					t.Errorf("%d of %d devices are back %v after the broker", n, devices, tc.back)
				}
				worst := c.worst()
				t.Logf("away %v: at most %d attempts in a second, all back within %v", tc.away, worst, tc.back)
				if worst > tc.most {
					t.Errorf("%d attempts in one second, want at most %d", worst, tc.most)
				}
				cancel()
				wg.Wait()
			})
		})
	}
}

func (c *center) worst() (most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.attempts {
		most = max(most, n)
	}
	return most
}

// pairRig is a shipper with several brokers, and notes which were asked, in order.
type pairRig struct {
	*rig
	links []*link
}

func newPairRig(t *testing.T, n int, key *logging.ReceiptSigner) *pairRig {
	p := &pairRig{}
	p.rig = newRigWith(t, func(c *ship.Config) {
		c.Transports = nil
		for range n {
			l := newLink(t)
			p.links = append(p.links, l)
			c.Transports = append(c.Transports, l)
		}
	}, key)
	return p
}

// behind makes an honest collector stand behind broker i.
func (p *pairRig) honest(t *testing.T, i int, key *logging.ReceiptSigner) {
	p.rig.link = p.links[i]
	collector := p.collector(t, key)
	p.links[i].behind(func(b logging.Batch) bool {
		p.rig.link = p.links[i]
		return collector(b)
	})
}

func (p *pairRig) connects() []int {
	var out []int
	for _, l := range p.links {
		l.mu.Lock()
		out = append(out, l.connects)
		l.mu.Unlock()
	}
	return out
}

func TestFailsOverAndReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := testKey(t, "TEST/collector")
		p := newPairRig(t, 3, key)
		p.links[0].fail, p.links[1].fail = errors.New("no route"), errors.New("no route")
		p.honest(t, 2, key)
		p.log.append(20)
		p.run(t)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if st := p.shipper.Status(); st.Broker != 2 || !st.Connected || st.Acked != 20 {
			t.Fatalf("two of three brokers away: %+v", st)
		}
		if got := p.connects(); !slices.Equal(got, []int{2, 2, 1}) {
			t.Errorf("attempts %v", got)
		}
		// The first stays away: it is tried once in a while, and the one that works is next again.
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		got := p.connects()
		if st := p.shipper.Status(); st.Broker != 2 || !st.Connected {
			t.Errorf("after the tries at home: %+v", st)
		}
		if n := got[0] - 2; n < 2 || n > 4 || got[1] != 2 || got[2] != 1+n {
			t.Errorf("attempts in two hours %v", got)
		}
		// It comes back.
		p.links[0].mu.Lock()
		p.links[0].fail = nil
		p.links[0].mu.Unlock()
		p.honest(t, 0, key)
		time.Sleep(46 * time.Minute)
		synctest.Wait()
		if st := p.shipper.Status(); st.Broker != 0 || !st.Connected {
			t.Errorf("the first broker is back: %+v", st)
		}
		if n := len(p.links[2].notes); p.links[2].notes[n-1].Reason != ship.ReasonMoved {
			t.Errorf("left the third broker with %+v", p.links[2].notes[n-1])
		}
		if got := p.connects(); got[1] != 2 {
			t.Errorf("attempts %v", got)
		}
	})
}

// TestNeverTwoBrokersAtOnce: what is delivered twice at the same time could arrive in two orders.
func TestNeverTwoBrokersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := testKey(t, "TEST/collector")
		open := 0
		p := newPairRig(t, 2, key)
		for _, l := range p.links {
			l.onConnect, l.onClose = func() { open++ }, func() { open-- }
		}
		p.honest(t, 0, key)
		p.honest(t, 1, key)
		p.log.append(5)
		p.run(t)
		for i := range 40 {
			p.links[i%2].mu.Lock()
			p.links[i%2].fail, p.links[1-i%2].fail = errors.New("away"), nil
			p.links[i%2].mu.Unlock()
			if st := p.shipper.Status(); st.Connected {
				p.links[st.Broker].cut()
			}
			time.Sleep(3 * time.Minute)
			synctest.Wait()
			if open > 1 || open < 0 {
				t.Fatalf("%d connections are open", open)
			}
		}
		if got := p.connects(); got[0] < 3 || got[1] < 3 {
			t.Errorf("attempts %v: the brokers did not change", got)
		}
	})
}

// TestSilentBrokerIsLeft: a broker that takes everything and has no collector behind it must not keep the device to itself.
func TestSilentBrokerIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := testKey(t, "TEST/collector")
		p := newPairRig(t, 2, key)
		p.honest(t, 1, key)
		p.log.append(20)
		p.run(t)
		time.Sleep(4*time.Minute + 50*time.Second)
		synctest.Wait()
		if st := p.shipper.Status(); st.Broker != 0 || st.Acked != 0 {
			t.Errorf("left too soon: %+v", st)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := p.shipper.Status(); st.Broker != 1 || st.Acked != 20 {
			t.Errorf("with the second broker: %+v", st)
		}
		if ev := p.seen(); !slices.Equal(ev, []string{"delivery.stalled", "delivery.resumed"}) {
			t.Errorf("events %v", ev)
		}
	})
}

// TestBrokerThatAlwaysHangsUp: a broker that accepts and cuts, for ever, gets fewer and fewer connections.
func TestBrokerThatAlwaysHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigWith(t, func(c *ship.Config) { c.Rejoin = 0 }, testKey(t, "TEST/collector"))
		r.link.onConnect = func() { go r.link.cut() }
		r.log.append(5)
		r.run(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := r.link.connects; n < 10 || n > 30 {
			t.Errorf("%d connections in an hour", n)
		}
	})
}

func TestSaysWhetherItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := testKey(t, "TEST/collector")
		r := newRig(t, key)
		r.link.behind(r.collector(t, key))
		r.log.append(20)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.shipper.Run(ctx) }()
		synctest.Wait()
		will, err := ship.ParsePresence(r.link.will.Payload)
		if err != nil || will.State != ship.Offline || will.Reason != ship.ReasonLost || r.link.will.Topic != (ship.Topic{Device: r.log.origin.Device, Kind: ship.Presence}).String() {
			t.Errorf("will %+v on %s, %v", will, r.link.will.Topic, err)
		}
		if n := r.link.notes; len(n) != 1 || n[0].State != ship.Online || n[0].Session != will.Session || n[0].Size != 20 || n[0].Origin != r.log.origin.String() {
			t.Errorf("birth %+v", n)
		}
		r.link.cut()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := r.link.notes; len(n) != 2 || n[1].State != ship.Online || n[1].Session == will.Session || n[1].Acked != 20 {
			t.Errorf("after a lost link: %+v", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := r.link.notes; len(n) != 3 || n[2].State != ship.Offline || n[2].Reason != ship.ReasonStopped || n[2].Session != n[1].Session {
			t.Errorf("an orderly end: %+v", n)
		}
	})
}

// TestRateHoldsWhatIsPublished: a backlog goes out at the rate and not faster, each record once, and the status counts too.
func TestRateHoldsWhatIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 1000
		key := testKey(t, "TEST/collector")
		r := newRigWith(t, func(c *ship.Config) { c.MaxRate = rate }, key)
		records, honest := 0, r.collector(t, key)
		r.link.behind(func(b logging.Batch) bool { records += len(b.Leaves); return honest(b) })
		r.log.append(1000)
		began := time.Now()
		r.run(t)
		for r.shipper.Status().Backlog() > 0 {
			time.Sleep(time.Second)
			synctest.Wait()
			r.link.mu.Lock()
			sent, largest := r.link.bytes, r.link.largest
			r.link.mu.Unlock()
			if most := rate*int(time.Since(began).Seconds()) + rate + largest; sent > most {
				t.Fatalf("%d bytes after %v, at most %d", sent, time.Since(began), most)
			}
			if time.Since(began) > time.Hour {
				t.Fatalf("not done after an hour: %+v", r.shipper.Status())
			}
		}
		if records != 1000 {
			t.Errorf("%d records were sent, 1000 exist", records)
		}
		if took, least := time.Since(began), time.Duration(r.link.bytes-2*rate-r.link.largest)*time.Second/rate; took < least || took > 2*least+10*time.Second {
			t.Errorf("%d bytes in %v", r.link.bytes, took)
		}
	})
}
