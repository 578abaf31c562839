// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/store"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/repo"
	"github.com/backstay/backstay/update/trust"
)

// site is a repository, the server in front of it, and one device: what an operator publishes goes through all of it, from
// the signature to a file on the device.
type site struct {
	t    *testing.T
	repo *repo.Repo
	now  time.Time
	dir  string // state of the device
	root string // its file tree
	srv  *httptest.Server

	db     *store.DB
	client *trust.Client
	p      *policies
	events []string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, now: time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC), dir: t.TempDir(), root: t.TempDir()}
	r, err := repo.Create(filepath.Join(t.TempDir(), "repo"), repo.Options{Now: func() time.Time { return s.now }}, repo.Setup{})
	s.must(err)
	t.Cleanup(func() { r.Close() })
	s.repo = r
	s.must(r.AddProduct("cam", repo.RoleKeys{}))
	s.sign()
	s.srv = httptest.NewServer(http.FileServer(http.Dir(r.PublishDir())))
	t.Cleanup(s.srv.Close)
	s.must(os.MkdirAll(filepath.Join(s.root, "etc/backstay"), 0o755))
	s.write("etc/app.conf", "debug=1\n")
	s.write("etc/fstab", "tmpfs /tmp tmpfs mode=1777 0 0\n")
	s.boot(s.now)
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) write(name, text string) {
	s.t.Helper()
	s.must(os.WriteFile(filepath.Join(s.root, name), []byte(text), 0o644))
}

func (s *site) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.root, name))
	s.must(err)
	return string(b)
}

// sign signs everything and publishes it.
func (s *site) sign() {
	s.t.Helper()
	if _, err := s.repo.SignAll(); err != nil {
		s.t.Fatal(err)
	}
	_, err := s.repo.Publish(context.Background())
	s.must(err)
}

// publish puts a policy in front of the devices.
func (s *site) publish(text string) {
	s.t.Helper()
	s.must(s.repo.SetDevicePolicy("cam", []byte(text), repo.RoleKeys{}))
	s.sign()
}

