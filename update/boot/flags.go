// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// permitted asks the variable ".flags" whether a variable may become value. It holds "name:type[access]" entries, separated
// by commas (U-Boot's env/flags.c). U-Boot would refuse the same change at its prompt, but takes any environment that is
// written past it, so a board's promise that serial# never changes is only as good as the tools that keep it.
//
// Names are compared as they are, as the tools do; U-Boot built with CONFIG_REGEX takes them for patterns.
func (v vars) permitted(name, value string) error {
	list, _ := v.get(".flags")
	attrs := ""
	for entry := range strings.SplitSeq(list, ",") {
		if n, a, _ := strings.Cut(strings.TrimSpace(entry), ":"); n == name {
			attrs = a
		}
	}
	return v.grant(attrs, name, value)
}

// writable returns the attributes a list gives a variable, and "" if it is not in it.
func writable(list []string, name string) string {
	for _, entry := range list {
		if n, attrs, ok := strings.Cut(entry, ":"); ok && n == name {
			return attrs
		}
	}
	return ""
}

// attributes reports whether a type and an access are some that U-Boot knows.
func attributes(s string) bool {
	return len(s) > 0 && len(s) <= 2 && strings.IndexByte("sdxbim", s[0]) >= 0 && (len(s) == 1 || strings.IndexByte("arocw", s[1]) >= 0)
}

// listed asks the writelist. U-Boot takes only the variables of its own from the environment (CONFIG_ENV_WRITEABLE_LIST), so
// another would be written for nobody.
func (v vars) listed(list []string, name, value string) error {
	if list == nil {
		return nil
	}
	attrs := writable(list, name)
	if attrs == "" {
		return fmt.Errorf("set boot variable %s: it is not in the writelist", name)
	}
	return v.grant(attrs, name, value)
}

// grant checks a change against a type and an access.
func (v vars) grant(attrs, name, value string) error {
	kind, access := byte('s'), byte('a')
	if len(attrs) > 0 {
		kind = attrs[0]
	}
	if len(attrs) > 1 {
		access = attrs[1]
	}
	old, exists := v.get(name)
	if exists && old == value {
		return nil
	}
	switch access {
	case 'a', 'w': // w: in a writelist
	case 'r':
		return fmt.Errorf("set boot variable %s: it is read-only", name)
	case 'o', 'c': // once; or only while it has its default, which only U-Boot knows
		if exists {
			return fmt.Errorf("set boot variable %s: it may be set once, and is", name)
		}
	default:
		return fmt.Errorf("set boot variable %s: access %q is not known", name, access)
	}
	if value == "" {
		return nil
	}
	if err := typed(kind, value); err != nil {
		return fmt.Errorf("set boot variable %s to %q: %w", name, value, err)
	}
	return nil
}

// typed checks a value against a type of .flags.
func typed(kind byte, value string) error {
	switch kind {
	case 's':
		return nil
	case 'd':
		if _, err := strconv.ParseInt(value, 10, 64); err != nil {
			return errors.New("it must be decimal")
		}
	case 'x':
		if _, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimPrefix(value, "0x"), "0X"), 16, 64); err != nil {
			return errors.New("it must be hexadecimal")
		}
	case 'b':
		if len(value) != 1 || !strings.Contains("1yYtT0nNfF", value) {
			return errors.New("it must be a boolean")
		}
	case 'i':
		if a, err := netip.ParseAddr(value); err != nil || !a.Is4() {
			return errors.New("it must be an IPv4 address")
		}
	case 'm':
		return mac(value)
	default:
		return fmt.Errorf("type %q is not known", kind)
	}
	return nil
}

func mac(value string) error {
	parts := strings.Split(value, ":")
	ok := len(parts) == 6
	for _, p := range parts {
		_, err := strconv.ParseUint(p, 16, 8)
		ok = ok && len(p) == 2 && err == nil
	}
	if !ok {
		return errors.New("it must be a MAC address")
	}
	return nil
}
