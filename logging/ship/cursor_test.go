// SPDX-License-Identifier: Apache-2.0

package ship_test

import (
	"math/rand/v2"
	"testing"

	"github.com/backstay/backstay/logging/ship"
)

func check(t *testing.T, c ship.Cursor, in ship.Input) {
	t.Helper()
	if !(c.Pruned <= c.Acked && c.Acked <= c.Sent && c.Sent <= c.Size) || c.Flying < 0 || c.Flying > ship.Window {
		t.Fatalf("after %#v: %+v breaks pruned <= acked <= sent <= size, 0 <= flying <= window", in, c)
	}
}

// randomInput makes inputs that fit, inputs that nearly fit, and nonsense.
func randomInput(r *rand.Rand, c ship.Cursor) ship.Input {
	near := func(n uint64) uint64 {
		switch r.IntN(8) {
		case 0:
			return r.Uint64()
		case 1:
			return 0
		default:
			return n + uint64(r.IntN(200)) - min(n, uint64(r.IntN(100)))
		}
	}
	switch r.IntN(6) {
	case 0:
		return ship.Appended{Size: near(c.Size)}
	case 1:
		return ship.Published{End: near(c.Sent)}
	case 2:
		return ship.Puback{}
	case 3:
		return ship.Acknowledged{Size: near(c.Acked), Acked: near(c.Acked)}
	case 4:
		return ship.Rewind{}
	}
	return ship.Discarded{Pruned: near(c.Pruned)}
}

func TestCursorKeepsItsInvariant(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		var c ship.Cursor
		for range 2000 {
			in := randomInput(r, c)
			next, err := c.Step(in)
			if err != nil && next != c {
				t.Fatalf("seed %d: %#v failed (%v) and changed %+v to %+v", seed, in, err, c, next)
			}
			if next.Acked < c.Acked || next.Pruned < c.Pruned || next.Size < c.Size {
				t.Fatalf("seed %d: %#v moved a durable number back: %+v to %+v", seed, in, c, next)
			}
			c = next
			check(t, c, in)
		}
	}
}

// TestLateReceiptDoesNotPruneWhatIsAboutToBeRead is the failing sequence behind `sent = max(sent, acked)`: send, time out, go
// back, and then the receipt comes after all and the log prunes.
func TestLateReceiptDoesNotPruneWhatIsAboutToBeRead(t *testing.T) {
	var c ship.Cursor
	for _, in := range []ship.Input{
		ship.Appended{Size: 100}, ship.Published{End: 64}, ship.Rewind{}, ship.Acknowledged{Size: 64, Acked: 64}, ship.Discarded{Pruned: 64},
	} {
		var err error
		if c, err = c.Step(in); err != nil {
			t.Fatal(err)
		}
		check(t, c, in)
	}
	if c.Sent != 64 {
		t.Fatalf("would read from record %d, which is pruned", c.Sent)
	}
}

func TestReceiptForMoreThanThereIs(t *testing.T) {
	c := ship.Cursor{Acked: 5, Sent: 9, Size: 10}
	if _, err := c.Step(ship.Acknowledged{Size: 11, Acked: 11}); err == nil {
		t.Fatal("a receipt beyond the log moved the cursor")
	}
}

func TestHintToGoBackIsTakenOncePerRound(t *testing.T) {
	c := ship.Cursor{}
	step := func(in ship.Input) {
		t.Helper()
		var err error
		if c, err = c.Step(in); err != nil {
			t.Fatal(err)
		}
		check(t, c, in)
	}
	step(ship.Appended{Size: 300})
	for end := uint64(50); end <= 250; end += 50 {
		step(ship.Published{End: end})
	}
	step(ship.Acknowledged{Size: 50, Acked: 50}) // the second batch is lost; three more bring the same answer
	step(ship.Acknowledged{Size: 50, Acked: 50})
	if c.Sent != 50 {
		t.Fatalf("sent is %d after a hint, want 50", c.Sent)
	}
	for range 5 {
		step(ship.Puback{})
	}
	step(ship.Published{End: 100})
	step(ship.Acknowledged{Size: 50, Acked: 50})
	step(ship.Acknowledged{Size: 50, Acked: 50})
	if c.Sent != 100 {
		t.Fatalf("sent is %d: an echo of the first hint was taken for a new one", c.Sent)
	}
	step(ship.Acknowledged{Size: 100, Acked: 100})
	step(ship.Published{End: 150})
	step(ship.Acknowledged{Size: 100, Acked: 100}) // progress was made: a new round
	if c.Sent != 100 {
		t.Fatalf("sent is %d after a hint in a new round, want 100", c.Sent)
	}
}

// TestPubackIsFlowControl: no number of PUBACKs moves anything but the window.
func TestPubackIsFlowControl(t *testing.T) {
	c := ship.Cursor{Acked: 1, Sent: 5, Size: 9, Flying: 2}
	for range 100 {
		c, _ = c.Step(ship.Puback{})
	}
	if (c != ship.Cursor{Acked: 1, Sent: 5, Size: 9}) {
		t.Fatalf("PUBACKs made it %+v", c)
	}
}

// TestUnackedIsBounded: PUBACKs without receipts open the window of a broker, not that of a collector.
func TestUnackedIsBounded(t *testing.T) {
	c := ship.Cursor{Acked: 10, Sent: 10, Size: 1 << 30}
	for c.Wants() {
		end := c.Sent + 64
		for _, in := range []ship.Input{ship.Published{End: end}, ship.Puback{}} {
			var err error
			if c, err = c.Step(in); err != nil {
				t.Fatal(err)
			}
		}
		if c.Sent > 10+ship.MaxUnacked+64 {
			t.Fatalf("%d records were sent without a receipt", c.Sent-10)
		}
	}
	c, err := c.Step(ship.Acknowledged{Size: 74, Acked: 74})
	if err != nil || !c.Wants() {
		t.Fatalf("a receipt does not go on: %+v, %v", c, err)
	}
	if c, err = c.Step(ship.Rewind{}); err != nil || !c.Wants() {
		t.Fatalf("going back does not: %+v, %v", c, err)
	}
}