// boot starts the device's agent anew, with what its state directory holds and a clock of its own.
func (s *site) boot(clock time.Time) {
	s.t.Helper()
	if s.db != nil {
		s.must(s.db.Close())
	}
	var err error
	s.db, err = store.Open(filepath.Join(s.dir, "state.db"))
	s.must(err)
	s.t.Cleanup(func() { s.db.Close() })
	c := NewClock(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	began := time.Now()
	c.since, c.system = began, func() time.Time { return clock.Add(time.Since(began)) }
	known, err := s.db.LoadTrust()
	s.must(err)
	c.Raise(known.Issued)
	factory, err := s.repo.FactoryRoot()
	s.must(err)
	s.client, err = trust.New(trust.Config{FactoryRoot: factory, MetadataURL: s.srv.URL + "/metadata", TargetsURL: s.srv.URL + "/targets",
		Store: trustStore{s.db, c}, Now: c.Now})
	s.must(err)
	cfg := config.Baseline{Profiles: []string{"base"}, FloorFile: filepath.Join(s.root, "etc/backstay/floor.json"), Enforce: true,
		Period: config.Duration(time.Hour)}
	if _, err := os.Stat(cfg.FloorFile); err != nil {
		cfg.FloorFile = ""
	}
	state, err := layers(cfg, s.db, s.emit)
	s.must(err)
	root, err := os.OpenRoot(s.root)
	s.must(err)
	s.t.Cleanup(func() { root.Close() })
	engine := &configs.Engine{Root: root, Policy: state.policy, Now: c.Now, StateDir: filepath.Join(s.dir, "baseline"), Emit: s.emit}
	logger := slog.New(slog.DiscardHandler)
	s.p = &policies{guard: newGuard(cfg, engine, logger), client: s.client, product: "cam", poll: time.Hour, store: s.db, now: c.Now,
		emit: s.emit, logger: logger, wake: make(chan struct{}, 1), state: state}
}

func (s *site) emit(code string, attrs ...slog.Attr) {
	if code == configs.EventPolicy {
		for _, a := range attrs {
			if a.Key == "source" || a.Key == "outcome" || a.Key == "code" {
				code += " " + a.Value.String()
			}
		}
		s.events = append(s.events, code)
	}
}

// fetch makes the device look at the repository.
func (s *site) fetch() error {
	if _, err := s.client.Refresh(context.Background()); err != nil {
		return err
	}
	return s.p.fetch(context.Background())
}

func (s *site) serial() uint64 {
	state, _ := s.p.current()
	return state.policy.Serial
}

// operator is a policy with one rule of its own, that can be repaired, and a waiver.
func operator(serial int, more string) string {
	return fmt.Sprintf(`{"schema":1,"id":"site","serial":%d,"issued":"2026-11-25T00:00:00Z","expires":"2026-12-25T00:00:00Z",
	"rules":[{"id":"app.debug","title":"T","why":"W","severity":"high","kind":"file-line","target":"/etc/app.conf","want":{"key":"debug","sep":"=","one_of":["0"],"set":"0"},"fix":"fix"}]%s}`, serial, more)
}

func TestAPolicyTravelsFromTheRepositoryToAFile(t *testing.T) {
	s := newSite(t)
	if err := s.fetch(); !errors.Is(err, update.ErrNothing) {
		t.Fatalf("without a policy: %v", err)
	}
	if state, _ := s.p.current(); state.source != fromBuiltIn || s.read("etc/app.conf") != "debug=1\n" {
		t.Fatal("the device began with something else than what is compiled in")
	}
	s.publish(operator(5, ""))
	s.must(s.fetch())
	if got := s.read("etc/app.conf"); got != "debug=0\n" {
		t.Errorf("the file is %q", got)
	}
	if state, problem := s.p.current(); state.source != fromOperator || state.policy.Serial != 5 || problem != "" {
		t.Errorf("%s %d %q", state.source, state.policy.Serial, problem)
	}
	if got := fmt.Sprint(s.events); got != "[config.policy operator]" {
		t.Errorf("events %s", got)
	}
	// The same again is nothing, and survives a restart.
	s.must(s.fetch())
	s.boot(s.now)
	if s.serial() != 5 {
		t.Errorf("after a restart serial %d", s.serial())
	}
	s.must(s.fetch())
	if len(s.events) != 1 {
		t.Errorf("events %q", s.events)
	}
}

// What is wrong with a policy refuses all of it, is reported once, and leaves the last good one in force.
func TestABadPolicyIsRefusedAsAWhole(t *testing.T) {
	s := newSite(t)
	s.write("etc/backstay/floor.json", `{"schema":1,"id":"floor","serial":1,"rules":[{"id":"maker.debug","title":"T","why":"W","severity":"high","tunable":"none",
		"kind":"file-line","target":"/etc/app.conf","want":{"key":"x","sep":"=","deny":["1"]}}]}`)
	s.boot(s.now)
	s.publish(operator(5, ""))
	s.must(s.fetch())
	for _, c := range []struct{ what, text, code string }{
		{"older", operator(4, ""), configs.CodeRollback},
		{"same serial, other bytes", operator(5, ` `), configs.CodeFork},
		{"loosens", operator(6, `,"adjust":[{"rule":"mount.tmp","mode":"audit"}]`), configs.CodeLoosens},
		{"waives what cannot be waived", operator(6, `,"waivers":[{"rule":"maker.debug","reason":"we like it","by":"ops","expires":"2026-12-01T00:00:00Z"}]`), configs.CodeWaiver},
		{"waives for ever", operator(6, `,"waivers":[{"rule":"mount.tmp","reason":"we like it","by":"ops","expires":"2036-12-01T00:00:00Z"}]`), configs.CodeWaiver},
		{"for another floor", operator(6, `,"floor":"other"`), configs.CodeWrongFloor},
		{"not strict JSON", operator(6, `,"surprise":1`), configs.CodeMalformed},
		{"a key twice", operator(6, `,"serial":7`), configs.CodeMalformed},
		{"expired", strings.Replace(operator(6, ""), "2026-12-25", "2026-11-25", 1), configs.CodeExpired},
		{"cut short", operator(6, "")[:100], configs.CodeMalformed},
	} {
		s.events = nil
		text := c.text
		if c.what == "expired" {
			text = strings.Replace(text, "2026-11-25T00:00:00Z", "2026-11-24T00:00:00Z", 1)
		}
		s.publish(text)
		err := s.fetch()
		if configs.Code(err) != c.code {
			t.Errorf("%s: %v, want %s", c.what, err, c.code)
		}
		if s.serial() != 5 || s.p.guard.engine.Policy.Serial != 5 {
			t.Errorf("%s: serial %d is in force", c.what, s.serial())
		}
		if _, problem := s.p.current(); problem == "" {
			t.Errorf("%s: the status is silent", c.what)
		}
		s.fetch() //nolint:errcheck // it knows already
		if want := "[config.policy operator failure " + c.code + "]"; fmt.Sprint(s.events) != want {
			t.Errorf("%s: events %q, want %s", c.what, s.events, want)
		}
	}
	s.boot(s.now)
	if s.serial() != 5 {
		t.Errorf("after a restart serial %d", s.serial())
	}
	s.publish(operator(9, ""))
	s.must(s.fetch())
	if _, problem := s.p.current(); s.serial() != 9 || problem != "" {
		t.Errorf("the next good one: serial %d, %q", s.serial(), problem)
	}
}

func TestTheSerialIsStoredAfterTheRun(t *testing.T) {
	s := newSite(t)
	s.publish(operator(5, ""))
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := s.client.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	// The power goes after the policy was fetched: the run ends half way.
	s.p.guard.engine.Changed = func(string, func() bool) { cancel() }
	if err := s.p.fetch(ctx); err == nil {
		t.Fatal("a run that was cut short is an acceptance")
	}
	var stored storedPolicy
	s.must(s.db.LoadPolicy(&stored))
	if stored.Serial != 0 || s.p.guard.engine.Policy.Serial == 5 {
		t.Errorf("stored serial %d", stored.Serial)
	}
	s.boot(s.now)
	s.must(s.fetch())
	if s.serial() != 5 || s.read("etc/app.conf") != "debug=0\n" {
		t.Errorf("the next start has serial %d", s.serial())
	}
}

func TestRecoveryOrder(t *testing.T) {
	s := newSite(t)
	s.write("etc/backstay/floor.json", `{"schema":1,"id":"floor","serial":1,"extends":["camera"]}`)
	s.boot(s.now)
	if state, _ := s.p.current(); state.source != fromMaker || state.policy.ID != "floor" {
		t.Fatalf("%s %s", state.source, state.policy.ID)
	}
	s.publish(operator(5, ""))
	s.must(s.fetch())
	// A new image brings a floor that the operator's policy would loosen: the maker's holds.
	s.write("etc/backstay/floor.json", `{"schema":1,"id":"floor2","serial":2,"rules":[{"id":"app.debug","title":"T","why":"W","severity":"high","kind":"file-absent","target":"/etc/none"}]}`)
	s.events = nil
	s.boot(s.now)
	if state, problem := s.p.current(); state.source != fromMaker || state.policy.ID != "floor2" || problem == "" {
		t.Errorf("%s %s %q", state.source, state.policy.ID, problem)
	}
	// And a floor that cannot be read leaves what is compiled in, with the operator's policy over it.
	s.write("etc/backstay/floor.json", `{"schema":1,`)
	s.boot(s.now)
	if state, problem := s.p.current(); state.source != fromOperator || state.floor.ID != "base" || problem == "" {
		t.Errorf("%s %s %q", state.source, state.floor.ID, problem)
	}
	var junk storedPolicy
	junk.Serial, junk.Raw = 7, []byte("junk")
	s.must(s.db.SavePolicy(junk))
	s.boot(s.now)
	if state, _ := s.p.current(); state.source != fromBuiltIn || state.policy.ID != "base" {
		t.Errorf("%s %s", state.source, state.policy.ID)
	}
	s.publish(operator(6, ""))
	if err := s.fetch(); configs.Code(err) != configs.CodeRollback {
		t.Errorf("below the serial that was stored with junk: %v", err)
	}
	want := "[config.policy operator failure invalid-policy config.policy maker failure malformed-policy"
	if got := fmt.Sprint(s.events); !strings.HasPrefix(got, "[config.policy operator failure") || !strings.Contains(got, "maker failure malformed-policy") {
		t.Errorf("events %s, want %s", got, want)
	}
}

// A device whose clock is set back keeps its waivers ended: the time is never before the newest metadata it has seen.
func TestAClockSetBackRevivesNoWaiver(t *testing.T) {
	s := newSite(t)
	s.publish(operator(5, `,"waivers":[{"rule":"mount.tmp","reason":"until the next image","by":"ops","expires":"2026-12-01T00:00:00Z"}]`))
	s.must(s.fetch())
	waived := func() configs.Result {
		r, err := s.p.guard.check(t.Context())
		s.must(err)
		for _, f := range r.Findings {
			if f.Rule == "mount.tmp" {
				return f.Result
			}
		}
		return ""
	}
	if got := waived(); got != configs.Waived {
		t.Fatalf("in its time the rule is %s", got)
	}
	s.now = time.Date(2026, 12, 2, 0, 0, 0, 0, time.UTC)
	s.sign() // fresh metadata
	s.boot(s.now)
	if err := s.fetch(); err != nil {
		t.Fatal(err)
	}
	s.write("etc/fstab", "tmpfs /tmp tmpfs mode=1777 0 0\n")
	if got := waived(); got != configs.Fail {
		t.Fatalf("after its time the rule is %s", got)
	}
	s.boot(time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)) // the battery of the clock is dead
	if got := waived(); got != configs.Fail {
		t.Errorf("with the clock set back the rule is %s", got)
	}
}

func TestStoredPolicyRoundTrip(t *testing.T) {
	in := storedPolicy{configs.Accepted{Serial: 1<<53 - 1, SHA256: [32]byte{1, 2}}, []byte("{}")}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out storedPolicy
	if err := json.Unmarshal(b, &out); err != nil || out.Accepted != in.Accepted || string(out.Raw) != "{}" {
		t.Errorf("%+v %v", out, err)
	}
}
