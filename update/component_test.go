// SPDX-License-Identifier: Apache-2.0

package update_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/updatetest"
)

// parts are the components of the tests: b needs a, and c nothing.
var parts = []string{"a", "b", "c"}

func part(name, version string) []byte { return updatetest.Image(name+version, 3000) }

// equip gives a world components, and its release new ones.
func (w *world) equip() *updatetest.Components {
	now := map[string][]byte{}
	w.source.Parts = map[string][]byte{}
	for i, name := range parts {
		now[name] = part(name, "1")
		c := update.Component{Name: name, Version: "2", Path: update.ComponentPath("acme", name, "2"), Length: 3000, SHA256: sha256.Sum256(part(name, "2"))}
		if i == 1 {
			c.After = []string{"a"}
		}
		w.source.Parts[c.Path] = part(name, "2")
		w.source.Release.Components = append(w.source.Release.Components, c)
	}
	w.components = updatetest.NewComponents(now)
	w.components.Effect = w.effect
	return w.components
}

// TestCutComponents cuts at every effect of an update with three components: in the end all run the new version or all the old
// one, as the image does.
func TestCutComponents(t *testing.T) {
	step, cuts := 2, 0
	if os.Getenv("BACKSTAY_LONG") == "1" {
		step = 1
	}
	for _, what := range []string{"good", "image unhealthy", "image unbootable", "component fails", "component wrong"} {
		for n := 0; ; n += step {
			reached := true
			for _, after := range []bool{false, true} {
				k := map[string]kind{"image unhealthy": unhealthy, "image unbootable": unbootable}[what]
				w := newWorld(k, cut{at: n, after: after})
				c := w.equip()
				fresh := what == "good"
				if w.kind = k; k == "" {
					w.kind = good
				}
				switch what {
				case "component fails":
					c.Fails = "b"
				case "component wrong":
					w.source.Parts[update.ComponentPath("acme", "c", "2")] = part("c", "evil")
				}
				w.settled(t)
				version := "1"
				if fresh {
					version = "2"
				}
				for _, name := range parts {
					if !bytes.Equal(c.Now[name], part(name, version)) {
						t.Fatalf("%s, %v: component %s does not run version %s\n\t%s", what, w.cut, name, version, updatetest.Ops(w.ops))
					}
				}
				if w.broken != nil || fresh != (w.slots.Running == "B") || fresh != w.runsNew() {
					t.Fatalf("%s, %v: runs %s, %v\n\t%s", what, w.cut, w.slots.Running, w.broken, updatetest.Ops(w.ops))
				}
				job, err := w.journal.Load()
				if err != nil || len(job.Parts) > 0 || (job.State != "" && job.State != update.Idle) || len(job.History) != 1 {
					t.Fatalf("%s, %v: job %+v, %v", what, w.cut, job, err)
				}
				reached = reached && len(w.ops) >= n
				cuts++
			}
			if !reached {
				break
			}
		}
	}
	t.Logf("%d cuts", cuts)
}

// TestComponents looks at the order of things.
func TestComponents(t *testing.T) {
	w := newWorld(good, cut{})
	w.equip()
	w.settled(t)
	at := func(op string) int { return slices.Index(w.ops, op) }
	order := []string{"slot.sync B", "component.install a", "component.install b", "component.install c", "boot.try B", "reboot",
		"component.activate a", "component.activate b", "component.activate c", "health", "boot.keep B"}
	for i, op := range order {
		if at(op) < 0 || (i > 0 && at(op) < at(order[i-1])) {
			t.Errorf("%s is not after %s:\n\t%s", op, order[max(i-1, 0)], updatetest.Ops(w.ops))
		}
	}
	t.Run("the same image with other components", func(t *testing.T) {
		id := w.slots.Running
		m := w.machine()
		if err := m.Run(t.Context()); !errors.Is(err, update.ErrNothing) {
			t.Fatalf("the same release: %v", err)
		}
		w.source.Release.Path, w.source.Release.Version = "firmware/acme/3.1.img", "3.1"
		if err := m.Run(t.Context()); !errors.Is(err, update.ErrNothing) {
			t.Fatalf("another release with what runs: %v", err)
		}
		c := &w.source.Release.Components[0]
		c.Path, c.SHA256 = update.ComponentPath("acme", "a", "3"), sha256.Sum256(part("a", "3"))
		w.source.Parts[c.Path] = part("a", "3")
		if err := m.Run(t.Context()); !errors.Is(err, update.ErrReboot) || id != w.slots.Running {
			t.Fatalf("a new component: %v", err)
		}
		w.settled(t)
		if !bytes.Equal(w.components.Now["a"], part("a", "3")) || slices.Contains(w.ops[at("health")+1:], "component.install b") {
			t.Errorf("component a is not new, or b was installed again:\n\t%s", updatetest.Ops(w.ops))
		}
	})
	t.Run("not here", func(t *testing.T) {
		for _, without := range []bool{false, true} {
			w := newWorld(good, cut{})
			w.equip()
			delete(w.components.Now, "b")
			m := w.machine()
			if without {
				m.Components = nil
			}
			var no *update.Refusal
			if err := m.Run(t.Context()); !errors.As(err, &no) || no.Code != update.CodeNoComponent || slices.Contains(w.ops, "boot.disarm B") {
				t.Errorf("a release with a component this device has not: %v", err)
			}
		}
	})
	t.Run("given up by the boot loader", func(t *testing.T) {
		for _, op := range []string{"component.activate a", "component.activate c"} {
			w := newWorld(good, cut{at: at(op) + 1, after: true})
			c := w.equip()
			for !w.dead {
				_ = w.life(t)
			}
			w.boot.Order = []update.SlotID{"A", "B"} // the new image does not come up again
			w.settled(t)
			if w.slots.Running != "A" || !bytes.Equal(c.Now["a"], part("a", "1")) || !bytes.Equal(c.Now["c"], part("c", "1")) {
				t.Errorf("cut after %s: a component of the image that was given up still runs\n\t%s", op, updatetest.Ops(w.ops))
			}
		}
	})
	t.Run("stuck", func(t *testing.T) {
		w := newWorld(unhealthy, cut{})
		c := w.equip()
		c.Stuck = "b"
		w.settled(t)
		if w.slots.Running != "A" || !bytes.Equal(c.Now["a"], part("a", "1")) || !bytes.Equal(c.Now["c"], part("c", "1")) ||
			!slices.Contains(w.events, "update.component-stuck") {
			t.Errorf("runs %s, events %v", w.slots.Running, w.events)
		}
	})
	t.Run("quarantine", func(t *testing.T) {
		w := newWorld(good, cut{})
		c := w.equip()
		c.Fails = "b"
		w.settled(t)
		m := w.machine()
		var no *update.Refusal
		if err := m.Run(t.Context()); !errors.As(err, &no) || no.Code != update.CodeQuarantined {
			t.Fatalf("%v", err)
		}
		// The same image with a better component is another release.
		c.Fails = ""
		b := &w.source.Release.Components[1]
		b.SHA256, w.source.Parts[b.Path] = sha256.Sum256(part("b", "2b")), part("b", "2b")
		if err := m.Run(t.Context()); !errors.Is(err, update.ErrReboot) {
			t.Errorf("%v", err)
		}
	})
}

