// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// deviceCheck looks at one aspect of the hardware that a device has ports and radios for.
type deviceCheck struct {
	aspect string
	deviceAspect
}

// deviceAspect judges, and plans the fix when it can.
type deviceAspect struct {
	check func(ctx context.Context, h *Host) Verdict
	fix   func(ctx context.Context, h *Host, want func(string) bool) ([]Change, error)
}

func deviceAspects() map[string]deviceAspect {
	return map[string]deviceAspect{
		"promiscuous":   {check: checkPromiscuous},
		"radio":         {checkRadios, fixRadios},
		"bluetooth":     {checkBluetooth, fixBluetooth},
		"usb-authorize": {checkAuthorize, fixAuthorize},
		"usb-keyboard":  {check: checkKeyboard},
	}
}

func deviceKind() Kind {
	return Kind{
		Name: "device",
		Target: "promiscuous (no interface takes what is for others), radio (no radio is on that nothing uses), bluetooth (not open to everybody at rest), " +
			"usb-authorize (new USB devices have to be allowed), usb-keyboard (no keyboard or mouse where there is no display)",
		Want: "nothing",
		Fix:  "radio: block it; bluetooth: edit /etc/bluetooth/main.conf; usb-authorize: write 2 (only what is built in) into authorized_default; the others only report",
		New: func(target string, want []byte) (Check, error) {
			a, ok := deviceAspects()[target]
			if !ok {
				return nil, fmt.Errorf("target: %q, want promiscuous, radio, bluetooth, usb-authorize or usb-keyboard", target)
			}
			return deviceCheck{target, a}, decodeWant(want, &struct{}{})
		},
	}
}

func (c deviceCheck) Claims() []string { return []string{"device:" + c.aspect} }

func (c deviceCheck) Check(ctx context.Context, h *Host) Verdict { return c.check(ctx, h) }

func (c deviceCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	if c.fix == nil {
		return nil, ErrNoFix
	}
	return c.fix(ctx, h, want)
}

// maxDevices bounds the entries of one directory of /sys.
const maxDevices = 1024

// sysDir lists a directory of /sys; the reason says that the kernel has no such devices.
func sysDir(h *Host, dir string) (names []string, none string, err error) {
	names, err = h.Names(dir, maxDevices)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, dir + ": not there, the kernel has none", nil
	}
	return names, "", err
}

