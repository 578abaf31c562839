// SPDX-License-Identifier: Apache-2.0

package config

// What a configuration must say to make sense. Limits of single values come from the tags; what ties several keys together is
// written out here. A problem begins with the value where that helps: "update.poll: 0s is below the minimum 1s".

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// validator collects field errors.
type validator struct{ errs []error }

func (v *validator) fail(key, format string, args ...any) {
	v.errs = append(v.errs, &FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
}

// need fails when a value that something else calls for is missing.
func (v *validator) need(key, value, because string) {
	if value == "" {
		v.fail(key, "missing; %s", because)
	}
}

// Validate returns every problem of the configuration, joined, one *FieldError per key, or nil.
func (c *Config) Validate() error {
	v := &validator{}
	v.walk(reflect.ValueOf(c).Elem(), "")
	v.update(c)
	v.when(c.Update)
	v.reboot(c.Reboot)
	v.servers(c)
	v.audit(c.Audit)
	v.sources(c.Audit.Sources)
	v.intake(c.Audit.Intake)
	v.control(c.Control)
	if c.Floor.Kind == "tpm" && c.Audit.Counter.Kind == "tpm" && c.Floor.Index == c.Audit.Counter.Index {
		v.fail("floor.index", "is the log's counter too, which rises by itself")
	}
	for i, h := range c.Update.Health {
		v.health(h, "update.health["+strconv.Itoa(i)+"]")
	}
	for i, p := range c.Baseline.Profiles {
		if !isName(p) {
			v.fail("baseline.profiles["+strconv.Itoa(i)+"]", "%q is not a name", p)
		}
	}
	return errors.Join(v.errs...)
}

// walk checks the one, min, max and path tags.
func (v *validator) walk(val reflect.Value, path string) {
	for i := range val.NumField() {
		field, at := val.Type().Field(i), val.Field(i)
		name := field.Tag.Get("json")
		if name == "" {
			continue
		}
		key := join(path, name)
		switch {
		case at.Kind() == reflect.Struct:
			v.walk(at, key)
		case at.Kind() == reflect.Map:
			for _, k := range sortedKeys(at) {
				v.walk(at.MapIndex(k), join(key, k.String()))
			}
		case at.Kind() == reflect.Slice && at.Type().Elem().Kind() == reflect.Struct:
			for j := range at.Len() {
				v.walk(at.Index(j), key+"["+strconv.Itoa(j)+"]")
			}
		default:
			v.leaf(at, field.Tag, key)
		}
	}
}

func (v *validator) leaf(at reflect.Value, tag reflect.StructTag, key string) {
	switch at.Kind() {
	case reflect.Int:
		n := at.Int()
		if lo, err := strconv.ParseInt(tag.Get("min"), 10, 64); err == nil && n < lo {
			v.fail(key, "%d is below the minimum %d", n, lo)
		}
		if hi, err := strconv.ParseInt(tag.Get("max"), 10, 64); err == nil && n > hi {
			v.fail(key, "%d is above the maximum %d", n, hi)
		}
	case reflect.Int64:
		d := time.Duration(at.Int())
		if lo, err := time.ParseDuration(tag.Get("min")); err == nil && d < lo {
			v.fail(key, "%s is below the minimum %s", short(d), short(lo))
		}
		if hi, err := time.ParseDuration(tag.Get("max")); err == nil && d > hi {
			v.fail(key, "%s is above the maximum %s", short(d), short(hi))
		}
	case reflect.String:
		s := at.String()
		if one := tag.Get("one"); one != "" {
			v.oneOf(key, s, strings.Split(one, "|"))
		}
		if spec := tag.Get("path"); spec != "" && s != "" && (spec != "slot" || flashName(s) == "") {
			v.absolute(key, s)
		}
	}
}

func (v *validator) sources(s Sources) {
	for _, list := range []struct {
		key   string
		paths []string
	}{{"audit.sources.files", s.Files}, {"audit.sources.mounts", s.Mounts}} {
		for i, p := range list.paths {
			v.absolute(list.key+"["+strconv.Itoa(i)+"]", p)
		}
	}
	for i, name := range s.Off {
		if !isName(name) {
			v.fail("audit.sources.off["+strconv.Itoa(i)+"]", "%q is not a name", name)
		}
	}
}

func (v *validator) oneOf(key, s string, allowed []string) {
	for _, a := range allowed {
		if s == a {
			return
		}
	}
	if s == "" {
		v.fail(key, "missing; one of %s", strings.Join(allowed, ", "))
		return
	}
	v.fail(key, "%q is not one of %s", s, strings.Join(allowed, ", "))
}

func (v *validator) absolute(key, path string) {
	switch {
	case !filepath.IsAbs(path):
		v.fail(key, "%q is not an absolute path", path)
	case filepath.Clean(path) != path:
		v.fail(key, "%q is not in its shortest form, which is %q", path, filepath.Clean(path))
	}
}

// url checks a server's address. A password in it would end up in logs, so there is none.
func (v *validator) url(key, s string, schemes ...string) {
	if s == "" {
		return
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		v.fail(key, "not a URL")
	case u.User != nil:
		v.fail(key, "holds a user name or password; servers know the device by its certificate")
	case !has(schemes, u.Scheme):
		v.fail(key, "%q must begin with %s://", s, strings.Join(schemes, ":// or "))
	case u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "":
		v.fail(key, "%q must be a host and a path, without ? and #", s)
	}
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// update checks the parts a device that is updated must have.
func (v *validator) update(c *Config) {
	u := c.Update
	v.url("update.metadata_url", u.MetadataURL, "https")
	v.url("update.targets_url", u.TargetsURL, "https")
	if u.RootFile == "" && u.MetadataURL == "" && u.TargetsURL == "" && len(c.Slots) == 0 {
		return
	}
	const because = "a device that is updated needs it"
	v.need("update.root_file", u.RootFile, because)
	v.need("update.metadata_url", u.MetadataURL, because)
	v.need("update.targets_url", u.TargetsURL, because)
	v.need("product.name", c.Product.Name, because)
	v.need("product.compatible", c.Product.Compatible, because)
	v.need("booted.cmdline", c.Booted.Cmdline, because)
	v.need("booted.key", c.Booted.Key, because)
	v.boot(c)
	if len(c.Slots) != 2 {
		v.fail("slots", "there are %d; an update needs exactly two, one to run and one to write", len(c.Slots))
	}
	seen := map[string]string{}
	for _, k := range sortedKeys(reflect.ValueOf(c.Slots)) {
		name, s := k.String(), c.Slots[k.String()]
		key := "slots." + name
		if len(name) > 16 || !isName(name) {
			v.fail(key, "a slot's name is at most 16 letters and digits")
		}
		v.need(key+".path", s.Path, "it says where the image is written")
		if kind := flashName(s.Path); kind != "" && s.Kind != kind {
			v.fail(key+".path", "%q names a slot of kind %q, not %q", s.Path, kind, s.Kind)
		}
		if other, ok := seen[s.Path]; ok && s.Path != "" {
			v.fail("slots", "%s and %s are the same place %s", other, name, s.Path)
		}
		seen[s.Path] = name
	}
	v.name("product.name", c.Product.Name)
	v.name("product.compatible", c.Product.Compatible)
}

// flashName returns the kind of slot that a name such as mtd:rootfs_b, ubi0:rootfs_b or /dev/ubi0:rootfs_b stands for, and ""
// for a path.
func flashName(s string) string {
	device, name, ok := strings.Cut(strings.TrimPrefix(s, "/dev/"), ":")
	if !ok || name == "" {
		return ""
	}
	number, isUBI := strings.CutPrefix(device, "ubi")
	_, err := strconv.ParseUint(number, 10, 16)
	switch {
	case s == "mtd:"+name:
		return "mtd"
	case isUBI && err == nil:
		return "ubi"
	}
	return ""
}

// name checks a value that becomes part of a path or a topic.
func (v *validator) name(key, s string) {
	if s != "" && !isName(s) {
		v.fail(key, "%q: only letters, digits, '.', '_' and '-', at most 64", s)
	}
}

// isName reports whether s is safe as part of a path, a topic and a TUF target name.
func isName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-') {
			return false
		}
	}
	return true
}

