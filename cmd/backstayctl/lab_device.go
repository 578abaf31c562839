// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/testdata/plantroot"
	"github.com/backstay/backstay/update/boot"
)

// What the lab's devices are.
const (
	labProduct    = "lab-cam"
	labCompatible = "lab-cam-v1"
	labSlotSize   = 32 << 20 // bytes of a slot file
	labEnvSize    = 0x4000   // bytes of one copy of the boot environment
	labAttempts   = 2        // starts a new image gets
)

// labDevice is one device: a directory with everything a board would have, and the boot stub that stands for its boot loader.
// The agent in it is a process of its own that knows nothing of the lab.
type labDevice struct {
	name  string
	dir   string
	agent string // the binary of the factory step
	id    string

	mu    sync.Mutex
	boots int
	cmd   *exec.Cmd
	fault error // why the boot stub gave up
}

func (d *labDevice) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

func (d *labDevice) env() boot.Config {
	env := d.path("uboot.env")
	return boot.Config{Areas: []boot.Area{{Path: env, Size: labEnvSize}, {Path: env, Offset: labEnvSize, Size: labEnvSize}}}
}

const labProfile = "base"

// lookedFor leaves out the planted rules that only other profiles have.
func lookedFor(planted []string) ([]string, error) {
	policy, err := configs.Load(labProfile)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(planted, func(id string) bool {
		_, ok := policy.Rule(id)
		return !ok
	}), nil
}

