// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"encoding/json"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// What an event tells stands where OCSF has a place for it: the program of a process event in process.file.path, the address a
// login came from in src_endpoint.ip. The table below says which attribute of ours goes where in which class, and what stands in a
// place that OCSF requires when there is no such attribute. What has no place goes to "unmapped". Reading a leaf goes the
// same way back.

// place is one value in the objects of an event.
type place struct {
	path string // names from the top of the event, joined by dots; places of one object stand together
	from string // attribute, or a field of the record: see fields; "" when text or number is all there is
	as   form
	text string // stands there when there is no such attribute
	// unless names the beginning of a path: with a value there, this one is left out; with says the opposite.
	unless, with string
}

// form says how a value is written, and what does not fit.
type form uint8

const (
	asText     form = iota
	asNumber        // whole number, without a sign or leading zeros
	asIP            // address
	asPersonal      // commitment to a personal value, where only an identifier fits
	asHash          // list of one SHA-256
	asLastName      // last element of a path; it is not read back
	asCopy          // text that stands elsewhere too; it is not read back
	asCode          // number in text, whatever the event says; it is not read back
	asTrue          // true; it is not read back
)

// Fields of a record in the column from. The first two are read back.
const (
	fromSubject = "@subject"
	fromSession = "@session"
	fromRule    = "@rule"
	fromUID     = "@uid" // unique name of the record
	fromApp     = "@app" // what a lifecycle event is about
)

// actorPlaces are who did it, where that is known; absent is what an event says in that place for a class that requires one.
func actorPlaces(absent string) []place {
	list := []place{
		{path: "actor.user.name", from: fromSubject}, {path: "actor.user.uid", from: "uid"},
		{path: "actor.session.uid", from: fromSession},
		{path: "actor.process.pid", from: "pid", as: asNumber}, {path: "actor.process.path", from: "exe", with: "actor.process.pid"},
	}
	if absent != "" {
		list = append(list, place{path: "actor.app_name", text: absent, unless: "actor."})
	}
	return list
}

// placesOf returns the places of a class.
func placesOf(class int) []place {
	switch class {
	case classFile:
		return append(actorPlaces("unknown"), place{path: "file.name", from: "path", as: asLastName, text: "unknown"},
			place{path: "file.type_id", as: asCode, text: "0"}, place{path: "file.path", from: "path"}, place{path: "file.size", from: "size", as: asNumber},
			place{path: "file.hashes", from: "sha256", as: asHash}, place{path: "file.volume", from: "volume"})
	case classExtension:
		return append(actorPlaces("kernel"), place{path: "driver.file.name", from: "module", text: "unknown"}, place{path: "driver.file.type_id", as: asCode, text: "0"})
	case classKernel:
		return append(actorPlaces("kernel"), place{path: "kernel.name", text: "Linux"}, place{path: "kernel.type_id", as: asCode, text: "0"})
	case classProcess:
		return []place{
			{path: "actor.user.name", from: fromSubject}, {path: "actor.user.uid", from: "uid"}, {path: "actor.session.uid", from: fromSession},
			{path: "actor.app_name", text: "unknown", unless: "actor."},
			{path: "process.pid", from: "pid", as: asNumber}, {path: "process.uid", text: "unknown", unless: "process.pid"}, {path: "process.name", from: "comm"},
			{path: "process.parent_process.pid", from: "ppid", as: asNumber},
			{path: "process.file.name", from: "exe", as: asLastName}, {path: "process.file.type_id", as: asCode, text: "8", with: "process.file.name"},
			{path: "process.file.path", from: "exe", with: "process.file.name"}, {path: "process.file.hashes", from: "sha256", as: asHash, with: "process.file.name"},
			{path: "process.file.size", from: "size", as: asNumber, with: "process.file.name"},
		}
	case classEventLog:
		return append(actorPlaces(""), place{path: "log_name", text: "audit"})
	case classPeripheral:
		return append(actorPlaces("kernel"), place{path: "peripheral_device.name", from: "name", as: asCopy},
			place{path: "peripheral_device.name", from: "product", as: asCopy}, place{path: "peripheral_device.name", from: "module", as: asCopy}, place{path: "peripheral_device.name", text: "unknown", unless: "peripheral_device.name"},
			place{path: "peripheral_device.uid", from: "devpath"}, place{path: "peripheral_device.serial_number", from: "serial"},
			place{path: "peripheral_device.vendor_name", from: "manufacturer"})
	case classCompliance:
		return append(actorPlaces(""), place{path: "compliance.control", from: fromRule, as: asCopy},
			place{path: "finding_info.uid", from: fromRule, as: asCopy}, place{path: "finding_info.title", from: "title"})
	case classDetection:
		return append(actorPlaces(""), place{path: "finding_info.uid", from: fromUID, as: asCopy}, place{path: "is_alert", as: asTrue})
	case classAccount:
		return append(actorPlaces(""), place{path: "user.name", from: "account"}, place{path: "user.uid", from: "account_uid"},
			place{path: "user.name", text: "unknown", unless: "user."})
	case classAuth:
		return []place{
			{path: "actor.user.name", from: "by"}, {path: "actor.user.uid", from: "uid"},
			{path: "actor.process.pid", from: "pid", as: asNumber}, {path: "actor.process.path", from: "exe", with: "actor.process.pid"},
			{path: "user.name", from: fromSubject}, {path: "user.name", text: "unknown", unless: "user."},
			{path: "service.name", from: "service", text: "unknown"},
			{path: "session.uid", from: fromSession}, {path: "session.terminal", from: "terminal"},
			{path: "src_endpoint.ip", from: "source_address", as: asIP}, {path: "src_endpoint.uid", from: "source_address", as: asPersonal},
			{path: "src_endpoint.port", from: "port", as: asNumber, with: "src_endpoint."},
		}
	case classEntity:
		return append(actorPlaces(""), place{path: "entity.uid", from: "device_id"}, place{path: "entity.name", text: "this device", unless: "entity."},
			place{path: "entity.type_id", as: asCode, text: "1"})
	case classNetwork:
		return append(actorPlaces(""), place{path: "src_endpoint.ip", from: "address", as: asIP}, place{path: "src_endpoint.name", text: "unknown", unless: "src_endpoint.ip"},
			place{path: "src_endpoint.port", from: "port", as: asNumber})
	case classApp:
		return append(actorPlaces(""), place{path: "app.name", from: fromApp, as: asCopy}, place{path: "app.version", from: "version"})
	}
	return actorPlaces("")
}