// sysValue reads a value of /sys; "" when it is not there or cannot be read.
func sysValue(ctx context.Context, h *Host, name string) string {
	data, err := h.Read(ctx, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

const promiscFlag = 0x100 // IFF_PROMISC

// checkPromiscuous leaves ports of bridges and bonds alone: they have to take what is for others.
func checkPromiscuous(ctx context.Context, h *Host) Verdict {
	const dir = "/sys/class/net"
	names, none, err := sysDir(h, dir)
	if err != nil {
		return unknown(err)
	}
	var items []Item
	n := 0
	for _, name := range names {
		at := dir + "/" + name
		flags, err := strconv.ParseUint(sysValue(ctx, h, at+"/flags"), 0, 32)
		if err != nil {
			continue
		}
		n++
		if flags&promiscFlag == 0 || h.Exists(at+"/brport") || h.Exists(at+"/bridge") || h.Exists(at+"/master") || h.Exists(at+"/bonding") {
			continue
		}
		items = append(items, Item{Subject: printable(name), Where: printable(at + "/flags"), Observed: "takes packets for others: a program listens to the network", Expected: "not promiscuous"})
	}
	if n == 0 {
		return notApplicable(dir + ": no interfaces " + none)
	}
	return judged(items, fmt.Sprintf("%d interfaces, none is promiscuous but ports of bridges", n), dir)
}

const rfkillDir = "/sys/class/rfkill"

// radiosOn lists the radios that are on although nothing uses them.
func radiosOn(ctx context.Context, h *Host) (on []string, seen int, err error) {
	names, _, err := sysDir(h, rfkillDir)
	if err != nil {
		return nil, 0, err
	}
	for _, name := range names {
		at := rfkillDir + "/" + name
		kind := sysValue(ctx, h, at+"/type")
		soft := sysValue(ctx, h, at+"/soft")
		if kind == "" || soft == "" {
			continue
		}
		seen++
		if soft != "0" || sysValue(ctx, h, at+"/hard") == "1" {
			continue
		}
		used, err := radioUsed(ctx, h, kind)
		if err != nil {
			return nil, seen, err
		}
		if !used {
			on = append(on, name)
		}
	}
	return on, seen, nil
}

// radioUsed reports whether anything uses radios of a kind. Of kinds that are not known it is taken for granted.
func radioUsed(ctx context.Context, h *Host, kind string) (bool, error) {
	var daemons []string
	switch kind {
	case "bluetooth":
		daemons = []string{"bluetoothd", "bluetooth-meshd", "hciattach", "btattach"}
	case "wlan":
		daemons = []string{"hostapd", "wpa_supplicant", "iwd", "NetworkManager", "connmand"}
		list, _, err := wlans(ctx, h)
		if err != nil || slices.ContainsFunc(list, func(s wlanSection) bool { return !s.off && s.kind != globalKind }) {
			return true, err
		}
		names, err := h.Names("/sys/class/net", maxDevices)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true, err
		}
		for _, n := range names {
			if h.Exists("/sys/class/net/"+n+"/phy80211") && sysValue(ctx, h, "/sys/class/net/"+n+"/operstate") == "up" {
				return true, nil
			}
		}
	default:
		return true, nil
	}
	ps := h.processes(ctx)
	return slices.ContainsFunc(ps.list, func(p process) bool {
		return slices.Contains(daemons, p.name) || len(p.args) > 0 && slices.Contains(daemons, path.Base(p.args[0]))
	}), ps.err
}

func checkRadios(ctx context.Context, h *Host) Verdict {
	on, n, err := radiosOn(ctx, h)
	if err != nil {
		return unknown(err)
	}
	if n == 0 {
		return notApplicable(rfkillDir + ": the kernel has no radios that can be switched")
	}
	var items []Item
	for _, name := range on {
		kind := sysValue(ctx, h, rfkillDir+"/"+name+"/type")
		items = append(items, Item{Subject: printable(name), Where: printable(rfkillDir + "/" + name), Observed: printable(kind) + " is on, no program or network uses it", Expected: "blocked"})
	}
	return judged(items, fmt.Sprintf("%d radios, each is used or blocked", n), rfkillDir)
}

func fixRadios(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	on, _, err := radiosOn(ctx, h)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, name := range on {
		if want(printable(name)) {
			files = append(files, rfkillDir+"/"+name+"/soft")
		}
	}
	return writeValues(ctx, h, files, "1")
}

// writeValues plans one value for several files of the kernel.
func writeValues(ctx context.Context, h *Host, files []string, value string) ([]Change, error) {
	var out []Change
	for _, f := range files {
		before, err := h.Read(ctx, f)
		if err != nil {
			return nil, err
		}
		p, err := h.Resolve(f)
		if err != nil {
			return nil, err
		}
		out = append(out, Change{Op: Kernel, Path: p, Before: before, After: []byte(value + "\n")})
	}
	return out, nil
}

const usbDir = "/sys/bus/usb/devices"

// usbHosts lists the files that say what a host controller does with a new device, and those that allow every one.
func usbHosts(ctx context.Context, h *Host) (all, open []string, err error) {
	names, _, err := sysDir(h, usbDir)
	for _, n := range names {
		f := usbDir + "/" + n + "/authorized_default"
		v := sysValue(ctx, h, f)
		if !strings.HasPrefix(n, "usb") || v == "" {
			continue
		}
		all = append(all, f)
		if v != "0" && v != "2" {
			open = append(open, f)
		}
	}
	return all, open, err
}

func checkAuthorize(ctx context.Context, h *Host) Verdict {
	all, open, err := usbHosts(ctx, h)
	if err != nil {
		return unknown(err)
	}
	if len(all) == 0 {
		return notApplicable(usbDir + ": the kernel drives no USB port")
	}
	var items []Item
	for _, f := range open {
		items = append(items, Item{Subject: path.Base(path.Dir(f)), Where: printable(f), Observed: "every new device is used at once", Expected: "0 or 2"})
	}
	return judged(items, fmt.Sprintf("%d USB hosts, each waits for permission", len(all)), usbDir)
}

func fixAuthorize(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	_, open, err := usbHosts(ctx, h)
	open = slices.DeleteFunc(open, func(f string) bool { return !want(path.Base(path.Dir(f))) })
	if err != nil {
		return nil, err
	}
	return writeValues(ctx, h, open, "2")
}

// checkKeyboard is about devices that nobody is meant to sit at: no display is connected.
func checkKeyboard(ctx context.Context, h *Host) Verdict {
	names, none, err := sysDir(h, usbDir)
	if err != nil {
		return unknown(err)
	}
	if none != "" {
		return notApplicable(none)
	}
	displays, err := h.Names("/sys/class/drm", maxDevices)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknown(err)
	}
	for _, d := range displays {
		if sysValue(ctx, h, "/sys/class/drm/"+d+"/status") == "connected" {
			return notApplicable("/sys/class/drm/" + printable(d) + ": a display is connected")
		}
	}
	var items []Item
	for _, n := range names {
		if sysValue(ctx, h, usbDir+"/"+n+"/bInterfaceClass") == "03" {
			items = append(items, Item{Subject: printable(n), Where: printable(usbDir + "/" + n), Observed: "a keyboard, a mouse or what says it is one", Expected: "none on a device without a display"})
		}
	}
	return judged(items, fmt.Sprintf("%d USB devices and interfaces, no keyboard or mouse", len(names)), usbDir)
}

