// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/testdata/testneed"
)

// announce is an announcement as the kernel sends it.
func announce(action, devpath string, env ...string) []byte {
	return []byte(action + "@" + devpath + "\x00ACTION=" + action + "\x00DEVPATH=" + devpath + "\x00" + strings.Join(env, "\x00") + "\x00")
}

const (
	stick = "/devices/pci0000:00/0000:00:14.0/usb1/1-2"
	udev  = "libudev\x00\xfe\xed\xca\xfe"
)

func TestParseUevent(t *testing.T) {
	ev, ok := parseUevent(announce("add", stick, "SUBSYSTEM=usb", "MAJOR=189", "DEVNAME=bus/usb/001/004", "DEVTYPE=usb_device",
		"PRODUCT=46d/c52b/1201", "TYPE=0/0/0", "BUSNUM=001", "SEQNUM=2914"))
	want := uevent{action: "add", devpath: stick, subsystem: "usb", devtype: "usb_device", name: "bus/usb/001/004", product: "46d/c52b/1201", usbType: "0/0/0"}
	if !ok || ev != want {
		t.Errorf("%+v %v", ev, ok)
	}
	if ev, ok = parseUevent([]byte("remove@/module/evil\x00SUBSYSTEM=module")); !ok || ev.name != "evil" || ev.subsystem != "module" {
		t.Errorf("cut off: %+v %v", ev, ok)
	}
	for _, bad := range []string{"", "add", "@/x", "add@", "add@x", udev + "ACTION=add\x00", "\x00\x00\x00"} {
		if ev, ok := parseUevent([]byte(bad)); ok {
			t.Errorf("%q was taken: %+v", bad, ev)
		}
	}
	if ev, _ := parseUevent([]byte("add@/x\x00" + strings.Repeat("A=b\x00", 64) + "SUBSYSTEM=net\x00")); ev.subsystem != "" {
		t.Error("more keys than the kernel sends were read")
	}
	for product, want := range map[string]string{"46d/c52b/1201": "046d:c52b", "1/2/3": "0001:0002", "1/2": "", "12345/1/1": "", "x/1/1": "", "": ""} {
		if got := usbID(product); got != want {
			t.Errorf("PRODUCT=%s: %q, want %q", product, got, want)
		}
	}
}

func FuzzUevent(f *testing.F) {
	f.Add(announce("add", stick, "SUBSYSTEM=usb", "DEVTYPE=usb_interface", "PRODUCT=46d/c52b/1201", "INTERFACE=3/1/1"))
	f.Add(announce("change", "/devices/platform/dwc3/udc/dwc3", "SUBSYSTEM=udc", "USB_UDC_DRIVER=g1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, ok := parseUevent(b)
		if !ok {
			return
		}
		var rec recorded
		w := &ueventWatcher{sys: t.TempDir(), known: map[string]uint32{}}
		sink := testSink(&rec)
		w.take(&ev, sink)
		w.take(&ev, sink)
		w.flush(time.Now().Add(usbSettleMax), sink)
		if len(rec.list) > 3 || len(w.pending) > 0 {
			t.Errorf("%d events of one announcement, %d pending", len(rec.list), len(w.pending))
		}
	})
}

