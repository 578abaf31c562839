// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/boot"
)

// openBoot opens the boot loader, and reads its state once: what cannot be read now could not be written later, when half an
// update is done.
func openBoot(cfg *config.Config, names [2]update.SlotID) (update.Bootloader, error) {
	b, err := newBoot(cfg, names)
	if err != nil {
		return nil, blame(cfg, err)
	}
	if _, err := b.State(); errors.Is(err, update.ErrSetup) {
		return nil, blame(cfg, err)
	}
	return b, nil
}

// blame names the line of the configuration that chose this boot loader.
func blame(cfg *config.Config, err error) error {
	if n := cfg.Line("boot"); n > 0 {
		return fmt.Errorf("configuration line %d: boot: %w", n, err)
	}
	return fmt.Errorf("boot: %w", err)
}

func newBoot(cfg *config.Config, names [2]update.SlotID) (update.Bootloader, error) {
	switch cfg.Boot.Kind {
	case "grub":
		return boot.OpenGRUB(boot.GRUBOptions{Path: bootPath(cfg.Boot), Convention: cfg.Boot.Convention, Slots: names[:],
			Names: bootnames(cfg, names), Attempts: cfg.Update.Attempts})
	case "efi":
		return boot.OpenEFI(boot.EFIOptions{Path: bootPath(cfg.Boot), Convention: cfg.Boot.Convention, Slots: names[:],
			Names: bootnames(cfg, names), Attempts: cfg.Update.Attempts})
	case "tryboot":
		return boot.OpenTryboot(boot.TrybootOptions{Path: bootPath(cfg.Boot), Tree: "/proc/device-tree/chosen/bootloader", Slots: names[:],
			Names: bootnames(cfg, names), Attempts: cfg.Update.Attempts})
	case "barebox":
		return boot.OpenBarebox(boot.BareboxOptions{Path: cfg.Boot.Path, Offset: int64(cfg.Boot.Offset), Slots: names[:],
			Names: bootnames(cfg, names), Attempts: cfg.Update.Attempts})
	case "android":
		offset := int64(cfg.Boot.Offset)
		if offset == 0 {
			offset = 2048
		}
		return boot.OpenAndroid(boot.AndroidOptions{Path: bootPath(cfg.Boot), Offset: offset, Slots: names[:],
			Names: bootnames(cfg, names), Attempts: cfg.Update.Attempts})
	case "psa":
		return boot.OpenPSA(boot.PSAOptions{Paths: [2]string{cfg.Boot.Path, cfg.Boot.Copy}, Slots: names[:],
			Names: bootnames(cfg, names), Attempts: cfg.Update.Attempts})
	case "command":
		return boot.OpenCommand(boot.CommandOptions{Run: bootCommand(cfg.Boot.Command, cfg.Boot.Timeout.Std()), Slots: names[:],
			Names: bootnames(cfg, names), Attempts: cfg.Update.Attempts})
	}
	return newUBoot(cfg, names)
}

func newUBoot(cfg *config.Config, names [2]update.SlotID) (update.Bootloader, error) {
	b := cfg.Boot
	env, err := boot.ReadConfig(b.FWEnvConfig, b.Namespace)
	if err != nil {
		return nil, err
	}
	o := boot.Options{Env: env, Convention: b.Convention, Slots: names[:], Attempts: cfg.Update.Attempts,
		Canary: b.Canary, Counter: b.Counter, SWUpdate: b.SWUpdate}
	list := bootnames(cfg, names)
	switch {
	case b.Variable != "":
		values := map[update.SlotID]string{}
		for i, id := range names {
			values[id] = list[i]
		}
		o.Choice = []boot.Variable{{Name: b.Variable, Values: values}}
	case list[0] != string(names[0]) || list[1] != string(names[1]):
		o.Names = list
	}
	return boot.Open(o)
}

// rebootArgument is what the boot loader wants to be told in the restart, "" by most.
func rebootArgument(b update.Bootloader) (string, error) {
	if r, ok := b.(interface{ RebootArgument() (string, error) }); ok {
		return r.RebootArgument()
	}
	return "", nil
}

// bootnames is what the boot loader calls the slots.
func bootnames(cfg *config.Config, names [2]update.SlotID) []string {
	list := make([]string, len(names))
	for i, id := range names {
		if list[i] = cfg.Slots[string(id)].Bootname; list[i] == "" {
			list[i] = string(id)
		}
	}
	return list
}

// bootPath is where a boot loader keeps its choice, unless the configuration says otherwise.
func bootPath(b config.Boot) string {
	switch {
	case b.Path != "":
		return b.Path
	case b.Kind == "uboot":
		return b.FWEnvConfig
	case b.Kind == "command" && len(b.Command) > 0:
		return b.Command[0]
	case b.Kind == "grub" && b.Convention == boot.Mender:
		return "/boot/efi/grub-mender-grubenv"
	case b.Kind == "grub":
		return "/boot/grub/grubenv"
	case b.Kind == "efi":
		return "/sys/firmware/efi/efivars"
	case b.Kind == "tryboot":
		return "/boot/autoboot.txt"
	case b.Kind == "android":
		return "/dev/disk/by-partlabel/misc"
	}
	return ""
}

// conventional reports whether a kind of boot loader is used in more than one way.
func conventional(kind string) bool { return kind == "uboot" || kind == "grub" || kind == "efi" }