// make builds the device as it leaves the factory: an image in slot A, an empty slot B, a boot environment, a root directory
// with insecure defaults, and the two roots of trust. It returns the rules that the planted defaults break.
func (d *labDevice) make(factoryImage string, f labFleet) (planted []string, err error) {
	for _, dir := range []string{d.path("etc"), d.path("root")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	all, err := plantroot.Plant(d.path("root"))
	if err == nil {
		planted, err = lookedFor(all)
	}
	if err != nil {
		return nil, fmt.Errorf("plant insecure defaults: %w", err)
	}
	image, err := os.ReadFile(factoryImage)
	if err != nil {
		return nil, err
	}
	envConfig := fmt.Sprintf("%[1]s 0x0 0x%[2]x\n%[1]s 0x%[2]x 0x%[2]x\n", d.path("uboot.env"), labEnvSize)
	files := map[string][]byte{
		"uboot.env":         make([]byte, 2*labEnvSize),
		"etc/fw_env.config": []byte(envConfig),
		"etc/root.json":     f.factoryRoot,
		"etc/fleet-ca.pem":  f.ca,
		"etc/serial":        []byte("LAB-" + strings.ToUpper(d.name) + "\n"),
		"cmdline":           nil,
	}
	for name, b := range files {
		if err := os.WriteFile(d.path(name), b, 0o644); err != nil {
			return nil, err
		}
	}
	for name, b := range map[string][]byte{"slot-a.img": image, "slot-b.img": nil} {
		if err := errors.Join(os.WriteFile(d.path(name), b, 0o600), os.Truncate(d.path(name), labSlotSize)); err != nil {
			return nil, err
		}
	}
	if err := boot.Create(d.env(), binary.LittleEndian, []string{"BOOT_ORDER=A B", fmt.Sprintf("BOOT_A_LEFT=%d", labAttempts), "BOOT_B_LEFT=0"}); err != nil {
		return nil, err
	}
	return planted, d.configure(f)
}

// configure writes the agent's configuration: the same file a product ships, with paths of the lab.
func (d *labDevice) configure(f labFleet) error {
	c := map[string]any{
		"state_dir": d.path("state"), "run_dir": d.path("run"),
		"product": map[string]any{"name": labProduct, "compatible": labCompatible, "os_release": d.path("root/etc/os-release"),
			"serial_file": d.path("etc/serial")},
		"server": map[string]any{"ca_file": d.path("etc/fleet-ca.pem")},
		"update": map[string]any{
			"root_file": d.path("etc/root.json"), "metadata_url": f.repoURL + "/metadata/", "targets_url": f.repoURL + "/targets/",
			"poll": "2s", "attempts": labAttempts, "trial_timeout": "4s",
			"health": []any{
				map[string]any{"name": "self test", "kind": "exec", "argv": []string{d.path("root/usr/bin/product-selftest")}},
				map[string]any{"name": "audit broker", "kind": "mqtt"},
			},
		},
		"slots": map[string]any{"A": map[string]any{"kind": "file", "path": d.path("slot-a.img")},
			"B": map[string]any{"kind": "file", "path": d.path("slot-b.img")}},
		"booted":   map[string]any{"cmdline": d.path("cmdline")},
		"boot":     map[string]any{"kind": "uboot", "fw_env_config": d.path("etc/fw_env.config"), "convention": "rauc"},
		"reboot":   map[string]any{"method": "exit"},
		"identity": map[string]any{"est_url": f.estURL},
		"baseline": map[string]any{"profiles": []string{labProfile}, "root": d.path("root"), "enforce": true, "period": "1h"},
		"audit": map[string]any{"sources": map[string]any{"off": []string{"all"}},
			"brokers": []string{f.brokerURL}, "rejoin": "1s", "receipt_keys": []string{f.receiptKey}},
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if _, err := config.Parse(b); err != nil {
		return fmt.Errorf("lab configuration: %w", err)
	}
	return os.WriteFile(d.path("etc/config.json"), b, 0o644)
}

// birth is the factory step: the device makes its key and says who it is.
func (d *labDevice) birth(ctx context.Context) (spki string, err error) {
	out, err := d.run(ctx, d.agent, "identity", "init", "--json")
	if err != nil {
		return "", err
	}
	var birth struct{ ID, SPKI string }
	if err := json.Unmarshal(out, &birth); err != nil {
		return "", err
	}
	d.id = birth.ID
	return birth.SPKI, nil
}

// run runs a command of the device to its end and returns what it printed. An error carries the exit code and the text.
func (d *labDevice) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, append([]string{"--config", d.path("etc/config.json")}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return stdout.Bytes(), &labExit{code: exit.ExitCode(), text: strings.TrimSpace(stderr.String() + stdout.String())}
	}
	return stdout.Bytes(), err
}

// command runs a command with the agent that the booted image brought.
func (d *labDevice) command(ctx context.Context, args ...string) ([]byte, error) {
	return d.run(ctx, d.path("root/usr/bin/backstay"), args...)
}

// labExit is a command that ended with another code than 0.
type labExit struct {
	code int
	text string
}

func (e *labExit) Error() string { return fmt.Sprintf("exit code %d: %s", e.code, e.text) }

// power boots the device again and again until ctx ends, as a board with power does: the stub chooses a slot, the slot's agent
// runs, and when it ends with the code for a reboot, or the image does not start at all, the stub chooses again.
func (d *labDevice) power(ctx context.Context) {
	log, err := os.OpenFile(d.path("agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		d.fail(err)
		return
	}
	defer log.Close()
	for ctx.Err() == nil {
		slot, err := d.chooseSlot()
		if err != nil {
			d.fail(err)
			return
		}
		fmt.Fprintf(log, "boot: slot %s\n", slot)
		if err := unpackLabImage(d.path("slot-"+strings.ToLower(slot)+".img"), d.path("root")); err != nil {
			fmt.Fprintf(log, "boot: %v\n", err)
			continue // a kernel that panics: the boot loader counts on
		}
		d.mu.Lock()
		d.boots++
		cmdline := fmt.Sprintf("console=ttyS0 ro backstay.slot=%s backstay.boot=%s-%d\n", slot, d.name, d.boots)
		d.mu.Unlock()
		if err := os.WriteFile(d.path("cmdline"), []byte(cmdline), 0o644); err != nil {
			d.fail(err)
			return
		}
		d.supervise(ctx, log)
	}
}

// supervise is the init system: it starts the agent again when it dies, until the agent asks for a reboot.
func (d *labDevice) supervise(ctx context.Context, log *os.File) {
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, d.path("root/usr/bin/backstay"), "run", "--config", d.path("etc/config.json"))
		cmd.Stdout, cmd.Stderr = log, log
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		d.mu.Lock()
		d.cmd = cmd
		d.mu.Unlock()
		if err := cmd.Start(); err != nil {
			fmt.Fprintf(log, "boot: %v\n", err)
			return
		}
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() == int(cli.ExitReboot) {
			return
		}
		fmt.Fprintf(log, "boot: agent ended with code %d\n", cmd.ProcessState.ExitCode())
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// chooseSlot is the boot script: the first slot of BOOT_ORDER with attempts left loses one and is started.
func (d *labDevice) chooseSlot() (slot string, err error) {
	err = boot.Update(d.env(), func(e *boot.Env) error {
		order, _ := e.Get("BOOT_ORDER")
		for s := range strings.FieldsSeq(order) {
			left, _ := e.Get("BOOT_" + s + "_LEFT")
			n, err := strconv.ParseInt(left, 16, 32)
			if err == nil && n > 0 {
				slot = s
				return e.Set("BOOT_"+s+"_LEFT", strconv.FormatInt(n-1, 16))
			}
		}
		return errors.New("no slot has attempts left: the device is bricked")
	})
	return slot, err
}

func (d *labDevice) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fmt.Errorf("%s: %w", d.name, err)
}

// status asks the running agent. An agent that is rebooting is an error like any other.
func (d *labDevice) status(ctx context.Context) (s control.Status, err error) {
	d.mu.Lock()
	err = d.fault
	d.mu.Unlock()
	if err == nil {
		err = (&control.Client{Socket: d.path("run/control.sock")}).Call(ctx, control.MethodStatus, control.None{}, &s)
	}
	return s, err
}

// call asks the running agent for something else.
func (d *labDevice) call(ctx context.Context, method string, result any) error {
	return (&control.Client{Socket: d.path("run/control.sock")}).Call(ctx, method, control.None{}, result)
}

// findings runs a command that answers with findings; that there are some is not an error.
func (d *labDevice) findings(ctx context.Context, args ...string) (f control.Findings, err error) {
	out, err := d.command(ctx, append([]string{args[0], args[1], "--json"}, args[2:]...)...)
	if exit, ok := errors.AsType[*labExit](err); ok && exit.code == int(cli.ExitFindings) {
		err = nil
	}
	if err != nil {
		return f, fmt.Errorf("%s: %w", d.name, err)
	}
	return f, json.Unmarshal(out, &f)
}

// restart makes the init system start the agent again.
func (d *labDevice) restart() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.Process.Signal(syscall.SIGTERM)
}