// accepts reports whether a value can stand in a place of that form.
func (f form) accepts(v string) bool {
	switch f {
	case asNumber:
		n, err := strconv.ParseInt(v, 10, 64)
		return err == nil && n >= 0 && strconv.FormatInt(n, 10) == v
	case asIP:
		a, err := netip.ParseAddr(v)
		return err == nil && a.Zone() == "" && a.String() == v
	case asPersonal:
		return committed(v)
	case asHash:
		return len(v) == 64 && strings.Trim(v, "0123456789abcdef") == ""
	}
	return v != ""
}

// mapped is a value and where it goes.
type mapped struct {
	place
	value string
}

// mapping takes what has a place out of the attributes of an event, and returns it with what is left.
func mapping(k Kind, origin Origin, index uint64, e Event) (list []mapped, rest []Attr) {
	taken := make([]bool, len(e.Attrs))
	written := func(prefix string) bool {
		return slices.ContainsFunc(list, func(m mapped) bool { return strings.HasPrefix(m.path, prefix) })
	}
	for _, p := range placesOf(k.Class) {
		if p.unless != "" && written(p.unless) || p.with != "" && !written(p.with) || slices.ContainsFunc(list, func(m mapped) bool { return m.path == p.path }) {
			continue
		}
		v, at := "", -1
		if strings.HasPrefix(p.from, "@") {
			v = recordField(p.from, k, origin, index, e)
		} else if p.from != "" {
			if at = slices.IndexFunc(e.Attrs, func(a Attr) bool { return a.Name == p.from }); at >= 0 {
				v = e.Attrs[at].Value
			}
		}
		if v == "" || !p.as.accepts(v) {
			if v, at = p.text, -1; v == "" && p.as != asTrue {
				continue
			}
		}
		if p.as == asLastName {
			v = path.Base(v)
		}
		if at >= 0 && p.as < asLastName {
			taken[at] = true
		}
		list = append(list, mapped{p, v})
	}
	for i, a := range e.Attrs {
		if !taken[i] {
			rest = append(rest, a)
		}
	}
	return list, rest
}

