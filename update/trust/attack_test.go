// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"testing"
	"time"

	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

// Rollback: the attacker serves an old set, complete, properly signed and not
// yet expired, in which an older release is the newest.

func TestRollbackToAnOldSet(t *testing.T) {
	for name, lose := range map[string]func(*trust.State){
		"nothing lost":            func(*trust.State) {},
		"timestamp lost":          func(s *trust.State) { s.Timestamp = nil },
		"timestamp and snapshot":  func(s *trust.State) { s.Timestamp, s.Snapshot = nil, nil },
		"all metadata lost":       func(s *trust.State) { *s = trust.State{Floors: s.Floors} },
		"all metadata zeroed":     func(s *trust.State) { s.Timestamp, s.Snapshot = make([]byte, 512), make([]byte, 700); s.Targets = nil },
		"floor of timestamp only": func(s *trust.State) { *s = trust.State{Floors: trust.Floors{Timestamp: s.Floors.Timestamp}} },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			old := d.repo.Copy()
			d.repo.AddTarget(trusttest.ProductRole, image, []byte("fixed"), nil)
			d.repo.Publish()
			d.refresh()
			d.repo.Replay(old)
			d.store.Edit(lose)
			d.restart()
			d.refused("metadata-rollback")
			if f := d.state().Floors; f.Timestamp != 2 {
				t.Errorf("the refused set changed the floor to %d", f.Timestamp)
			}
		})
	}
}

// A thief of the timestamp key alone signs a newer timestamp over an old
// snapshot.
func TestRollbackOfTheSnapshot(t *testing.T) {
	for name, lose := range map[string]func(*trust.State){
		"nothing lost":     func(*trust.State) {},
		"only floors left": func(s *trust.State) { *s = trust.State{Floors: s.Floors} },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			pin := trusttest.Pin(d.repo.File("metadata/1.snapshot.json"), 1)
			d.repo.Publish()
			d.refresh()
			d.store.Edit(lose)
			d.repo.Timestamp.Signed.Version = 9
			d.repo.Timestamp.Signed.Meta["snapshot.json"] = pin
			d.repo.SignTimestamp()
			d.restart()
			d.refused("metadata-rollback")
			if f := d.state().Floors.Timestamp; f != 2 {
				t.Errorf("the refused timestamp raised the floor to %d", f)
			}
		})
	}
}

// A thief of timestamp and snapshot keys signs newer ones over an old role, or
// drops a role.
func TestRollbackOfARole(t *testing.T) {
	for name, bend := range map[string]func(*trusttest.Repo){
		"older": func(r *trusttest.Repo) {
			r.Snapshot.Signed.Meta["assign.json"] = trusttest.Pin(r.File("metadata/1.assign.json"), 1)
		},
		"dropped": func(r *trusttest.Repo) { delete(r.Snapshot.Signed.Meta, "assign.json") },
	} {
		for loss, lose := range map[string]func(*trust.State){
			"nothing lost":     func(*trust.State) {},
			"only floors left": func(s *trust.State) { *s = trust.State{Floors: s.Floors} },
		} {
			t.Run(name+" "+loss, func(t *testing.T) {
				d := newDevice(t)
				d.repo.Publish()
				d.refresh()
				d.store.Edit(lose)
				bend(d.repo)
				d.repo.Snapshot.Signed.Version++
				d.repo.SignSnapshot()
				d.repo.Timestamp.Signed.Version++
				d.repo.SignTimestamp()
				d.restart()
				d.refused("metadata-rollback")
			})
		}
	}
}

// Revocation withheld: root 2 takes the online keys away from a thief. The
// attacker hides it and serves metadata signed by the stolen keys.
func TestRevokedKeyWithRootWithheld(t *testing.T) {
	for name, lose := range map[string]func(*trust.State){
		"nothing lost":    func(*trust.State) {},
		"timestamp lost":  func(s *trust.State) { s.Timestamp = nil },
		"roots lost":      func(s *trust.State) { s.Roots = nil },
		"roots damaged":   func(s *trust.State) { s.Roots[0] = s.Roots[0][:100] },
		"root from thief": func(s *trust.State) { s.Roots[0] = []byte(`{"signed":{"_type":"root"},"signatures":[]}`) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.refresh()
			stolen := map[string][]*trusttest.Key{"timestamp": d.repo.Keys["timestamp"], "snapshot": d.repo.Keys["snapshot"]}
			d.repo.Rotate("timestamp")
			d.repo.Rotate("snapshot")
			d.repo.Publish("root", "snapshot", "timestamp")
			d.refresh()
			if got := len(d.state().Roots); got != 1 {
				t.Fatalf("%d roots are kept, want 1", got)
			}
			// The thief.
			honest := d.repo.File("metadata/2.root.json")
			d.repo.SetFile("metadata/2.root.json", nil)
			good := d.repo.Keys
			d.repo.Keys = map[string][]*trusttest.Key{"timestamp": stolen["timestamp"], "snapshot": stolen["snapshot"]}
			d.repo.Snapshot.Signed.Version, d.repo.Timestamp.Signed.Version = 50, 50
			d.repo.SignSnapshot()
			d.repo.SignTimestamp()
			d.store.Edit(lose)
			d.restart()
			code := "bad-signature"
			if name == "roots lost" || name == "roots damaged" || name == "root from thief" {
				code = "root-rollback"
			}
			d.refused(code)
			if name == "roots damaged" && !d.emitted("update.trust-damaged") {
				t.Error("damage is not reported")
			}
			// The honest server is believed again at once.
			d.repo.Keys = good
			d.repo.SetFile("metadata/2.root.json", honest)
			d.repo.Snapshot.Signed.Version, d.repo.Timestamp.Signed.Version = 2, 2
			d.repo.Publish("snapshot", "timestamp")
			d.refresh()
		})
	}
}

