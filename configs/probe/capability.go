// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// capabilities names what the attribute of a program gives it, as getcap does, without the "cap_" before each.
func capabilities(attr []byte) []string {
	if len(attr) < 12 {
		return []string{"unreadable"}
	}
	le := binary.LittleEndian
	permitted, inheritable := uint64(le.Uint32(attr[4:])), uint64(le.Uint32(attr[8:]))
	if len(attr) >= 20 && attr[3] >= 2 {
		permitted |= uint64(le.Uint32(attr[12:])) << 32
		inheritable |= uint64(le.Uint32(attr[16:])) << 32
	}
	names := capabilityNames()
	var out []string
	for i := range 64 {
		if (permitted|inheritable)&(1<<i) == 0 {
			continue
		}
		if i < len(names) {
			out = append(out, names[i])
		} else {
			out = append(out, strconv.Itoa(i))
		}
	}
	return out
}

// CapabilityText is the attribute of a program as people read it, "" for none.
func CapabilityText(attr []byte) string {
	if len(attr) == 0 {
		return ""
	}
	return strings.Join(capabilities(attr), ",")
}

func capabilityNames() []string {
	return strings.Fields("chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service " +
		"net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice " +
		"sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm " +
		"block_suspend audit_read perfmon bpf checkpoint_restore")
}

// capabilityOf is the attribute of a file, nil for none.
func (h *Host) capabilityOf(p string) []byte {
	if o, ok := h.over[p]; ok && o.caps != nil {
		return *o.caps
	}
	t, ok := h.tree.(attrTree)
	if !ok {
		return nil
	}
	v, err := t.Attr(rel(p), capabilityAttr)
	if err != nil {
		return nil
	}
	return v
}

// setCapability gives a program the attribute c.After, or none.
func (h *Host) setCapability(c Change) error {
	if string(h.capabilityOf(c.Path)) != string(c.Before) {
		return ErrChanged
	}
	f, err := openRegular(h.tree, rel(c.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.(*os.File).Fd())
	if len(c.After) == 0 {
		return unix.Fremovexattr(fd, capabilityAttr)
	}
	return unix.Fsetxattr(fd, capabilityAttr, c.After, 0)
}
