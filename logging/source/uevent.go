// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// Bounds of what is remembered of devices.
const (
	maxDevices    = 768
	maxDeviceName = 64
)

func ueventKind() Kind {
	return Kind{
		Name: "uevent",
		Sees: "devices that are plugged in and out, modules of the kernel, and ways to debug the device over USB",
		Rate: logging.Rate{Per: 10, Burst: 100},
		Open: openUevent,
	}
}

// ueventWatcher hears what the kernel announces of devices. It remembers what is there, so that it can tell what changed while
// announcements were lost, and that an announcement made up by somebody in /sys is no news.
type ueventWatcher struct {
	sock    *socket
	sys     string
	known   map[string]uint32 // class and name, with the number of the look that saw it
	look    uint32
	full    bool
	pending []usbDevice
}

func openUevent(_ context.Context, env *Env) (Watcher, error) {
	// Group 1 is the kernel's. Group 2 is udev's: any root process can write there.
	s, err := dialNetlink(unix.NETLINK_KOBJECT_UEVENT, 1, 128<<10)
	if err != nil {
		return nil, lacks(err, "CONFIG_NET", "netlink sockets")
	}
	return &ueventWatcher{sock: s, sys: env.Path("/sys"), known: map[string]uint32{}}, nil
}

func (w *ueventWatcher) Covers() string {
	s := "USB, disks, network, serial, PCI and Thunderbolt devices, kernel modules, debug gadgets"
	if !isDir(w.sys + "/module") {
		s += "; no /sys: not what was lost in a flood"
	}
	if !isDir(w.sys + "/bus/usb") {
		s += "; this kernel has no USB"
	}
	return s
}

func (w *ueventWatcher) Close() error { return w.sock.Close() }

func (w *ueventWatcher) Run(ctx context.Context, sink *Sink) error {
	defer w.sock.follow(ctx)()
	w.rescan(sink, true)
	for {
		data, err := w.sock.receive(ctx, w.due())
		switch {
		case err == nil:
			if ev, ok := parseUevent(data); ok {
				w.take(&ev, sink)
			}
		case ctx.Err() != nil:
			w.flush(time.Now().Add(usbSettleMax), sink)
			return nil
		case errors.Is(err, errQuiet):
		case errors.Is(err, errOverflow):
			sink.Lost(0, "devices: "+err.Error())
			w.rescan(sink, false)
		case errors.Is(err, errTruncated):
			sink.Lost(1, "devices: "+err.Error())
		default:
			return err
		}
		w.flush(time.Now(), sink)
	}
}

// uevent is what an announcement says, as far as anybody here asks.
type uevent struct {
	action, devpath, subsystem, devtype, name string
	product, usbType, iface, driver           string // PRODUCT and TYPE of USB; INTERFACE of USB and of the network
	udcDriver, usbState                       string
	synthetic                                 bool // somebody wrote to a file in /sys
}

// parseUevent reads ACTION@DEVPATH NUL KEY=VALUE NUL ...
func parseUevent(b []byte) (ev uevent, ok bool) {
	const maxKeys = 64 // the kernel's own bound
	head, rest, _ := strings.Cut(string(b), "\x00")
	if ev.action, ev.devpath, ok = strings.Cut(head, "@"); !ok || !strings.HasPrefix(ev.devpath, "/") {
		return uevent{}, false
	}
	for range maxKeys {
		var line string
		if line, rest, ok = strings.Cut(rest, "\x00"); line == "" && !ok {
			break
		}
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "SUBSYSTEM":
			ev.subsystem = value
		case "DEVTYPE":
			ev.devtype = value
		case "DEVNAME":
			ev.name = value
		case "PRODUCT":
			ev.product = value
		case "TYPE":
			ev.usbType = value
		case "INTERFACE":
			ev.iface = value
		case "DRIVER":
			ev.driver = value
		case "USB_UDC_DRIVER":
			ev.udcDriver = value
		case "USB_STATE":
			ev.usbState = value
		case "SYNTH_UUID":
			ev.synthetic = true
		}
	}
	if base := path.Base(ev.devpath); ev.name == "" || len(ev.name) > maxDeviceName {
		ev.name = base[:min(len(base), maxDeviceName)]
	}
	return ev, ev.action != ""
}

func (w *ueventWatcher) take(ev *uevent, sink *Sink) {
	if ev.synthetic {
		return // nothing was plugged, somebody says so
	}
	switch ev.subsystem {
	case "usb":
		w.usb(ev, sink)
	case "udc", "android_usb":
		w.gadget(ev, sink)
	case "module":
		w.module(ev.action, path.Base(ev.devpath), sink)
	case "block":
		if ev.devtype == "disk" { // not each of its partitions
			w.device(ev, sink)
		}
	case "net":
		ev.name = path.Base(ev.devpath)
		w.device(ev, sink)
	case "tty", "misc":
		if ev.subsystem == "tty" || debugName(ev.name) {
			w.device(ev, sink)
		}
	case "pci", "thunderbolt", "pcmcia":
		w.device(ev, sink)
	}
}