// sysTree makes files; a value that begins with -> is a link.
func sysTree(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(text, "->"); link {
			err = os.Symlink(target, p)
		} else {
			err = os.WriteFile(p, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func ueventIn(t *testing.T, files map[string]string) (*ueventWatcher, *recorded, func(action, devpath string, env ...string)) {
	t.Helper()
	w := &ueventWatcher{sys: t.TempDir(), known: map[string]uint32{}}
	sysTree(t, w.sys, files)
	rec := &recorded{}
	sink := testSink(rec)
	return w, rec, func(action, devpath string, env ...string) {
		t.Helper()
		ev, ok := parseUevent(announce(action, devpath, env...))
		if !ok {
			t.Fatalf("%s@%s", action, devpath)
		}
		w.take(&ev, sink)
	}
}

func TestUSBDeviceIsToldWithItsInterfaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, rec, take := ueventIn(t, map[string]string{stick + "/manufacturer": "ACME\n", stick + "/product": strings.Repeat("x", 999), stick + "/1-2:1.1/bInterfaceClass": "08\n"})
		take("add", stick, "SUBSYSTEM=usb", "DEVTYPE=usb_device", "PRODUCT=46d/c52b/1201", "TYPE=0/0/0")
		take("add", stick, "SUBSYSTEM=usb", "DEVTYPE=usb_device", "PRODUCT=46d/c52b/1201", "TYPE=0/0/0") // twice
		time.Sleep(usbSettle / 2)
		take("add", stick+"/1-2:1.0", "SUBSYSTEM=usb", "DEVTYPE=usb_interface", "PRODUCT=46d/c52b/1201", "TYPE=0/0/0", "INTERFACE=3/1/1")
		sink := testSink(rec)
		if w.flush(time.Now().Add(usbSettle-1), sink); len(rec.list) != 0 {
			t.Fatal("it was told before its interfaces could come")
		}
		w.flush(w.due(), sink)
		e := await(t, rec, "usb.inserted", "usb_id", "046d:c52b", "classes", "hid,storage", "manufacturer", "ACME", "combination", "keyboard or mouse with storage")
		if p := attr(t, e, "product"); len(p) != maxDeviceName {
			t.Errorf("a product of %d bytes", len(p))
		}
		if e.Severity.String() != "high" || len(rec.list) != 1 || !w.due().IsZero() {
			t.Errorf("%+v", rec.list)
		}
		// The stick becomes a keyboard after it was looked at.
		take("add", stick+"/1-2:2.0", "SUBSYSTEM=usb", "DEVTYPE=usb_interface", "PRODUCT=46d/c52b/1201", "INTERFACE=3/1/1")
		w.flush(w.due(), sink)
		e = await(t, rec, "usb.inserted", "note", "a device that was there before has other interfaces now")
		if e.Severity.String() != "high" {
			t.Errorf("%+v", e)
		}
		take("remove", stick, "SUBSYSTEM=usb", "DEVTYPE=usb_device", "PRODUCT=46d/c52b/1201")
		await(t, rec, "usb.removed", "usb_id", "046d:c52b")
	})
}

func TestUSBFloodIsBounded(t *testing.T) {
	w, rec, take := ueventIn(t, nil)
	for i := range 5000 {
		d := fmt.Sprintf("/devices/usb1/1-%d", i)
		take("add", d, "SUBSYSTEM=usb", "DEVTYPE=usb_device", "PRODUCT=1/2/3", "TYPE=8/0/0")
		take("add", d+":1.0", "SUBSYSTEM=usb", "DEVTYPE=usb_interface", "PRODUCT=1/2/3", "INTERFACE=8/0/0")
		if len(w.pending) > maxPending || len(w.known) > maxDevices {
			t.Fatalf("%d pending, %d known", len(w.pending), len(w.known))
		}
	}
	if n := len(rec.of("usb.inserted")); n != 5000-maxPending {
		t.Errorf("%d told", n)
	}
	// Unplugged before it was told: told first.
	take("remove", "/devices/usb1/1-4999", "SUBSYSTEM=usb", "DEVTYPE=usb_device", "PRODUCT=1/2/3")
	if n := len(rec.of("usb.inserted")); n != 5000-maxPending+1 || len(rec.of("usb.removed")) != 1 {
		t.Errorf("%d told, %d removed", n, len(rec.of("usb.removed")))
	}
}