const bluetoothFile = "/etc/bluetooth/main.conf"

// bluetoothOptions are the settings of [General] that open the device at rest, what bluetoothd does without them, and what to
// set. The values that are bad are listed: the built-in ones are not.
func bluetoothOptions() []struct{ key, builtin, set, bad, why string } {
	return []struct{ key, builtin, set, bad, why string }{
		{"DiscoverableTimeout", "180", "180", "0", "once visible, it stays visible for ever"},
		{"AlwaysPairable", "false", "false", "true", "anybody may pair at any time"},
		{"JustWorksRepairing", "never", "never", "always", "a stranger takes the place of a known device without being asked for anything"},
	}
}

// bluetoothSettings reads [General]: line and value of each key.
func bluetoothSettings(data []byte) (settings map[string]uciOption, general int) {
	settings = map[string]uciOption{}
	n, in := 0, false
	for l := range bytes.Lines(data) {
		n++
		s := strings.TrimSpace(string(l))
		if strings.HasPrefix(s, "[") {
			in = s == "[General]"
			if in && general == 0 {
				general = n
			}
			continue
		}
		if k, v, ok := strings.Cut(s, "="); ok && in && !strings.HasPrefix(s, "#") {
			settings[strings.TrimSpace(k)] = uciOption{n, strings.TrimSpace(v)}
		}
	}
	return settings, general
}

func checkBluetooth(ctx context.Context, h *Host) Verdict {
	daemon := ""
	for _, p := range []string{"/usr/libexec/bluetooth/bluetoothd", "/usr/lib/bluetooth/bluetoothd", "/usr/sbin/bluetoothd"} {
		if h.Exists(p) {
			daemon = p
			break
		}
	}
	if daemon == "" {
		return notApplicable("no bluetoothd")
	}
	data, err := h.Read(ctx, bluetoothFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknown(err)
	}
	settings, _ := bluetoothSettings(data)
	var items []Item
	var facts []string
	for _, o := range bluetoothOptions() {
		s, set := settings[o.key]
		if !set {
			facts = append(facts, o.key+" "+o.builtin+" (built in)")
			continue
		}
		facts = append(facts, o.key+" "+printable(s.value))
		if strings.EqualFold(s.value, o.bad) {
			items = append(items, Item{Subject: o.key, Where: at(bluetoothFile, s.line), Observed: printable(s.value) + ": " + o.why, Expected: o.set})
		}
	}
	v := judged(items, strings.Join(facts, ", "), daemon, bluetoothFile)
	v.Implementation = "bluetoothd"
	return v
}

func fixBluetooth(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	t, err := openText(ctx, h, bluetoothFile)
	if err != nil {
		return nil, err
	}
	settings, _ := bluetoothSettings(t.before)
	for _, o := range bluetoothOptions() {
		if s, set := settings[o.key]; set && strings.EqualFold(s.value, o.bad) && want(o.key) {
			t.set(s.line, o.key+" = "+o.set)
		}
	}
	return t.changes(true), nil
}
