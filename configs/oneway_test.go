// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"context"
	"errors"
	"testing"

	"github.com/backstay/backstay/configs"
)

// What only a restart takes back comes after everything else, is never on trial, and is no obstacle to undoing the rest.
func TestOneWayComesLastAndIsNeverOnTrial(t *testing.T) {
	const kexec = "proc/sys/kernel/kexec_load_disabled"
	dir, _ := plant(t)
	p := load(t, "kernel-strict", "ssh")
	for i, r := range p.Rules {
		if r.ID == "kernel.kexec" {
			p.Rules[0], p.Rules[i] = r, p.Rules[0]
		}
	}
	e := engine(t, dir, p)
	e.Confirm = func(context.Context) error {
		if read(t, dir, kexec) != "0\n" {
			t.Error("a one-way value was written before the trial was confirmed")
		}
		return nil
	}
	if f := finding(t, apply(t, e, false), "kernel.kexec"); f.Result != configs.Fixed || read(t, dir, kexec) != "1\n" {
		t.Errorf("kernel.kexec is %s: %s", f.Result, f.Reason)
	}
	if _, err := e.Undo(context.Background()); err != nil {
		t.Errorf("undo: %v", err)
	}
	if read(t, dir, kexec) != "1\n" || read(t, dir, "proc/sys/kernel/sysrq") != "438\n" {
		t.Error("undo did not take back what can be taken back, and only that")
	}

	dir, _ = plant(t)
	p.Rules[0].Mode = configs.Trial
	e = engine(t, dir, p)
	e.Confirm = func(context.Context) error { return errors.New("no") }
	if f := finding(t, apply(t, e, false), "kernel.kexec"); f.Result != configs.Fail || read(t, dir, kexec) != "0\n" {
		t.Errorf("a one-way rule on trial is %s: %s", f.Result, f.Reason)
	}
	if f := finding(t, apply(t, e, false, "kernel.kexec"), "kernel.kexec"); f.Result != configs.Fixed {
		t.Errorf("named, it is %s: %s", f.Result, f.Reason)
	}
}