func TestDevicesModulesAndGadgets(t *testing.T) {
	w, rec, take := ueventIn(t, map[string]string{"/module/evil/taint": "OE\n", "/module/good/taint": "\n"})
	take("add", stick+"/1-2:1.0/host0/target0:0:0/0:0:0:0/block/sda", "SUBSYSTEM=block", "DEVTYPE=disk", "DEVNAME=sda")
	take("add", stick+"/1-2:1.0/host0/target0:0:0/0:0:0:0/block/sda/sda1", "SUBSYSTEM=block", "DEVTYPE=partition", "DEVNAME=sda1")
	take("add", "/devices/virtual/net/tun0", "SUBSYSTEM=net", "INTERFACE=tun0")
	take("add", "/devices/virtual/misc/fuse", "SUBSYSTEM=misc", "DEVNAME=fuse")
	take("add", "/devices/pci0000:00/0000:00:05.0", "SUBSYSTEM=pci", "PCI_CLASS=20000")
	take("add", "/devices/virtual/net/lo", "SUBSYSTEM=net", "INTERFACE=lo", "SYNTH_UUID=0")
	if n := len(rec.list); n != 3 {
		t.Errorf("%d events: %+v", n, rec.list)
	}
	await(t, rec, "device.added", "subsystem", "block", "name", "sda", "bus", "usb")
	await(t, rec, "device.added", "subsystem", "net", "name", "tun0")
	await(t, rec, "device.added", "subsystem", "pci", "name", "0000:00:05.0")
	take("remove", "/devices/virtual/net/tun0", "SUBSYSTEM=net", "INTERFACE=tun0")
	await(t, rec, "device.removed", "subsystem", "net", "name", "tun0")

	take("add", "/module/good", "SUBSYSTEM=module")
	take("add", "/module/evil", "SUBSYSTEM=module")
	take("remove", "/module/evil", "SUBSYSTEM=module")
	if e := await(t, rec, "module.load", "module", "evil", "taint", "OE"); e.Severity.String() != "high" {
		t.Errorf("an unsigned module: %+v", e)
	}
	if e := await(t, rec, "module.load", "module", "good"); e.Severity.String() != "default" {
		t.Errorf("%+v", e)
	}
	await(t, rec, "module.unload", "module", "evil")

	for range 2 {
		take("change", "/devices/platform/soc/fe980000.usb/udc/fe980000.usb", "SUBSYSTEM=udc", "USB_UDC_NAME=fe980000.usb", "USB_UDC_DRIVER=configfs-gadget.g1")
		take("change", "/devices/virtual/android_usb/android0", "SUBSYSTEM=android_usb", "USB_STATE=CONFIGURED")
		take("add", "/devices/virtual/tty/ttyGS0", "SUBSYSTEM=tty", "DEVNAME=ttyGS0")
		take("add", "/devices/virtual/misc/android_adb", "SUBSYSTEM=misc", "DEVNAME=android_adb")
		take("add", "/module/g_serial", "SUBSYSTEM=module")
	}
	for _, name := range []string{"fe980000.usb", "android0", "ttyGS0", "android_adb"} {
		await(t, rec, "debug.enabled", "name", name)
	}
	await(t, rec, "debug.enabled", "module", "g_serial")
	if n := len(rec.of("debug.enabled")); n != 5 {
		t.Errorf("%d told, want each of 5 once", n)
	}
	take("change", "/devices/platform/soc/fe980000.usb/udc/fe980000.usb", "SUBSYSTEM=udc", "USB_UDC_NAME=fe980000.usb")
	await(t, rec, "device.removed", "subsystem", "udc")
	_ = w
}

