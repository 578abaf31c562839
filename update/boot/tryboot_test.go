// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

const (
	autobootPath = "/boot/autoboot.txt"
	stockText    = "# maker's\n[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=2\n"
	shortText    = "tryboot_a_b=1\nboot_partition=2\n"
)

// trybootRig is a Raspberry Pi.
type trybootRig struct {
	*cutDisk
	tree string
}

func newTrybootRig(t *testing.T, text string) func(d *cutDisk) cutRig {
	tree := t.TempDir()
	return func(d *cutDisk) cutRig {
		d.put(autobootPath, []byte(text))
		return &trybootRig{d, tree}
	}
}

func (r *trybootRig) open() (update.Bootloader, error) {
	return boot.Media(r.cutDisk.open).Tryboot(boot.TrybootOptions{Path: autobootPath, Tree: r.tree,
		Slots: []update.SlotID{"A", "B"}, Names: []string{"2", "3"}, Attempts: 3})
}

// boot plays the firmware: of the lines under [all], and with a tryboot under [tryboot], the last counts. The restart was
// asked for as the boot loader says.
func (r *trybootRig) boot(tried bool) (update.SlotID, error) {
	b := must(r.open()).(*boot.Tryboot)
	argument, err := b.RebootArgument()
	if err != nil {
		return "", err
	}
	filter, part := "all", ""
	for line := range strings.Lines(string(r.durable[autobootPath])) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "["):
			filter = strings.Trim(line, "[]")
		case filter == "all" || filter == "tryboot" && tried && argument == "0 tryboot":
			if n, ok := strings.CutPrefix(line, "boot_partition="); ok {
				part = n
			}
		}
	}
	switch part {
	case "2":
		return "A", nil
	case "3":
		return "B", nil
	}
	return "", fmt.Errorf("partition %q", part)
}

// fallBacks is what anybody's tryboot would start.
func (r *trybootRig) fallBacks() []update.SlotID {
	id, _ := r.boot(true)
	return []update.SlotID{id}
}

// TestCutTryboot cuts an update with a file that has both sections and with one that has to become longer first.
func TestCutTryboot(t *testing.T) {
	wantCuts(t, newTrybootRig(t, stockText), "no sync", "no keep", "try keeps")
	wantCuts(t, newTrybootRig(t, shortText))
}

// TestTryboot holds the bytes of each transition, which change in their place, and the state.
func TestTryboot(t *testing.T) {
	d := &cutDisk{durable: map[string][]byte{}}
	r := newTrybootRig(t, stockText)(d).(*trybootRig)
	b := must(r.open()).(*boot.Tryboot)
	text := func(normal, try int) string {
		return fmt.Sprintf("# maker's\n[all]\ntryboot_a_b=1\nboot_partition=%d\n[tryboot]\nboot_partition=%d\n", normal, try)
	}
	for _, s := range []struct {
		name     string
		do       func() error
		want     string
		argument string
		changed  bool
	}{
		{"disarm B", func() error { return b.Disarm("B") }, text(2, 2), "", false},
		{"try B", func() error { return b.Try("B", 3) }, text(2, 3), "0 tryboot", true},
		{"disarm B, armed", func() error { return b.Disarm("B") }, text(2, 2), "", true},
		{"try B again", func() error { return b.Try("B", 3) }, text(2, 3), "0 tryboot", true},
		{"keep B", func() error { return b.Keep("B") }, text(3, 3), "", true},
		{"disarm A", func() error { return b.Disarm("A") }, text(3, 3), "", false},
	} {
		before := d.effects
		err := s.do()
		argument, err2 := b.RebootArgument()
		if err != nil || err2 != nil || string(d.durable[autobootPath]) != s.want || argument != s.argument {
			t.Fatalf("%s: %v, %v, %q\n%s", s.name, err, err2, argument, d.durable[autobootPath])
		}
		if n := d.effects - before; n != 0 && !s.changed || n != 2 && s.changed {
			t.Errorf("%s: %d effects", s.name, n)
		}
	}
	var no *update.Refusal
	if err := b.Disarm("B"); !errors.As(err, &no) || no.Code != "only-slot" {
		t.Errorf("the only slot was disarmed: %v", err)
	}
	if err := b.Try("A", 1); err != nil {
		t.Fatal(err)
	}
	if s, err := b.State(); err != nil || s.Primary != "A" || !s.Trial || s.Left["A"] != 1 || s.Left["B"] != 3 {
		t.Errorf("state %+v, %v", s, err)
	}
	if err := os.WriteFile(filepath.Join(r.tree, "tryboot"), []byte{0, 0, 0, 1}, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := b.State(); err != nil || s.Primary != "B" || s.Left["A"] != 0 {
		t.Errorf("state on trial %+v, %v", s, err)
	}
}

// TestTrybootRefuses holds what is no file of two slots, and that nothing is written then.
func TestTrybootRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":            "",
		"no tryboot_a_b":   "boot_partition=2\n",
		"switched off":     "[all]\ntryboot_a_b=0\nboot_partition=2\n",
		"no partition":     "[all]\ntryboot_a_b=1\n[tryboot]\nboot_partition=3\n",
		"another one":      "[all]\ntryboot_a_b=1\nboot_partition=4\n",
		"unknown filter":   "[all]\ntryboot_a_b=1\nboot_partition=2\n[pi5]\nboot_partition=3\n",
		"too long":         stockText + strings.Repeat("#", 512),
		"no room to grow":  shortText + strings.Repeat("#", 475) + "\n",
		"not under [all]":  "[none]\ntryboot_a_b=1\nboot_partition=2\n",
		"second overrides": "[all]\ntryboot_a_b=1\nboot_partition=2\nboot_partition=5\n",
	} {
		d := &cutDisk{durable: map[string][]byte{}}
		r := newTrybootRig(t, text)(d)
		if err := must(r.open()).Try("B", 1); !errors.Is(err, update.ErrSetup) || d.effects != 0 {
			t.Errorf("%s: %v, %d effects", name, err, d.effects)
		}
	}
	for _, names := range [][]string{{"2", "2"}, {"2", ""}, {"2", "x"}, {"02", "3"}, {"2"}} {
		if _, err := boot.OpenTryboot(boot.TrybootOptions{Slots: []update.SlotID{"A", "B"}, Names: names}); !errors.Is(err, update.ErrSetup) {
			t.Errorf("names %q: %v", names, err)
		}
	}
}

// FuzzAutoboot gives the parser any file, and wants what was set to be read back.
func FuzzAutoboot(f *testing.F) {
	f.Add([]byte(stockText))
	f.Add([]byte("tryboot_a_b=1\r\nboot_partition = 2\r\n[ALL]\n[tryboot]\n boot_partition=3\nx"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d := &cutDisk{durable: map[string][]byte{}}
		b := must(newTrybootRig(t, string(text))(d).open()).(*boot.Tryboot)
		if _, err := b.State(); err != nil {
			return
		}
		if err := b.Try("B", 1); err != nil {
			return
		}
		if s, err := b.State(); err != nil || s.Primary != "B" {
			t.Fatalf("%+v, %v: %q", s, err, d.durable[autobootPath])
		}
		if err := b.Keep("B"); err != nil {
			t.Fatal(err)
		}
		if s, err := b.State(); err != nil || s.Primary != "B" || s.Trial {
			t.Fatalf("%+v, %v: %q", s, err, d.durable[autobootPath])
		}
	})
}