func recordField(name string, k Kind, origin Origin, index uint64, e Event) string {
	switch name {
	case fromSubject:
		return e.Subject
	case fromSession:
		return e.Session
	case fromRule:
		return e.Rule
	case fromUID:
		return origin.String() + "/" + strconv.FormatUint(index, 10)
	}
	if strings.HasPrefix(k.Code, "agent.") || strings.HasPrefix(k.Code, "control.") {
		return "backstay"
	}
	return "firmware"
}

// objects writes the values in their places.
func (w *jsonWriter) objects(list []mapped) {
	var open []string
	for _, m := range list {
		names := strings.Split(m.path, ".")
		last := len(names) - 1
		same := 0
		for same < len(open) && same < last && open[same] == names[same] {
			same++
		}
		for range open[same:] {
			w.close()
		}
		open = append(open[:same:same], names[same:last]...)
		for _, name := range names[same:last] {
			w.open(name)
		}
		w.value(names[last], m)
	}
	for range open {
		w.close()
	}
}

func (w *jsonWriter) value(name string, m mapped) {
	switch m.as {
	case asNumber, asCode:
		w.raw(name, m.value)
	case asTrue:
		w.raw(name, "true")
	case asHash:
		w.raw(name, `[{"algorithm_id":3,"value":"`+m.value+`"}]`)
	default:
		limit := MaxAttrValue
		if strings.HasPrefix(m.from, "@") {
			limit = MaxField
		}
		w.text(name, m.value, limit)
	}
}

// objectsJSON are the objects of an event that the table above writes to.
type objectsJSON struct {
	Actor      json.RawMessage `json:"actor"`
	File       json.RawMessage `json:"file"`
	Driver     json.RawMessage `json:"driver"`
	Process    json.RawMessage `json:"process"`
	Peripheral json.RawMessage `json:"peripheral_device"`
	Finding    json.RawMessage `json:"finding_info"`
	User       json.RawMessage `json:"user"`
	Service    json.RawMessage `json:"service"`
	Session    json.RawMessage `json:"session"`
	Source     json.RawMessage `json:"src_endpoint"`
	Entity     json.RawMessage `json:"entity"`
	App        json.RawMessage `json:"app"`
}

func (o *objectsJSON) top(name string) json.RawMessage {
	switch name {
	case "actor":
		return o.Actor
	case "file":
		return o.File
	case "driver":
		return o.Driver
	case "process":
		return o.Process
	case "peripheral_device":
		return o.Peripheral
	case "finding_info":
		return o.Finding
	case "user":
		return o.User
	case "service":
		return o.Service
	case "session":
		return o.Session
	case "src_endpoint":
		return o.Source
	case "entity":
		return o.Entity
	case "app":
		return o.App
	}
	return nil
}

// unmap reads subject, session and attributes back from their places.
func (o *objectsJSON) unmap(class int, e *Event) {
	parsed := map[string]any{}
	seen := map[string]bool{}
	if class == classAuth && o.User == nil {
		class = classBase // an older leaf, which has the subject with the actor
	}
	places := placesOf(class)
	for _, p := range places {
		if p.from == "" || p.as >= asLastName || seen[p.from] {
			continue
		}
		name, rest, nested := strings.Cut(p.path, ".")
		raw := o.top(name)
		if raw == nil || !nested {
			continue
		}
		if _, ok := parsed[name]; !ok {
			var v any
			dec := json.NewDecoder(strings.NewReader(string(raw)))
			dec.UseNumber()
			if dec.Decode(&v) != nil {
				v = nil
			}
			parsed[name] = v
		}
		v, ok := lookup(parsed[name], rest)
		if !ok || slices.ContainsFunc(places, func(q place) bool { return q.path == p.path && q.text == v }) {
			continue // what stands there when there is no such attribute
		}
		seen[p.from] = true
		switch p.from {
		case fromSubject:
			e.Subject = v
		case fromSession:
			e.Session = v
		default:
			e.Attrs = append(e.Attrs, Attr{Name: p.from, Value: v})
		}
	}
}

// lookup follows names joined by dots. A list of hashes stands for its one value.
func lookup(v any, names string) (string, bool) {
	for name := range strings.SplitSeq(names, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return "", false
		}
		v = m[name]
	}
	if list, ok := v.([]any); ok && len(list) == 1 {
		if m, ok := list[0].(map[string]any); ok {
			v = m["value"]
		}
	}
	switch v := v.(type) {
	case string:
		return v, v != ""
	case json.Number:
		return v.String(), true
	}
	return "", false
}
