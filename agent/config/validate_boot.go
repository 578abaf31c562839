// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"strings"
)

// bootUses says which keys of the section a boot loader's kind uses besides kind itself, and which conventions it knows.
func bootUses(kind string) (keys []string, conventions []string) {
	switch kind {
	case "uboot":
		return []string{"fw_env_config", "namespace", "variable", "counter", "canary", "swupdate"}, []string{"rauc", "bootcount", "mender"}
	case "grub":
		return []string{"path"}, []string{"rauc", "mender"}
	case "efi":
		return []string{"path"}, []string{"rauc", "systemd-boot"}
	case "android", "barebox":
		return []string{"path", "offset"}, nil
	case "psa":
		return []string{"path", "copy"}, nil
	case "command":
		return []string{"command", "timeout"}, nil
	}
	return []string{"path"}, nil
}

// boot checks that the boot loader's section has what its kind needs and nothing its kind ignores: who gives a key that is not
// used has something else in mind than what the agent would do.
func (v *validator) boot(c *Config) {
	keys, conventions := bootUses(c.Boot.Kind)
	if len(conventions) > 0 {
		v.oneOf("boot.convention", c.Boot.Convention, conventions)
		keys = append(keys, "convention")
	}
	if has(keys, "fw_env_config") {
		v.need("boot.fw_env_config", c.Boot.FWEnvConfig, "a device that is updated needs it")
	}
	if c.Boot.Kind == "uboot" && c.Boot.Convention != "bootcount" {
		for _, k := range []struct{ key, value string }{{"boot.variable", c.Boot.Variable}, {"boot.counter", c.Boot.Counter}} {
			if k.value != "" {
				v.fail(k.key, "given, but convention %q does not use it", c.Boot.Convention)
			}
		}
	}
	if c.Boot.Kind == "tryboot" && c.Reboot.Method != "kernel" {
		v.fail("reboot.method", "%q cannot tell the boot loader which slot to try; boot.kind \"tryboot\" needs \"kernel\"", c.Reboot.Method)
	}
	if c.Boot.Kind == "barebox" {
		v.need("boot.path", c.Boot.Path, "it is the device of the state's backend")
	}
	if c.Boot.Kind == "psa" {
		v.need("boot.path", c.Boot.Path, "it is the first copy of the metadata")
		v.need("boot.copy", c.Boot.Copy, "it is the second copy of the metadata")
		if c.Boot.Path == c.Boot.Copy && c.Boot.Path != "" {
			v.fail("boot.copy", "%q is the first copy too", c.Boot.Copy)
		}
	}
	switch {
	case c.Boot.Kind == "command" && len(c.Boot.Command) == 0:
		v.fail("boot.command", "missing; boot.kind is \"command\"")
	case len(c.Boot.Command) > 0:
		v.absolute("boot.command[0]", c.Boot.Command[0])
	}
	given := reflect.ValueOf(c.Boot)
	for i := range given.NumField() {
		tag := given.Type().Field(i).Tag
		name, value := tag.Get("json"), given.Field(i)
		idle := value.IsZero() || strings.Trim(string(render(value)), `"`) == tag.Get("default")
		if name != "kind" && !has(keys, name) && !idle {
			v.fail("boot."+name, "given, but a boot loader of kind %q does not use it", c.Boot.Kind)
		}
	}
	seen := map[string]string{}
	for _, k := range sortedKeys(reflect.ValueOf(c.Slots)) {
		name := k.String()
		key, boot := "slots."+name+".bootname", c.Slots[name].Bootname
		if boot == "" {
			continue
		}
		if len(boot) > 64 || strings.ContainsFunc(boot, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			v.fail(key, "%q is not a boot loader's name of a slot: at most 64 bytes on one line", boot)
		}
		if other, ok := seen[boot]; ok {
			v.fail(key, "%q is the name of slot %s too", boot, other)
		}
		seen[boot] = name
	}
}