func TestComponentOrder(t *testing.T) {
	list := func(s string) []update.Component {
		var out []update.Component
		for _, f := range strings.Fields(s) {
			name, after, ok := strings.Cut(f, "<")
			c := update.Component{Name: name}
			if ok {
				c.After = strings.Split(after, ",")
			}
			out = append(out, c)
		}
		return out
	}
	for in, want := range map[string]string{
		"": "", "a b c": "a b c", "a<b b": "b a", "a<b b<c c": "c b a", "a<b,c b c<b d": "b c d a", "a<a": "!", "a<b b<a": "!", "a<x": "!",
	} {
		got, err := update.Order(list(in))
		var names []string
		for _, c := range got {
			names = append(names, c.Name)
		}
		if (err != nil) != (want == "!") || (err == nil && strings.Join(names, " ") != want) {
			t.Errorf("%q: %v, %v", in, names, err)
		}
	}
}

func TestParseComponents(t *testing.T) {
	entry := func(change map[string]string) string {
		f := map[string]string{"name": `"mcu"`, "version": `"1.2"`, "path": `"firmware/acme-cam/mcu-1.2.part"`, "length": "10", "sha256": `"` + hex.EncodeToString(make([]byte, 32)) + `"`}
		maps.Copy(f, change)
		var fields []string
		for _, k := range slices.Sorted(maps.Keys(f)) {
			if f[k] != "" {
				fields = append(fields, fmt.Sprintf("%q: %s", k, f[k]))
			}
		}
		return "{" + strings.Join(fields, ", ") + "}"
	}
	parse := func(list string) ([]update.Component, error) {
		c, err := update.ParseCustom([]byte(`{"backstay": 1, "product": "acme-cam", "compatible": ["v2"], "version": "2.0", "counter": 2, "kind": "full",
			"class": "feature", "critical": ["components"], "components": ` + list + `}`))
		return c.Components, err
	}
	two := entry(map[string]string{"name": `"fpga"`, "after": `["mcu"]`})
	got, err := parse("[" + two + "," + entry(nil) + "]")
	if err != nil || len(got) != 2 || got[0].Name != "mcu" || got[1].Name != "fpga" || got[0].Length != 10 || got[0].Path != update.ComponentPath("acme-cam", "mcu", "1.2") {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, list := range map[string]string{
		"twice": "[" + entry(nil) + "," + entry(nil) + "]", "unknown need": "[" + two + "]", "not a list": "{}", "null": "null", "not an object": "[1]",
		"too many": "[" + strings.TrimSuffix(strings.Repeat("{},", 17), ",") + "]",
		"no name":  "[" + entry(map[string]string{"name": ""}) + "]", "bad name": "[" + entry(map[string]string{"name": `"../x"`}) + "]",
		"empty": "[" + entry(map[string]string{"length": "0"}) + "]", "no digest": "[" + entry(map[string]string{"sha256": ""}) + "]",
		"other directory": "[" + entry(map[string]string{"path": `"firmware/other/mcu-1.2.part"`}) + "]",
		"up":              "[" + entry(map[string]string{"path": `"firmware/acme-cam/../mcu-1.2.part"`}) + "]",
		"an image":        "[" + entry(map[string]string{"path": `"firmware/acme-cam/1.2.img"`}) + "]",
	} {
		var no *update.Refusal
		if _, err := parse(list); !errors.As(err, &no) || no.Code != "malformed-release" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
