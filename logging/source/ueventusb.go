// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A USB device announces itself before its interfaces, which say what it is. So it is recorded when no interface came for
// usbSettle, or after usbSettleMax.
const (
	usbSettle    = 500 * time.Millisecond
	usbSettleMax = 3 * time.Second
	maxPending   = 16
	maxScanNames = 1024 // of one directory of /sys
)

// usbDevice is one that was plugged in and is not recorded yet.
type usbDevice struct {
	devpath, id string
	classes     [32]byte // one bit for each class
	first, due  time.Time
	changed     bool // it was recorded before, and has other interfaces now
	start       bool // it was there at the start
}

// class takes TYPE and INTERFACE: class/subclass/protocol, decimal. Class 0 says that the interfaces have their own.
func (d *usbDevice) class(triple string) {
	digits, _, _ := strings.Cut(triple, "/")
	if c, err := strconv.ParseUint(digits, 10, 8); err == nil && c != 0 {
		d.classes[c/8] |= 1 << (c % 8)
	}
}

func (d *usbDevice) has(class byte) bool { return d.classes[class/8]&(1<<(class%8)) != 0 }

// usbClasses names what is worth a name.
var usbClasses = [...]struct {
	class byte
	name  string
}{
	{1, "audio"}, {2, "communication"}, {3, "hid"}, {6, "image"}, {7, "printer"}, {8, "storage"}, {9, "hub"}, {0x0a, "data"},
	{0x0b, "smartcard"}, {0x0e, "video"}, {0xe0, "wireless"}, {0xef, "miscellaneous"}, {0xfe, "application"}, {0xff, "vendor"},
}

func (d *usbDevice) names() string {
	var out []string
	for c := range 256 {
		if !d.has(byte(c)) {
			continue
		}
		name := hex.EncodeToString([]byte{byte(c)})
		for _, k := range usbClasses {
			if int(k.class) == c {
				name = k.name
			}
		}
		out = append(out, name)
	}
	return strings.Join(out, ",")
}

// usbID makes vendor:product of PRODUCT, which is vendor/product/release in hexadecimal without zeros in front.
func usbID(product string) string {
	f := strings.Split(product, "/")
	if len(f) != 3 {
		return ""
	}
	for i, s := range f {
		if len(s) == 0 || len(s) > 4 || strings.Trim(s, "0123456789abcdefABCDEF") != "" {
			return ""
		}
		f[i] = strings.Repeat("0", 4-len(s)) + strings.ToLower(s)
	}
	return f[0] + ":" + f[1]
}

// usb takes the announcements of USB devices and of their interfaces.
func (w *ueventWatcher) usb(ev *uevent, sink *Sink) {
	name := path.Base(ev.devpath)
	switch {
	case ev.devtype == "usb_interface" && ev.action == "add":
		w.usbInterface(path.Dir(ev.devpath), ev)
	case ev.devtype != "usb_device" || rootHub(name):
	case ev.action == "add" && w.note(true, "usb", name, sink):
		w.plugged(usbDevice{devpath: ev.devpath, id: usbID(ev.product)}, ev.usbType, sink)
	case ev.action == "remove" && w.note(false, "usb", name, sink):
		w.flushOne(ev.devpath, sink)
		attrs := []slog.Attr{slog.String("message", "a USB device was unplugged"), slog.String("devpath", ev.devpath)}
		if id := usbID(ev.product); id != "" {
			attrs = append(attrs, slog.String("usb_id", id))
		}
		sink.Event("usb.removed", attrs...)
	}
}

// rootHub is what the kernel makes of a USB controller.
func rootHub(name string) bool { return strings.HasPrefix(name, "usb") }

func (w *ueventWatcher) plugged(d usbDevice, triple string, sink *Sink) {
	if len(w.pending) >= maxPending {
		w.tell(w.pending[0], sink)
		w.pending = slices.Delete(w.pending, 0, 1)
	}
	d.class(triple)
	d.first = time.Now()
	d.due = d.first.Add(usbSettle)
	w.pending = append(w.pending, d)
}

func (w *ueventWatcher) usbInterface(device string, ev *uevent) {
	for i := range w.pending {
		if p := &w.pending[i]; p.devpath == device {
			p.class(ev.iface)
			p.due = time.Now().Add(usbSettle)
			if last := p.first.Add(usbSettleMax); p.due.After(last) {
				p.due = last
			}
			return
		}
	}
	// A device that turns into something else after it was looked at is what an attack looks like.
	if _, known := w.known["usb/"+path.Base(device)]; known && len(w.pending) < maxPending {
		w.plugged(usbDevice{devpath: device, id: usbID(ev.product), changed: true}, ev.iface, nil)
	}
}

// due is when the first pending device is recorded, zero when there is none.
func (w *ueventWatcher) due() (t time.Time) {
	for _, d := range w.pending {
		if t.IsZero() || d.due.Before(t) {
			t = d.due
		}
	}
	return t
}

// flush records the devices that are due.
func (w *ueventWatcher) flush(now time.Time, sink *Sink) {
	w.pending = slices.DeleteFunc(w.pending, func(d usbDevice) bool {
		if now.Before(d.due) {
			return false
		}
		w.tell(d, sink)
		return true
	})
}

