// SPDX-License-Identifier: Apache-2.0

// Package migrate reads the configuration of another update agent and proposes one for this one.
//
// It owns the reading of the three formats, each with limits, and the words about what cannot be carried over. It writes
// nothing and decides nothing: what it proposes is a valid configuration that a person completes, because trust cannot be
// carried over. The other agent's signing keys say nothing about a TUF root.
//
// Who controls the files read controls the proposal; they belong to root, as ours does.
package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/backstay/backstay/agent/config"
)

// maxFile bounds a file that is read, in bytes.
const maxFile = 64 << 10

// Proposal is a configuration, and what its reader has to know.
type Proposal struct {
	Config  []byte   // JSON
	Remarks []string // what cannot be carried over, and what is missing
}

// From reads the configuration of an agent (rauc, mender or swupdate) under a root directory: the file named, or the usual one.
func From(agent string, root fs.FS, file string) (*Proposal, error) {
	d := &draft{root: root, slots: map[string]slot{}, boot: map[string]any{}}
	var err error
	switch agent {
	case "rauc":
		err = d.rauc(or(file, "/etc/rauc/system.conf"))
	case "mender":
		err = d.mender(or(file, "/etc/mender/mender.conf"))
	case "swupdate":
		err = d.swupdate(or(file, "/etc/swupdate.cfg"))
	default:
		err = fmt.Errorf("no agent %q", agent)
	}
	if err != nil {
		return nil, fmt.Errorf("migrate from %s: %w", agent, err)
	}
	return d.propose()
}

// slot is as in the configuration.
type slot struct {
	Kind     string `json:"kind"`
	Path     string `json:"path"`
	Bootname string `json:"bootname,omitempty"`
}

// draft is what is known so far.
type draft struct {
	root       fs.FS
	name       string // of the product
	compatible string
	slots      map[string]slot
	boot       map[string]any
	key        string // booted.key
	attempts   int
	poll       string
	remarks    []string
}

func (d *draft) remark(format string, args ...any) {
	d.remarks = append(d.remarks, fmt.Sprintf(format, args...))
}

func (d *draft) read(name string) ([]byte, error) {
	f, err := d.root.Open(strings.TrimPrefix(path.Clean(name), "/"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	}
	return b, err
}

func (d *draft) exists(name string) bool {
	_, err := fs.Stat(d.root, strings.TrimPrefix(path.Clean(name), "/"))
	return err == nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// propose makes a configuration that this agent accepts. Addresses and files nobody has told are there, so that it is whole,
// with a remark for each.
func (d *draft) propose() (*Proposal, error) {
	if len(d.slots) != 2 {
		names := slices.Sorted(maps.Keys(d.slots))
		return nil, fmt.Errorf("it has %d slots that a boot loader chooses between (%s); this agent needs two", len(d.slots), strings.Join(names, ", "))
	}
	d.name = safe(or(d.name, "product"))
	d.compatible = safe(or(d.compatible, d.name))
	update := map[string]any{
		"root_file": "/etc/backstay/root.json", "metadata_url": "https://updates.invalid/metadata/", "targets_url": "https://updates.invalid/targets/",
	}
	d.remark("update.root_file, update.metadata_url, update.targets_url and server.ca_file are places to fill in: they come from your repository (backstayctl repo init)")
	if d.attempts > 0 {
		update["attempts"] = min(d.attempts, 9)
	}
	if d.poll != "" {
		update["poll"] = d.poll
	}
	out := map[string]any{
		"product": map[string]any{"name": d.name, "compatible": d.compatible},
		"server":  map[string]any{"ca_file": "/etc/backstay/servers.pem"},
		"update":  update, "slots": d.slots, "boot": d.boot,
	}
	if d.key != "" {
		out["booted"] = map[string]any{"key": d.key}
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, err
	}
	if _, err := config.Parse(text); err != nil {
		return nil, fmt.Errorf("what it says does not fit this agent: %w", err)
	}
	return &Proposal{Config: append(text, '\n'), Remarks: d.remarks}, nil
}

// safe makes a name that can be part of a path, a topic and a target's name.
func safe(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			return r
		}
		return '-'
	}, s)
	return or(strings.TrimLeft(s[:min(len(s), 64)], ".-"), "product")
}

// add adds a slot under a name.
func (d *draft) add(name string, s slot) error {
	if _, ok := d.slots[name]; ok {
		return fmt.Errorf("slot %s is there twice", name)
	}
	if s.Bootname == name {
		s.Bootname = ""
	}
	d.slots[name] = s
	return nil
}

// environment says how a U-Boot, or else a GRUB, is told, from the files that its tools use.
func (d *draft) environment(convention string) error {
	for _, dir := range []string{"/boot/efi/grub-mender-grubenv", "/boot/grub/grub-mender-grubenv", "/boot/efi/EFI/BOOT", "/boot/grub"} {
		if convention == "mender" && d.exists(dir+"/mender_grubenv1/env") {
			d.boot["kind"], d.boot["convention"], d.boot["path"] = "grub", "mender", dir
			return nil
		}
	}
	if !d.exists("/etc/fw_env.config") {
		if convention != "mender" {
			return errors.New("/etc/fw_env.config is missing, which says where the U-Boot environment is")
		}
		d.remark("neither /etc/fw_env.config nor Mender's environment for GRUB is here: boot.kind is a guess")
	}
	d.boot["kind"], d.boot["convention"] = "uboot", convention
	return nil
}
