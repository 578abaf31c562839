// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/configs"
)

// notLive are the rules that have a fix and that the live test does not put to it, and why.
var notLive = map[string]string{
	"account.first-login":   "it is about images; on a running device an account may have been set up",
	"service.listeners":     "which listeners are meant to be is the product's to say; ending one is tried with telnetd below the real init",
	"kernel.bpf-jit":        "the parameter is only in the machine's own network name space; the fix is that of every other parameter",
	"debug.kernel-files":    "there is one debugfs for the whole machine: opened in a name space it would be open outside",
	"debug.kernel-image":    "the mode of /proc/kcore is the whole machine's, and not every kernel has the file",
	"wireless.unused-radio": "needs a radio, and /sys is the whole machine's",
	"device.usb-authorize":  "needs a USB port, and /sys is the whole machine's",
}

// notBack are the rules whose fix leaves something that undo does not bring back, and what.
var notBack = map[string]string{
	"kernel.kexec":          "the kernel takes the value back only at a restart",
	"kernel.modules-closed": "the kernel takes the value back only at a restart",
	"boot.lockdown":         "the kernel takes the value back only at a restart",
}

// Every fix, alone, on a running system: the defect is found, the fix is proved by a second look, a second run writes
// nothing, undo leaves files, modes, owners, links, kernel values and mount options as they were.
func TestLiveFixes(t *testing.T) {
	if !isolated(t) {
		return
	}
	enterLiveRoot(t)
	policy := livePolicy(t)
	tried := map[string]bool{}
	for _, rule := range policy.Rules {
		if rule.Fix == "" || rule.Fix == configs.FixReport || notLive[rule.ID] != "" {
			continue
		}
		one := policy
		one.Rules, one.Waivers = []configs.Rule{rule}, nil
		before := check(t, liveEngine(t, one)).Findings[0]
		if before.Result != configs.Fail {
			t.Logf("%s is %s before the fix: %s", rule.ID, before.Result, before.Reason)
			continue
		}
		tried[rule.ID] = true
		liveFix(t, one)
	}
	miss := t.Logf
	if os.Getenv("BACKSTAY_TEST_STRICT") != "" || os.Getenv("CI") != "" {
		miss = t.Errorf
	}
	for _, rule := range policy.Rules {
		if rule.Fix != "" && rule.Fix != configs.FixReport && !tried[rule.ID] && notLive[rule.ID] == "" {
			miss("%s has a fix that nothing tried on a live system: plant its defect in plantroot or liveDefects, or say in notLive why not", rule.ID)
		}
	}
	for id := range notLive {
		if _, ok := policy.Rule(id); !ok {
			t.Errorf("notLive names %s, which no profile has", id)
		}
	}
	t.Logf("%d fixes tried", len(tried))
}

// All fixes in one run, as a first boot has them.
func TestLiveFixesTogether(t *testing.T) {
	if !isolated(t) {
		return
	}
	enterLiveRoot(t)
	policy := livePolicy(t)
	ids := slices.DeleteFunc(fixableIDs(policy), func(id string) bool { return notLive[id]+notBack[id] != "" })
	e := liveEngine(t, policy)
	first := liveSnapshot(t, false)
	failing := with(check(t, e), configs.Fail)
	r := apply(t, e, false, ids...)
	if bad := with(r, configs.FixFailed); len(bad) > 0 {
		for _, id := range bad {
			f := finding(t, r, id)
			t.Errorf("%s: %s %v", id, f.Reason, f.Evidence)
		}
	}
	for _, id := range with(check(t, e), configs.Fail) {
		if slices.Contains(ids, id) {
			f := finding(t, check(t, e), id)
			t.Errorf("%s fails after all fixes: %v", id, f.Evidence)
		}
	}
	tree := liveSnapshot(t, true)
	if r := apply(t, e, false, ids...); r.Run != "" {
		t.Errorf("a second run writes: %v", with(r, configs.Fixed, configs.FixFailed))
	}
	sameTree(t, tree, liveSnapshot(t, true), "second run")
	if _, err := e.Undo(context.Background()); err != nil {
		t.Fatal(err)
	}
	sameTree(t, first, liveSnapshot(t, false), "undo of all")
	if again := with(check(t, e), configs.Fail); !slices.Equal(again, failing) {
		t.Errorf("after the undo %q fail, before the fixes %q did", again, failing)
	}
}

// livePolicy is every built-in rule, with what only a product can say filled in.
func livePolicy(t *testing.T) configs.Policy {
	t.Helper()
	p := load(t, configs.Profiles()...)
	for i, r := range p.Rules {
		if r.Kind == "firewall" {
			p.Rules[i].Want = []byte(`{"tcp":["22"],"udp":[],"learn_seconds":0}`)
		}
	}
	return p
}

func liveEngine(t *testing.T, p configs.Policy) *configs.Engine {
	t.Helper()
	root, err := os.OpenRoot("/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return &configs.Engine{Root: root, Policy: p, Live: true, StateDir: "/run/backstay", Now: time.Now}
}

func liveFix(t *testing.T, p configs.Policy) {
	t.Helper()
	id := p.Rules[0].ID
	e := liveEngine(t, p)
	first := liveSnapshot(t, false)
	r := apply(t, e, false, id)
	f := r.Findings[0]
	if f.Result != configs.Fixed && f.Result != configs.RebootNeeded {
		t.Errorf("%s is %s after the fix: %s %v", id, f.Result, f.Reason, f.Evidence)
	}
	if after := check(t, liveEngine(t, p)).Findings[0]; after.Result == configs.Fail || after.Result == configs.Unknown {
		t.Errorf("%s is %s when looked at again: %s %v", id, after.Result, after.Reason, after.Evidence)
	}
	tree := liveSnapshot(t, true)
	if r := apply(t, e, false, id); r.Run != "" {
		t.Errorf("%s: a second run writes %v", id, r.Findings[0].Changes)
	}
	sameTree(t, tree, liveSnapshot(t, true), id+", second run")
	if f.Result == configs.FixFailed && len(f.Changes) == 0 {
		return
	}
	if _, err := e.Undo(context.Background()); err != nil {
		t.Errorf("undo %s: %v", id, err)
	}
	back := liveSnapshot(t, false)
	if why := notBack[id]; why != "" {
		if maps.Equal(first, back) {
			t.Errorf("%s comes back as it was; take it out of notBack (%s)", id, why)
		}
		return
	}
	sameTree(t, first, back, id+", undo")
	if f := check(t, liveEngine(t, p)).Findings[0]; f.Result != configs.Fail && !strings.Contains(f.Reason, "reboot") {
		t.Errorf("%s is %s after the undo: %s", id, f.Result, f.Reason)
	}
}