func (w *ueventWatcher) flushOne(devpath string, sink *Sink) {
	w.pending = slices.DeleteFunc(w.pending, func(d usbDevice) bool {
		if d.devpath == devpath {
			w.tell(d, sink)
		}
		return d.devpath == devpath
	})
}

// tell records one device. What it says of itself in /sys is of the device's choice.
func (w *ueventWatcher) tell(d usbDevice, sink *Sink) {
	dir := w.sys + d.devpath
	name := path.Base(d.devpath)
	files, _ := sysNames(dir)
	for _, f := range files {
		if strings.HasPrefix(f, name+":") { // an interface
			if raw, err := hex.DecodeString(sysText(dir+"/"+f+"/bInterfaceClass", 2)); err == nil && len(raw) == 1 && raw[0] != 0 {
				d.classes[raw[0]/8] |= 1 << (raw[0] % 8)
			}
		}
	}
	attrs := []slog.Attr{slog.String("message", "a USB device was plugged in"), slog.String("devpath", d.devpath)}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if d.changed {
		add("note", "a device that was there before has other interfaces now")
	}
	add("usb_id", d.id)
	add("classes", d.names())
	add("manufacturer", sysText(dir+"/manufacturer", maxDeviceName))
	add("product", sysText(dir+"/product", maxDeviceName))
	switch {
	case d.has(3) && d.has(8):
		add("combination", "keyboard or mouse with storage")
	case d.has(3) && (d.has(2) || d.has(0x0a) || d.has(0xe0)):
		add("combination", "keyboard or mouse with network")
	}
	if d.has(3) && (d.has(8) || d.has(2) || d.has(0x0a) || d.has(0xe0)) || d.changed {
		add("severity", "high")
	}
	if d.start {
		attrs = append(attrs, slog.Bool("at_start", true))
	}
	sink.Event("usb.inserted", attrs...)
}

// rescan compares /sys with what is known. At the start it records the USB devices that are there already and the gadget that
// is bound: whoever plugged them did so before anybody looked.
func (w *ueventWatcher) rescan(sink *Sink, start bool) {
	w.look++
	for _, c := range []struct{ class, dir string }{
		{"block", "/block"}, {"net", "/class/net"}, {"tty", "/class/tty"}, {"pci", "/bus/pci/devices"},
		{"thunderbolt", "/bus/thunderbolt/devices"}, {"module", "/module"}, {"usb", "/bus/usb/devices"}, {"udc", "/class/udc"},
	} {
		names, all := sysNames(w.sys + c.dir)
		for _, name := range names {
			w.found(c.class, c.dir, name, sink, start)
		}
		if all {
			w.gone(c.class, c.dir, sink)
		}
	}
}

// found takes one thing that is in /sys.
func (w *ueventWatcher) found(class, dir, name string, sink *Sink, start bool) {
	_, known := w.known[class+"/"+name]
	switch {
	case class == "usb":
		if strings.Contains(name, ":") || rootHub(name) || !w.note(true, class, name, sink) {
			return
		}
		// The name is a link; where it leads is what announcements call the device.
		target, err := os.Readlink(w.sys + dir + "/" + name)
		if err != nil {
			return
		}
		devpath := path.Join(dir, target)
		ev := sysUevent(w.sys + devpath)
		w.plugged(usbDevice{devpath: devpath, id: usbID(ev.product), start: start}, ev.usbType, sink)
	case class == "udc":
		ev := sysUevent(w.sys + dir + "/" + name)
		ev.subsystem, ev.devpath, ev.action = "udc", dir+"/"+name, "change"
		w.gadget(&ev, sink)
	case start || known:
		w.note(true, class, name, sink)
	case class == "module":
		w.module("add", name, sink)
	default:
		w.device(&uevent{action: "add", subsystem: class, name: name, devpath: dir + "/" + name}, sink)
	}
}

// gone tells what this look did not find any more.
func (w *ueventWatcher) gone(class, dir string, sink *Sink) {
	for key, look := range w.known {
		c, name, _ := strings.Cut(key, "/")
		if c != class || look == w.look {
			continue
		}
		ev := uevent{action: "remove", subsystem: class, name: name, devpath: dir + "/" + name, devtype: "usb_device"}
		switch class {
		case "usb":
			w.usb(&ev, sink)
		case "udc":
			w.gadget(&ev, sink)
		case "module":
			w.module("remove", name, sink)
		default:
			w.device(&ev, sink)
		}
	}
}

// sysUevent reads what an announcement would say from the file of that name.
func sysUevent(dir string) (ev uevent) {
	text := sysText(dir+"/uevent", 2048)
	ev, _ = parseUevent([]byte("add@/\x00" + strings.ReplaceAll(text, "\n", "\x00")))
	return ev
}

// sysNames lists a directory, and tells whether that is all of it.
func sysNames(dir string) (names []string, all bool) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	names, err = f.Readdirnames(maxScanNames)
	return names, (err == nil || errors.Is(err, io.EOF)) && len(names) < maxScanNames
}

// sysText reads a small file, "" when it is not there, without the line end.
func sysText(name string, limit int) string {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	b := make([]byte, limit)
	n, err := unix.Read(fd, b)
	if err != nil {
		return ""
	}
	return string(bytes.TrimRight(b[:n], "\n"))
}

func isDir(name string) bool {
	fi, err := os.Stat(name)
	return err == nil && fi.IsDir()
}
