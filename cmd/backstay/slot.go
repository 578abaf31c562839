// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
)

func (d *device) slotCommand() *cli.Command {
	return &cli.Command{
		Name: "slot", Short: "show the places firmware boots from, and decide about the one that runs",
		Sub: []*cli.Command{
			d.slotList(),
			{Name: "mark-good", Short: "keep the image that runs, whatever the health checks say",
				Long: "During a trial this is the verdict: the update is kept and the floor raised. Otherwise the slot's attempts are refilled.",
				Run:  d.do(control.MethodSlotMarkGood)},
			{Name: "mark-bad", Short: "give the image that runs up and go back to the other slot",
				Long: "The release is not installed again on this device. Ends with code 4: the device reboots.",
				Run:  d.do(control.MethodSlotMarkBad)},
			{Name: "rollback", Short: "go back to the image in the other slot",
				Long: "Refused when that image is below the floor, or not the one this device kept. Ends with code 4: the device reboots.",
				Run:  d.do(control.MethodSlotRollback)},
		},
	}
}

func (d *device) slotList() *cli.Command {
	return &cli.Command{
		Name: "list", Short: "show every slot, what is in it, what the boot loader would do, and what speaks for which boot loader",
		Long: `The evidence is what the agent finds on this device: the files, device tree nodes and kernel parameters of boot loaders,
and the configuration of another update agent. Nothing is chosen by it; what counts is boot.kind in the configuration.`,
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			s, err := ask[control.Slots](ctx, d, control.MethodSlotList, nil)
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstay.slots/1", s)
			}
			return printSlots(env, s)
		},
	}
}

func printSlots(env *cli.Env, s control.Slots) error {
	t := env.Table("slot", "state", "attempts", "version", "release", "size", "digest", "place")
	for _, slot := range s.Items {
		state := "inactive"
		switch {
		case slot.Booted && slot.Primary:
			state = "booted"
		case slot.Booted:
			state = "booted, not next"
		case slot.Primary:
			state = "next"
		}
		size := "-"
		if slot.Size > 0 {
			size = cli.Bytes(slot.Size)
		}
		place := slot.Kind + " " + slot.Path
		if slot.Bootname != slot.Name && slot.Bootname != "" {
			place += ", booted as " + slot.Bootname
		}
		t.Row(slot.Name, state, slot.Left, or(slot.Version, "unknown"), slot.Counter, size, or(slot.SHA256[:min(12, len(slot.SHA256))], "-"), place)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout)
	t = env.Table()
	loader := s.Boot.Kind
	if s.Boot.Convention != "" {
		loader += ", convention " + s.Boot.Convention
	}
	if s.Boot.Trial {
		loader += ", on trial"
	}
	t.Row("boot loader", or(loader, "none configured"), s.Boot.Path)
	if s.Boot.Problem != "" {
		t.Row("problem", s.Boot.Problem, "")
	}
	for _, e := range s.Evidence {
		t.Row("found", or(e.Kind, "any"), e.Path+": "+e.Why)
	}
	return t.Flush()
}