// device records one of the ordinary devices.
func (w *ueventWatcher) device(ev *uevent, sink *Sink) {
	if ev.action != "add" && ev.action != "remove" || !w.note(ev.action == "add", ev.subsystem, path.Base(ev.devpath), sink) {
		return
	}
	attrs := []slog.Attr{slog.String("subsystem", ev.subsystem), slog.String("name", ev.name), slog.String("devpath", ev.devpath)}
	if strings.Contains(ev.devpath, "/usb") {
		attrs = append(attrs, slog.String("bus", "usb"))
	}
	if ev.driver != "" {
		attrs = append(attrs, slog.String("driver", ev.driver))
	}
	code, message := "device.removed", "a device was removed"
	if ev.action == "add" {
		code, message = "device.added", "a device was added"
		if debugName(ev.name) {
			code, message = "debug.enabled", "a device to debug with was added"
		}
	}
	sink.Event(code, append(attrs, slog.String("message", message))...)
}

// debugName finds the devices that give a shell or a debugger to who plugs in a cable: the serial gadget, ARM's debug
// communication channel, Android's bridge.
func debugName(name string) bool {
	name = path.Base(name)
	return strings.HasPrefix(name, "ttyGS") || strings.Contains(strings.ToLower(name), "dcc") || strings.Contains(name, "adb")
}

// debugModules turn the device into a USB gadget, or attach a debugger.
var debugModules = [...]string{"g_serial", "g_ffs", "g_multi", "g_acm_ms", "g_dbgp", "g_cdc", "g_ether", "g_mass_storage", "g_hid", "usb_f_fs", "usb_f_acm",
	"usb_f_serial", "hvc_dcc", "kgdboc", "kgdb", "dcc"}

// gadget records that the device itself plays a USB device for a host it is plugged into.
func (w *ueventWatcher) gadget(ev *uevent, sink *Sink) {
	bound := ev.action != "remove" && (ev.udcDriver != "" || ev.usbState == "CONFIGURED" || ev.usbState == "CONNECTED")
	name := path.Base(ev.devpath)
	if !w.note(bound, ev.subsystem, name, sink) {
		return
	}
	attrs := []slog.Attr{slog.String("subsystem", ev.subsystem), slog.String("name", name)}
	if ev.udcDriver != "" {
		attrs = append(attrs, slog.String("driver", ev.udcDriver))
	}
	if bound {
		sink.Event("debug.enabled", append(attrs, slog.String("message", "the device plays a USB device for another host"))...)
	} else {
		sink.Event("device.removed", append(attrs, slog.String("message", "the device plays a USB device no more"))...)
	}
}

// module records a kernel module. How the kernel was tainted by it says whether it was signed.
func (w *ueventWatcher) module(action, name string, sink *Sink) {
	if action != "add" && action != "remove" || !w.note(action == "add", "module", name, sink) {
		return
	}
	if action == "remove" {
		sink.Event("module.unload", slog.String("message", "a kernel module was removed"), slog.String("module", name))
		return
	}
	attrs := []slog.Attr{slog.String("message", "a kernel module was loaded"), slog.String("module", name)}
	if taint := sysText(w.sys+"/module/"+name+"/taint", 16); taint != "" {
		attrs = append(attrs, slog.String("taint", taint))
		if strings.ContainsAny(taint, "EF") { // unsigned where signatures are checked, or forced
			attrs = append(attrs, slog.String("severity", "high"))
		}
	}
	sink.Event("module.load", attrs...)
	for _, m := range debugModules {
		if name == m {
			sink.Event("debug.enabled", slog.String("message", "a kernel module to debug with was loaded"), slog.String("module", name))
		}
	}
}

// note remembers that a thing is there, or is not, and reports whether that is news.
func (w *ueventWatcher) note(present bool, class, name string, sink *Sink) bool {
	key := class + "/" + name[:min(len(name), maxDeviceName)]
	_, known := w.known[key]
	switch {
	case !present:
		delete(w.known, key)
	case known:
		w.known[key] = w.look
	case len(w.known) < maxDevices:
		w.known[key] = w.look
	default:
		// Beyond the bound everything is news: better told twice than not.
		if !w.full {
			sink.Lost(0, fmt.Sprintf("more than %d devices: what a flood hides of them is not found again", maxDevices))
		}
		w.full = true
		return true
	}
	return known != present || !present && w.full
}