func TestRescanOfDevices(t *testing.T) {
	files := map[string]string{
		stick + "/uevent": "DEVTYPE=usb_device\nPRODUCT=46d/c52b/1201\nTYPE=3/0/0\n", "/bus/usb/devices/1-2": "->../../../" + strings.TrimPrefix(stick, "/"),
		"/bus/usb/devices/usb1": "x", "/bus/usb/devices/1-2:1.0": "x", "/block/mmcblk0/size": "1", "/module/old/taint": "",
		"/class/udc/dwc3/uevent": "USB_UDC_NAME=dwc3\nUSB_UDC_DRIVER=configfs-gadget.g1\n",
	}
	w, rec, _ := ueventIn(t, files)
	sink := testSink(rec)
	w.rescan(sink, true)
	w.flush(time.Now().Add(usbSettle), sink)
	await(t, rec, "usb.inserted", "usb_id", "046d:c52b", "classes", "hid", "devpath", stick, "at_start", "true")
	await(t, rec, "debug.enabled", "name", "dwc3", "driver", "configfs-gadget.g1")
	if len(rec.list) != 2 {
		t.Errorf("at the start: %+v", rec.list)
	}
	rec.list = nil
	w.rescan(sink, false)
	if w.flush(time.Now().Add(usbSettle), sink); len(rec.list) != 0 {
		t.Errorf("nothing changed: %+v", rec.list)
	}
	for _, gone := range []string{"/bus/usb/devices/1-2", "/block/mmcblk0", "/module/old", "/class/udc/dwc3"} {
		if err := os.RemoveAll(w.sys + gone); err != nil {
			t.Fatal(err)
		}
	}
	sysTree(t, w.sys, map[string]string{"/module/new/taint": "E", "/block/sdb/size": "1", "/class/tty/ttyGS0/dev": ""})
	w.rescan(sink, false)
	await(t, rec, "usb.removed")
	await(t, rec, "device.removed", "subsystem", "block", "name", "mmcblk0")
	await(t, rec, "device.removed", "subsystem", "udc", "name", "dwc3")
	await(t, rec, "module.unload", "module", "old")
	await(t, rec, "module.load", "module", "new")
	await(t, rec, "device.added", "subsystem", "block", "name", "sdb")
	await(t, rec, "debug.enabled", "name", "ttyGS0")
}

func TestDevicesOfThisKernel(t *testing.T) {
	testneed.Native(t)
	if !testneed.Netns(t) {
		return
	}
	rec := live(t, ueventKind(), &Env{})
	addLink(t, "test0", "bridge")
	await(t, rec, "device.added", "subsystem", "net", "name", "test0")
	i := addLink(t, "test1", "bridge")
	rt(t, unix.RTM_DELLINK, 0, ifinfo(i, 0, 0))
	await(t, rec, "device.removed", "subsystem", "net", "name", "test1")

	ctl, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Logf("no loop device to plug: %v", err)
		return
	}
	defer unix.Close(ctl)
	if err = unix.IoctlSetInt(ctl, unix.LOOP_CTL_ADD, 4321); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Logf("no loop device to plug: %v", err)
		return
	}
	await(t, rec, "device.added", "subsystem", "block", "name", "loop4321")
	// An announcement that somebody makes up in /sys is no news.
	if err := os.WriteFile("/sys/block/loop4321/uevent", []byte("remove"), 0); err != nil {
		t.Log(err)
	}
	time.Sleep(50 * time.Millisecond)
	if _, told := rec.find("device.removed", "name", "loop4321"); told {
		t.Error("a made-up announcement was believed")
	}
	if err := unix.IoctlSetInt(ctl, unix.LOOP_CTL_REMOVE, 4321); err != nil {
		t.Fatal(err)
	}
	await(t, rec, "device.removed", "subsystem", "block", "name", "loop4321")
}

func TestFloodOfDevicesIsReported(t *testing.T) {
	testneed.Native(t)
	w, err := openUevent(t.Context(), &Env{})
	if err != nil {
		t.Skip(err)
	}
	defer w.Close()
	for range 3000 { // nobody reads
		if err := os.WriteFile("/sys/class/mem/null/uevent", []byte("change"), 0); err != nil {
			t.Skip(err)
		}
	}
	var rec recorded
	sink := testSink(&rec)
	enough := 300 * time.Millisecond
	if testneed.Guest() {
		enough = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	if err := w.Run(ctx, sink); err != nil {
		t.Fatal(err)
	}
	if l := &sink.loss; l.times != 1 || !l.open || !strings.Contains(l.reason, "queue") {
		t.Errorf("lost: %d reports, %q", l.times, l.reason)
	}
	if look := w.(*ueventWatcher).look; look != 2 {
		t.Errorf("%d looks at /sys, want one more than the first", look)
	}
}
