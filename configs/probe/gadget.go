// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

const gadgetDir = "/sys/kernel/config/usb_gadget"

// gadgetCheck wants the USB device port to offer only some functions.
type gadgetCheck struct {
	Allow []string `json:"allow"` // acm, rndis, mass_storage, ffs.adb
}

func gadgetKind() Kind {
	return Kind{
		Name: "usb-gadget", Target: `"functions": what the device offers as a USB device`, Want: `{"allow": [functions]}: acm, ecm, rndis, mass_storage, ffs.NAME`,
		Fix: "unbind a gadget with another function from its controller until the next start",
		New: func(target string, want []byte) (Check, error) {
			var c gadgetCheck
			if target != "functions" {
				return nil, errors.New(`target: want "functions"`)
			}
			return c, decodeWant(want, &c)
		},
	}
}

func (c gadgetCheck) Claims() []string { return []string{"usb-gadget"} }

func (c gadgetCheck) Tightens(old Check) error {
	o, ok := old.(gadgetCheck)
	if !ok {
		return errors.New("another kind")
	}
	if f, ok := subset(c.Allow, o.Allow); !ok {
		return fmt.Errorf("%s is allowed", f)
	}
	return nil
}

// function is the type of an instance: "acm.GS0" is acm; of user space drivers the name is what matters: "ffs.adb".
func gadgetFunction(instance string) string {
	kind, _, _ := strings.Cut(instance, ".")
	if kind == "ffs" {
		return instance
	}
	return kind
}

// gadget is one that is bound to a controller.
type gadget struct {
	dir, udc  string
	functions []string
}

func (h *Host) gadgets(ctx context.Context) (out []gadget, err error) {
	names, _ := h.Names(gadgetDir, maxStartFiles)
	for _, n := range names {
		g := gadget{dir: path.Join(gadgetDir, n)}
		udc, err := h.Read(ctx, g.dir+"/UDC")
		if err != nil {
			return nil, err
		}
		if g.udc = string(bytes.TrimSpace(udc)); g.udc == "" {
			continue
		}
		if g.functions, err = h.Names(g.dir+"/functions", maxStartFiles); err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}

// bad lists the functions of a gadget that are not allowed.
func (c gadgetCheck) bad(g gadget) (out []string) {
	for _, f := range g.functions {
		if k := gadgetFunction(f); !slices.Contains(c.Allow, k) && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// gadgetModules are drivers that are a gadget by themselves, and what they offer.
func gadgetModules() map[string]string {
	return map[string]string{"g_serial": "acm", "g_ether": "ecm", "g_mass_storage": "mass_storage", "g_multi": "mass_storage", "g_ncm": "ncm",
		"g_cdc": "ecm", "g_acm_ms": "mass_storage", "g_ffs": "ffs", "g_hid": "hid", "g_webcam": "uvc", "g_audio": "uac2", "g_zero": "SourceSink", "g_printer": "printer"}
}

func (c gadgetCheck) Check(ctx context.Context, h *Host) Verdict {
	if !h.Live() && !h.Exists("/sys/class/udc") {
		return c.image(ctx, h)
	}
	udc, err := h.Names("/sys/class/udc", maxStartFiles)
	if err != nil || len(udc) == 0 {
		return notApplicable("/sys/class/udc is empty: there is no USB device controller")
	}
	list, err := h.gadgets(ctx)
	if err != nil {
		return unknown(err)
	}
	var items []Item
	read := []string{"/sys/class/udc", gadgetDir}
	for _, g := range list {
		for _, f := range c.bad(g) {
			items = append(items, Item{Subject: printable(f), Where: printable(g.dir), Observed: "offered at " + printable(g.udc), Expected: c.expect()})
		}
	}
	for m, f := range gadgetModules() {
		if !slices.Contains(c.Allow, f) && h.Exists("/sys/module/"+m) {
			items = append(items, Item{Subject: f, Where: "/sys/module/" + m, Observed: "driver " + m + " is loaded", Expected: c.expect()})
		}
	}
	slices.SortFunc(items, func(a, b Item) int { return strings.Compare(a.Where+a.Subject, b.Where+b.Subject) })
	return judged(items, fmt.Sprintf("%d gadgets are bound, with no function beside %s", len(list), c.expect()), read...)
}

func (c gadgetCheck) expect() string {
	if len(c.Allow) == 0 {
		return "no function"
	}
	return strings.Join(c.Allow, ", ")
}

// image looks at what the start files load or set up.
func (c gadgetCheck) image(ctx context.Context, h *Host) Verdict {
	started := h.starts(ctx)
	var items []Item
	add := func(word, where string) {
		if f, ok := gadgetModules()[word]; ok && !slices.Contains(c.Allow, f) {
			items = append(items, Item{Subject: f, Where: where, Observed: "driver " + word + " is loaded", Expected: c.expect()})
		}
	}
	for _, s := range started.on("modprobe", "insmod") {
		for _, w := range s.args() {
			add(strings.ReplaceAll(strings.TrimSuffix(path.Base(w), ".ko"), "-", "_"), s.where())
		}
	}
	read := started.evidence()
	for _, dir := range []string{"/etc/modules", "/etc/modules-load.d", "/usr/lib/modules-load.d", "/etc/modules.d", "/etc/modules-boot.d"} {
		names := []string{""}
		if h.isDir(dir) {
			names, _ = h.Names(dir, maxStartFiles)
		}
		for _, n := range names {
			p := path.Join(dir, n)
			data, err := h.Read(ctx, p)
			if err != nil {
				continue
			}
			read = append(read, printable(p))
			eachLine(data, func(n int, l string) {
				w, _ := bootWord(l)
				add(strings.ReplaceAll(w, "-", "_"), at(p, n))
			})
		}
	}
	for _, l := range h.bootArguments(ctx).list {
		for _, w := range bootWords(l.args) {
			if v, ok := strings.CutPrefix(w, "modules-load="); ok {
				for m := range strings.SplitSeq(v, ",") {
					add(m, l.where)
				}
			}
		}
	}
	if err := started.err(); err != nil && len(items) == 0 {
		return unknown(err)
	}
	return judged(items, "nothing that the system starts loads a USB gadget", read[:min(len(read), MaxItems)]...)
}

func (c gadgetCheck) Fix(ctx context.Context, h *Host, want func(string) bool) ([]Change, error) {
	list, err := h.gadgets(ctx)
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, g := range list {
		if !slices.ContainsFunc(c.bad(g), func(f string) bool { return want(printable(f)) }) {
			continue
		}
		p, err := h.Resolve(g.dir + "/UDC")
		if err != nil {
			return nil, err
		}
		out = append(out, Change{Op: Kernel, Path: p, Before: []byte(g.udc + "\n"), After: []byte("\n")})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("a gadget that a driver is by itself is ended in the image: %w", ErrNoFix)
	}
	return out, nil
}
