// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

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
		Name: "list", Short: "show every slot, what is in it and what the boot loader would do",
		Run: func(ctx context.Context, env *cli.Env, _ []string) error {
			s, err := ask[control.Slots](ctx, d, control.MethodSlotList, nil)
			if err != nil {
				return err
			}
			if env.JSON {
				return env.PrintJSON("backstay.slots/1", s)
			}
			t := env.Table("slot", "state", "attempts", "version", "release", "place")
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
				t.Row(slot.Name, state, slot.Left, or(slot.Version, "unknown"), slot.Counter, slot.Kind+" "+slot.Path)
			}
			return t.Flush()
		},
	}
}
