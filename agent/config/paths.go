// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
)

// CheckPaths looks at every file the configuration names: whether it is there, of the right kind, and whether somebody may
// write or read it who must not. It returns one problem per key, none when all is well, and changes nothing. What is written in
// the files is for those who read them.
func (c *Config) CheckPaths() []*FieldError {
	var out []*FieldError
	check := func(key, path, spec string) {
		if problem := checkPath(path, spec); problem != "" {
			out = append(out, &FieldError{Key: key, Problem: path + ": " + problem, Line: c.Line(key)})
		}
	}
	for _, s := range c.Effective() {
		spec := pathSpec(s.Key)
		text, isText := leafText(s.Value)
		if spec == "slot" {
			name, _, _ := strings.Cut(strings.TrimPrefix(s.Key, "slots."), ".")
			spec += "-" + c.Slots[name].Kind
		}
		switch {
		case spec == "" || !c.used(s.Key) || strings.HasPrefix(spec, "slot-") && flashName(text) != "":
		case isText && text != "":
			check(s.Key, text, spec)
		case spec == "exec":
			var argv []string
			if json.Unmarshal(s.Value, &argv) == nil && len(argv) > 0 {
				check(s.Key+"[0]", argv[0], spec)
			}
		}
	}
	if len(c.Update.ConsentExec) > 0 {
		check("update.consent_exec[0]", c.Update.ConsentExec[0], "exec")
	}
	for i, x := range c.Update.Conditions {
		if len(x.Argv) > 0 {
			check("update.conditions["+strconv.Itoa(i)+"].argv[0]", x.Argv[0], "exec")
		}
	}
	for i, x := range c.Update.Components {
		if len(x.Argv) > 0 {
			check("update.components["+strconv.Itoa(i)+"].argv[0]", x.Argv[0], "exec")
		}
	}
	for i, h := range c.Update.Health {
		if h.Kind == "exec" && len(h.Argv) > 0 {
			check("update.health["+strconv.Itoa(i)+"].argv[0]", h.Argv[0], "exec")
		}
	}
	return out
}

// used reports whether the part a key belongs to is in use; files of parts that are off need not exist.
func (c *Config) used(key string) bool {
	section, _, _ := strings.Cut(key, ".")
	switch section {
	case "slots", "booted", "boot":
		return c.HasUpdate()
	case "baseline":
		return len(c.Baseline.Profiles) > 0
	}
	return key != "product.os_release" || c.set[key]
}

// pathSpec is the path tag of a key.
func pathSpec(key string) string {
	t, spec := reflect.TypeFor[Config](), ""
	for i, part := range strings.Split(key, ".") {
		part, _, _ = strings.Cut(part, "[")
		if t.Kind() == reflect.Map {
			t = t.Elem()
			continue
		}
		if i > 0 && t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return ""
		}
		for j := range t.NumField() {
			if f := t.Field(j); f.Tag.Get("json") == part {
				t, spec = f.Type, f.Tag.Get("path")
				break
			}
		}
	}
	return spec
}

func leafText(raw []byte) (string, bool) {
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// checkPath compares one path with its tag and says what is wrong, "" when nothing is.
func checkPath(path, spec string) string {
	kind, flags, _ := strings.Cut(spec, ",")
	if kind == "socket" {
		path, kind, flags = filepath.Dir(path), "dir", "create"
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(flags, "create"):
		return "" // the agent makes it
	case err != nil:
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return err.Error()
	}
	if problem := wrongKind(info.Mode(), kind); problem != "" {
		return problem
	}
	perm := info.Mode().Perm()
	sticky := info.Mode()&fs.ModeSticky != 0
	switch {
	case strings.Contains(flags, "private") && perm&0o077 != 0:
		return fmt.Sprintf("mode %04o lets others in; chmod go-rwx %s", perm, path)
	case perm&0o002 != 0 && !sticky && kind != "socket":
		return fmt.Sprintf("mode %04o lets everybody write it; chmod o-w %s", perm, path)
	case (strings.Contains(flags, "trusted") || kind == "exec") && perm&0o022 != 0:
		return fmt.Sprintf("mode %04o lets others write it; chmod go-w %s", perm, path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && (strings.Contains(flags, "trusted") || strings.Contains(flags, "private") || kind == "exec") {
		if uid := int(st.Uid); uid != 0 && uid != os.Geteuid() {
			return fmt.Sprintf("belongs to user id %d, who is neither root nor the agent's user", uid)
		}
	}
	return ""
}

func wrongKind(mode fs.FileMode, kind string) string {
	switch {
	case kind == "dir" && !mode.IsDir():
		return "is not a directory"
	case kind == "file" && mode.IsDir():
		return "is a directory"
	case kind == "exec" && (!mode.IsRegular() || mode.Perm()&0o111 == 0):
		return "is not an executable file"
	case kind == "slot-file" && !mode.IsRegular():
		return "is not a regular file"
	case (kind == "slot-block" || kind == "slot-emmc-boot") && mode.Type() != fs.ModeDevice:
		return "is not a block device"
	case (kind == "slot-mtd" || kind == "slot-ubi") && mode.Type() != fs.ModeDevice|fs.ModeCharDevice:
		return "is not a character device"
	}
	return ""
}