func (v *validator) reboot(r Reboot) {
	switch {
	case r.Method == "command" && len(r.Command) == 0:
		v.fail("reboot.command", "missing; reboot.method is \"command\"")
	case r.Method != "command" && len(r.Command) > 0:
		v.fail("reboot.command", "given, but reboot.method is %q", r.Method)
	case len(r.Command) > 0:
		v.absolute("reboot.command[0]", r.Command[0])
	}
}

// servers checks that what is reached over TLS has roots to recognise it by.
func (v *validator) servers(c *Config) {
	v.url("identity.est_url", c.Identity.ESTURL, "https")
	for _, s := range []struct{ key, value string }{
		{"update.metadata_url", c.Update.MetadataURL}, {"identity.est_url", c.Identity.ESTURL}, {"audit.brokers", strings.Join(c.Audit.Brokers, " ")},
	} {
		if s.value != "" {
			v.need("server.ca_file", c.Server.CAFile, s.key+" is reached over TLS and the system's roots are not used")
			return
		}
	}
}

func (v *validator) audit(a Audit) {
	v.brokers(a.Brokers)
	if len(a.Brokers) > 0 && len(a.ReceiptKeys) < a.Quorum {
		v.fail("audit.receipt_keys", "there are %d and audit.quorum is %d: no record could ever be dropped", len(a.ReceiptKeys), a.Quorum)
	}
	if u, err := url.Parse(a.Proxy); a.Proxy != "" && (err != nil || u.Scheme != "http" && u.Scheme != "socks5" || u.Hostname() == "" || u.Port() == "" ||
		u.User != nil || strings.Trim(u.Path, "/") != "") {
		v.fail("audit.proxy", "%q must be http://host:port or socks5://host:port", a.Proxy)
	}
	if a.MaxRate > 0 && a.MaxRate < minRate {
		v.fail("audit.max_rate", "%d is below the minimum %d; 0 means no limit", a.MaxRate, minRate)
	}
	for i, p := range a.Private {
		if !isName(p) {
			v.fail("audit.private["+strconv.Itoa(i)+"]", "%q is not a name", p)
		}
	}
	names := map[string]bool{}
	for i, k := range a.ReceiptKeys {
		key := "audit.receipt_keys[" + strconv.Itoa(i) + "]"
		parts := strings.SplitN(k, "+", 3)
		if len(parts) != 3 || parts[0] == "" || len(parts[1]) != 8 || parts[2] == "" {
			v.fail(key, "not a verifier key name+hash+key")
			continue
		}
		if names[parts[0]+"+"+parts[1]] {
			v.fail(key, "given twice; a quorum counts different collectors")
		}
		names[parts[0]+"+"+parts[1]] = true
	}
}

