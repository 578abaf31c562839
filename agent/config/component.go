// SPDX-License-Identifier: Apache-2.0

package config

import "strconv"

// components checks that each has a name of its own, what its kind needs, and nothing its kind ignores.
func (v *validator) components(all []Component) {
	seen, paths := map[string]bool{}, map[string]bool{}
	for i, c := range all {
		key := "update.components[" + strconv.Itoa(i) + "]"
		v.need(key+".name", c.Name, "signed releases use it")
		v.name(key+".name", c.Name)
		if seen[c.Name] {
			v.fail(key+".name", "%q is given twice", c.Name)
		}
		seen[c.Name] = true
		switch {
		case c.Kind == "handler" && len(c.Argv) == 0:
			v.fail(key+".argv", "missing; a component of kind %q needs it", c.Kind)
		case c.Kind == "handler" && c.Path != "":
			v.fail(key+".path", "given, but a component of kind %q does not use it", c.Kind)
		case c.Kind == "handler":
			v.absolute(key+".argv[0]", c.Argv[0])
		case len(c.Argv) > 0:
			v.fail(key+".argv", "given, but a component of kind %q does not use it", c.Kind)
		case c.Path == "":
			v.fail(key+".path", "missing; a component of kind %q needs it", c.Kind)
		default:
			v.absolute(key+".path", c.Path)
			if paths[c.Path] {
				v.fail(key+".path", "%q is given twice", c.Path)
			}
			paths[c.Path] = true
		}
	}
}