// Freeze: the attacker keeps serving what was newest on the day of the attack.
func TestFreeze(t *testing.T) {
	for name, age := range map[string]struct {
		after func(*trusttest.Repo) time.Time
		longs func(*trusttest.Repo)
	}{
		"timestamp": {after: func(r *trusttest.Repo) time.Time { return r.Timestamp.Signed.Expires }},
		"snapshot": {
			after: func(r *trusttest.Repo) time.Time { return r.Snapshot.Signed.Expires },
			longs: func(r *trusttest.Repo) { r.Timestamp.Signed.Expires = trusttest.Start.AddDate(5, 0, 0) },
		},
		"targets": {
			after: func(r *trusttest.Repo) time.Time { return r.Roles["targets"].Signed.Expires },
			longs: func(r *trusttest.Repo) {
				r.Timestamp.Signed.Expires = trusttest.Start.AddDate(5, 0, 0)
				r.Snapshot.Signed.Expires = trusttest.Start.AddDate(5, 0, 0)
			},
		},
		"root": {
			after: func(r *trusttest.Repo) time.Time { return r.Root.Signed.Expires },
			longs: func(r *trusttest.Repo) {
				r.Timestamp.Signed.Expires = trusttest.Start.AddDate(5, 0, 0)
				r.Snapshot.Signed.Expires = trusttest.Start.AddDate(5, 0, 0)
				r.Roles["targets"].Signed.Expires = trusttest.Start.AddDate(5, 0, 0)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, seen := range []bool{true, false} {
				d := newDevice(t)
				if age.longs != nil {
					age.longs(d.repo)
					d.repo.Publish()
				}
				d.setTime(age.after(d.repo))
				if seen {
					d.refresh() // the last second
				}
				d.setTime(age.after(d.repo).Add(time.Second))
				r := d.refused("metadata-expired")
				if r.What != name+".json refused" {
					t.Errorf("refused %q, want %s", r.What, name)
				}
			}
		})
	}
}

// An expired timestamp that is newer is not accepted either, and what was
// accepted before stays.
func TestNewerButExpiredTimestamp(t *testing.T) {
	d := newDevice(t)
	d.refresh()
	d.repo.Timestamp.Signed.Expires = trusttest.Start
	d.repo.Publish("timestamp")
	d.refused("metadata-expired")
	if f := d.state().Floors.Timestamp; f != 1 {
		t.Errorf("floor %d", f)
	}
	d.repo.Timestamp.Signed.Expires = trusttest.Start.AddDate(0, 0, 7)
	d.repo.Publish("timestamp")
	d.refresh()
}

// A clock that starts at zero, or is set back, does not make old metadata new:
// the signed times of metadata seen before are a floor.
func TestClockSetBack(t *testing.T) {
	d := newDevice(t)
	old := d.repo.Copy()
	d.repo.Now = trusttest.Start.AddDate(0, 0, 10)
	d.repo.Timestamp.Signed.Expires = trusttest.Start.AddDate(0, 0, 17)
	d.repo.Publish()
	d.setTime(d.repo.Now)
	d.refresh()
	for _, now := range []time.Time{time.Unix(0, 0), {}, trusttest.Start} {
		d.setTime(now)
		d.restart()
		if got := d.refresh().Issued(); !got.Equal(d.repo.Now) {
			t.Errorf("with the clock at %v, issued is %v", now, got)
		}
	}
	// All but the time is forgotten: the old timestamp expired before it.
	d.store.Edit(func(s *trust.State) { *s = trust.State{Issued: s.Issued} })
	d.repo.Replay(old)
	d.restart()
	d.refused("metadata-expired")
}

// Signed time moves the clock within one refresh too: a timestamp of today
// proves that a snapshot which expired yesterday has expired.
func TestSignedTimeCountsAtOnce(t *testing.T) {
	d := newDevice(t)
	d.setTime(time.Unix(0, 0))
	d.repo.Snapshot.Signed.Expires = trusttest.Start.AddDate(0, 0, -1)
	d.repo.Publish()
	d.refused("metadata-expired")
}