// Limits of audit.brokers and audit.max_rate. Slower than that, a device with a heartbeat every quarter of an hour would fall
// behind for ever.
const (
	maxBrokers = 8
	minRate    = 256
)

// brokers checks that each is an address and none is there twice.
func (v *validator) brokers(all []string) {
	if len(all) > maxBrokers {
		v.fail("audit.brokers", "%d of them; at most %d", len(all), maxBrokers)
	}
	seen := map[string]bool{}
	for i, b := range all {
		key := "audit.brokers[" + strconv.Itoa(i) + "]"
		u, err := url.Parse(b)
		switch {
		case err != nil || u.Hostname() == "":
			v.fail(key, "%q must be tls://host:port", b)
		case u.Scheme != "tls":
			v.fail(key, "%q must begin with tls://", b)
		case u.Port() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil:
			v.fail(key, "%q must be tls://host:port", b)
		case seen[u.Host]:
			v.fail(key, "%q is given twice", b)
		}
		if err == nil {
			seen[u.Host] = true
		}
	}
}

func (v *validator) control(c Control) {
	v.need("control.socket", c.Socket, "the local commands need it")
	v.socket("control.socket", c.Socket)
	v.ids("control.allow_uids", c.AllowUIDs, "user")
}

func (v *validator) intake(i Intake) {
	v.socket("audit.intake.socket", i.Socket)
	v.socket("audit.intake.devlog", i.Devlog)
	v.ids("audit.intake.allow_uids", i.AllowUIDs, "user")
	v.ids("audit.intake.allow_gids", i.AllowGIDs, "group")
	if i.DevlogReplace && i.Devlog == "" {
		v.fail("audit.intake.devlog_replace", "given, but audit.intake.devlog names no socket")
	}
}

// socket checks a socket's name; the kernel takes 107 bytes of it.
func (v *validator) socket(key, path string) {
	if len(path) > 107 {
		v.fail(key, "%d bytes long, the kernel takes 107", len(path))
	}
}

func (v *validator) ids(key string, ids []int, what string) {
	for i, id := range ids {
		if id < 0 {
			v.fail(key+"["+strconv.Itoa(i)+"]", "%d is not a %s id", id, what)
		}
	}
}

// health checks that a health check has what its kind needs and nothing its kind ignores.
func (v *validator) health(h Health, key string) {
	v.need(key+".name", h.Name, "reports and events use it")
	uses := map[string]string{"process": "path", "exec": "argv", "file": "path", "mount": "path", "metric": "path", "http": "url", "tcp": "addr"}
	for _, f := range []struct {
		name, value string
	}{{"argv", strings.Join(h.Argv, " ")}, {"path", h.Path}, {"url", h.URL}, {"addr", h.Addr}} {
		switch wanted := uses[h.Kind] == f.name; {
		case wanted && f.value == "":
			v.fail(key+"."+f.name, "missing; a check of kind %q needs it", h.Kind)
		case !wanted && f.value != "":
			v.fail(key+"."+f.name, "given, but a check of kind %q does not use it", h.Kind)
		}
	}
	switch h.Kind {
	case "exec":
		if len(h.Argv) > 0 {
			v.absolute(key+".argv[0]", h.Argv[0])
		}
	case "process", "file", "mount", "metric":
		if h.Path != "" {
			v.absolute(key+".path", h.Path)
		}
		if h.Min > h.Max {
			v.fail(key+".min", "%d is above max %d", h.Min, h.Max)
		}
	case "http":
		v.url(key+".url", h.URL, "http", "https")
	case "tcp":
		if _, _, err := net.SplitHostPort(h.Addr); h.Addr != "" && err != nil {
			v.fail(key+".addr", "%q is not host:port", h.Addr)
		}
	}
}
