// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// commandRig is a device whose boot loader is behind a program, which keeps one line: the order and each slot's attempts.
type commandRig struct{ *cutDisk }

func newCommandRig(d *cutDisk) cutRig {
	d.put("state", []byte("one:3 two:3"))
	return &commandRig{d}
}

func (r *commandRig) parse() (order []string, left map[string]int) {
	left = map[string]int{}
	for _, word := range strings.Fields(string(r.durable["state"])) {
		name, n, _ := strings.Cut(word, ":")
		order, left[name] = append(order, name), must(strconv.Atoi(n))
	}
	return order, left
}

func (r *commandRig) save(order []string, left map[string]int) {
	var text string
	for _, name := range order {
		text += fmt.Sprint(name, ":", left[name], " ")
	}
	r.put("state", []byte(text))
}

// program is the maker's: each change is whole and durable.
func (r *commandRig) program(args ...string) (string, error) {
	order, left := r.parse()
	change := func(f func()) (string, error) {
		ok, err := r.effect()
		if ok {
			f()
			r.save(order, left)
		}
		return "", err
	}
	switch strings.Join(args[:1], "") {
	case "get-primary":
		for _, name := range order {
			if left[name] > 0 {
				return name + "\n", nil
			}
		}
	case "get-state":
		if left[args[1]] > 0 {
			return "good\n", nil
		}
		return "bad\n", nil
	case "set-primary":
		return change(func() {
			if order[0] != args[1] {
				order[0], order[1] = order[1], order[0]
			}
			left[args[1]] = 3
		})
	case "set-state":
		return change(func() { left[args[1]] = map[string]int{"good": 3, "bad": 0}[args[2]] })
	}
	return "", errors.New("exit status 1")
}

func (r *commandRig) open() (update.Bootloader, error) {
	return boot.OpenCommand(boot.CommandOptions{Run: r.program, Slots: []update.SlotID{"A", "B"}, Names: []string{"one", "two"}, Attempts: 3})
}

func (r *commandRig) boot(bool) (update.SlotID, error) {
	order, left := r.parse()
	for _, name := range order {
		if left[name] > 0 {
			left[name]--
			r.save(order, left)
			return map[string]update.SlotID{"one": "A", "two": "B"}[name], nil
		}
	}
	return "", errors.New("no slot has attempts left")
}

// fallBacks are all slots with attempts.
func (r *commandRig) fallBacks() (out []update.SlotID) {
	_, left := r.parse()
	for name, id := range map[string]update.SlotID{"one": "A", "two": "B"} {
		if left[name] > 0 {
			out = append(out, id)
		}
	}
	return out
}

// TestCutCommand cuts an update at every change the program makes.
func TestCutCommand(t *testing.T) {
	wantCuts(t, newCommandRig, "no disarm", "no keep")
}

// TestCommandRefuses holds that a program which fails, answers nonsense or lies about what it did is not believed.
func TestCommandRefuses(t *testing.T) {
	for name, answer := range map[string]func(args ...string) (string, error){
		"fails":         func(...string) (string, error) { return "", errors.New("exit status 1") },
		"says nothing":  func(...string) (string, error) { return "", nil },
		"says nonsense": func(...string) (string, error) { return "three", nil },
		"does nothing": func(args ...string) (string, error) {
			return map[string]string{"get-primary": "one", "get-state": "bad"}[args[0]], nil
		},
	} {
		b := must(boot.OpenCommand(boot.CommandOptions{Run: answer, Slots: []update.SlotID{"A", "B"}, Names: []string{"one", "two"}}))
		if err := b.Try("B", 1); err == nil {
			t.Errorf("%s: try", name)
		}
		if err := b.Keep("B"); err == nil {
			t.Errorf("%s: keep", name)
		}
		if _, err := b.State(); err == nil && name != "does nothing" {
			t.Errorf("%s: state", name)
		}
	}
	d := &cutDisk{durable: map[string][]byte{}}
	b := must(newCommandRig(d).open())
	if err := errors.Join(b.Disarm("B"), b.Disarm("B")); err != nil || d.effects != 1 {
		t.Errorf("%v, %d changes", err, d.effects)
	}
	var no *update.Refusal
	if err := b.Disarm("A"); !errors.As(err, &no) {
		t.Errorf("the only slot was disarmed: %v", err)
	}
}