// A thief of the timestamp key cannot push this device's time past what the
// root allows, and loses what he gained when the key is replaced.
func TestSignedTimeIsBounded(t *testing.T) {
	d := newDevice(t)
	d.repo.Now = trusttest.Start.AddDate(900, 0, 0)
	for _, e := range []*time.Time{&d.repo.Timestamp.Signed.Expires, &d.repo.Snapshot.Signed.Expires, &d.repo.Roles["targets"].Signed.Expires} {
		*e = trusttest.Start.AddDate(901, 0, 0)
	}
	d.repo.Publish()
	if got := d.refresh().Issued(); got.After(d.repo.Root.Signed.Expires) {
		t.Errorf("issued %v is after the root's expiry", got)
	}
	d.repo.Now = trusttest.Start
	d.repo.Rotate("timestamp")
	d.repo.Rotate("snapshot")
	d.repo.Root.Signed.Expires = trusttest.Start.AddDate(2, 0, 0)
	d.repo.Publish("root", "snapshot", "timestamp", "targets")
	d.restart()
	if got := d.refresh().Issued(); !got.Equal(trusttest.Start) {
		t.Errorf("after the key was replaced, issued is %v", got)
	}
}

func TestSignedTimeMalformed(t *testing.T) {
	for _, v := range []any{"yesterday", 7, nil, map[string]any{}} {
		d := newDevice(t)
		d.repo.Timestamp.Signed.Version = 2
		d.repo.Timestamp.Signed.UnrecognizedFields = map[string]any{"x-issued": v}
		d.repo.SignTimestamp()
		d.refused("malformed-metadata")
	}
}

// Fast forward: a thief signs the highest versions there are. New keys, brought
// by a verified root, lower the floors; nothing else does.
func TestRecoveryFromFastForward(t *testing.T) {
	const far = 1 << 40
	forward := func(d *device) {
		d.repo.Timestamp.Signed.Version, d.repo.Snapshot.Signed.Version = far, far
		d.repo.Snapshot.Signed.Meta["assign.json"].Version = far
		d.repo.SignSnapshot()
		d.repo.SignTimestamp()
		d.refresh()
	}
	back := func(d *device) {
		d.repo.Timestamp.Signed.Version, d.repo.Snapshot.Signed.Version = 1, 1
		d.repo.Publish()
	}
	t.Run("both keys replaced", func(t *testing.T) {
		d := newDevice(t)
		forward(d)
		d.repo.Rotate("timestamp")
		d.repo.Rotate("snapshot")
		d.repo.Publish("root")
		back(d)
		if got := d.refresh().Versions(); got.Timestamp != 2 || got.Snapshot != 2 {
			t.Errorf("versions %+v", got)
		}
		if !d.emitted("update.floors-lowered") {
			t.Error("lowered floors are not reported")
		}
		// The floors rise again from there.
		old := d.repo.Copy()
		d.repo.Publish()
		d.refresh()
		d.repo.Replay(old)
		d.refused("metadata-rollback")
	})
	t.Run("only the timestamp key replaced", func(t *testing.T) {
		d := newDevice(t)
		forward(d)
		d.repo.Rotate("timestamp")
		d.repo.Publish("root")
		back(d)
		d.refused("metadata-rollback")
	})
	t.Run("key added", func(t *testing.T) {
		d := newDevice(t)
		forward(d)
		for _, role := range []string{"timestamp", "snapshot"} {
			k := trusttest.NewKey(t)
			d.repo.Keys[role] = append(d.repo.Keys[role], k)
			if err := d.repo.Root.Signed.AddKey(k.Public, role); err != nil {
				t.Fatal(err)
			}
		}
		d.repo.Publish("root")
		back(d)
		d.store.Edit(func(s *trust.State) { s.Timestamp, s.Snapshot = nil, nil })
		d.refused("metadata-rollback")
	})
	t.Run("threshold raised", func(t *testing.T) {
		d := newDevice(t)
		forward(d)
		for _, role := range []string{"timestamp", "snapshot"} {
			k := trusttest.NewKey(t)
			d.repo.Keys[role] = append(d.repo.Keys[role], k)
			if err := d.repo.Root.Signed.AddKey(k.Public, role); err != nil {
				t.Fatal(err)
			}
			d.repo.Root.Signed.Roles[role].Threshold = 2
		}
		d.repo.Publish("root")
		back(d)
		d.refresh()
	})
	t.Run("root not signed by the old one", func(t *testing.T) {
		d := newDevice(t)
		forward(d)
		d.repo.Rotate("timestamp")
		d.repo.Rotate("snapshot")
		d.repo.Rotate("root") // signs with the new key only
		d.repo.Publish("root")
		back(d)
		d.refused("bad-signature")
	})
}
