// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
)

const someOrigin = "backstay/audit/aaaaaaaaaaaaaaaaaaaaaaaaaa/1"

func TestParsePresence(t *testing.T) {
	good := PresenceNote{State: Online, Session: "0011223344556677", At: time.Unix(1e9, 0).UTC(), Origin: testOrigin(t), Size: 5}
	b := good.encode()
	got, err := ParsePresence(b)
	good.Version = 1
	if err != nil || got != good || len(b) > MaxPresence {
		t.Fatalf("%s: %+v, %v", b, got, err)
	}
	for name, text := range map[string]string{
		"empty":        "",
		"not JSON":     "online",
		"too long":     string(b[:len(b)-1]) + strings.Repeat(" ", MaxPresence) + "}",
		"version":      strings.Replace(string(b), `"v":1`, `"v":2`, 1),
		"state":        strings.Replace(string(b), `"online"`, `"here"`, 1),
		"origin":       strings.Replace(string(b), good.Origin, "x", 1),
		"control byte": strings.Replace(string(b), `"reason":""`, `"reason":"\u001b[2J"`, 1),
		"long reason":  strings.Replace(string(b), `"reason":""`, `"reason":"`+strings.Repeat("x", 65)+`"`, 1),
		"type":         strings.Replace(string(b), `"size":5`, `"size":"5"`, 1),
	} {
		if _, err := ParsePresence([]byte(text)); !errors.Is(err, logging.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParsePresence([]byte(strings.Replace(string(b), `"v":1`, `"v":1,"new":[1]`, 1))); err != nil {
		t.Errorf("a field of a newer device: %v", err)
	}
}

func testOrigin(t testing.TB) string {
	t.Helper()
	if _, err := logging.ParseOrigin(someOrigin); err != nil {
		t.Fatal(err)
	}
	return someOrigin
}

func TestNewerPresence(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	known := PresenceNote{State: Online, Session: "b", Since: at(20)}
	for name, tc := range map[string]struct {
		n        PresenceNote
		retained bool
		want     bool
	}{
		"goodbye":                                  {PresenceNote{State: Offline, Session: "b", Since: at(20)}, false, true},
		"will, found later":                        {PresenceNote{State: Offline, Session: "b", Since: at(20)}, true, true},
		"late will of the connection before":       {PresenceNote{State: Offline, Session: "a", Since: at(10)}, false, false},
		"the same, on another broker, retained":    {PresenceNote{State: Offline, Session: "a", Since: at(10)}, true, false},
		"back with its clock at zero":              {PresenceNote{State: Online, Session: "c", Since: at(0)}, false, true},
		"old birth, retained by another broker":    {PresenceNote{State: Online, Session: "a", Since: at(10)}, true, false},
		"came while nobody listened":               {PresenceNote{State: Online, Session: "c", Since: at(30)}, true, true},
		"came and went while nobody listened":      {PresenceNote{State: Offline, Session: "c", Since: at(30)}, true, true},
		"goodbye of a connection nobody had noted": {PresenceNote{State: Offline, Session: "c", Since: at(30)}, false, true},
	} {
		if got := tc.n.Newer(known, tc.retained); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
		if !tc.n.Newer(PresenceNote{}, tc.retained) {
			t.Errorf("%s: not believed where nothing is known", name)
		}
	}
}

func FuzzParsePresence(f *testing.F) {
	f.Add(PresenceNote{State: Offline, Reason: ReasonLost, Origin: someOrigin}.encode())
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParsePresence(b)
		if err != nil {
			return
		}
		if again, err := ParsePresence(n.encode()); err == nil && again.Session != n.Session {
			t.Fatalf("%+v became %+v", n, again)
		}
	})
}

// TestPaceHolds: over any time the bytes sent stay below rate × time + one second's worth + one message.
func TestPaceHolds(t *testing.T) {
	for _, size := range []int{10, 900, 40000} {
		p, now, sent := newPace(1000), time.Unix(0, 0), 0
		for end := now.Add(10 * time.Minute); now.Before(end); {
			if d := p.wait(now); d > 0 {
				now = now.Add(d)
				continue
			}
			p.spend(size)
			sent += size
			if most := int(1000*now.Sub(time.Unix(0, 0)).Seconds()) + 1000 + size; sent > most {
				t.Fatalf("messages of %d bytes: %d bytes after %v, want at most %d", size, sent, now.Sub(time.Unix(0, 0)), most)
			}
		}
		if sent < 9*60*1000 {
			t.Errorf("messages of %d bytes: only %d bytes in ten minutes", size, sent)
		}
	}
	free := newPace(0)
	free.spend(1 << 30)
	if free.wait(time.Now()) != 0 {
		t.Error("no rate is no limit")
	}
	// A clock that goes back must not stop delivery for ever.
	p := newPace(1000)
	p.wait(time.Unix(1000, 0))
	p.spend(3000)
	if d := p.wait(time.Unix(10, 0)); d > 3*time.Second {
		t.Errorf("waits %v after a step of the clock", d)
	}
}
