// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/identity/ca"
	"github.com/backstay/backstay/update/boot"
	"github.com/backstay/backstay/update/repo"
)

// fleet is the server of the operator, `backstayctl serve`, and its repository.
type fleet struct {
	dir, bin string
	root     []byte
	ready    struct {
		EST, Repo, MQTT string
		ReceiptKey      string `json:"receipt_key"`
	}
	server *exec.Cmd
}

const product, compatible = "bench-cam", "bench-cam-v1"

// startFleet makes an authority and a repository with a release for each image, and serves them.
func startFleet(ctx context.Context, dir, bin string, images []image) (*fleet, error) {
	f := &fleet{dir: dir, bin: bin}
	if _, err := ca.Create(f.path("ca"), ca.Options{Name: "TEST bench"}); err != nil {
		return nil, err
	}
	r, err := repo.Create(f.path("repo"), repo.Options{}, repo.Setup{
		Root: repo.RoleKeys{Keys: []string{"file:keys/TEST-root-1.pem", "file:keys/TEST-root-2.pem", "file:keys/TEST-root-3.pem"}, Threshold: 2},
	})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := r.AddProduct(product, repo.RoleKeys{}); err != nil {
		return nil, err
	}
	if _, err := r.SignAll(); err != nil {
		return nil, err
	}
	if f.root, err = r.FactoryRoot(); err != nil {
		return nil, err
	}
	if _, err := r.Publish(ctx); err != nil {
		return nil, err
	}
	if err := os.CopyFS(f.path("nothing"), os.DirFS(f.path("repo/public"))); err != nil {
		return nil, err
	}
	for _, img := range images {
		if err := f.release(ctx, r, img); err != nil {
			return nil, err
		}
	}
	if err := f.offer("nothing"); err != nil {
		return nil, err
	}
	return f, f.start(ctx)
}

// release publishes an image and keeps the metadata that offer it.
func (f *fleet) release(ctx context.Context, r *repo.Repo, img image) error {
	in, err := os.Open(img.path)
	if err != nil {
		return err
	}
	defer in.Close()
	n := repo.NewRelease{Product: product, Version: img.version, Compatible: []string{compatible}, Class: "security"}
	if _, err := r.Add(ctx, n, in); err != nil {
		return err
	}
	if _, err := r.SignAll(); err != nil {
		return err
	}
	if _, err := r.StartRollout(repo.Rollout{Product: product, Version: img.version}); err != nil {
		return err
	}
	if _, err := r.Publish(ctx); err != nil {
		return err
	}
	// The images stay where they are.
	if err := os.CopyFS(f.path(img.version+"/metadata"), os.DirFS(f.path("repo/public/metadata"))); err != nil {
		return err
	}
	return os.CopyFS(f.path(img.version+"/targets"), os.DirFS(f.path("repo/public/targets")))
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

// offer makes the server serve one of the sets of metadata.
func (f *fleet) offer(set string) error {
	if err := os.Symlink(f.path(set), f.path("served.new")); err != nil {
		return err
	}
	return os.Rename(f.path("served.new"), f.path("served"))
}

func (f *fleet) start(ctx context.Context) error {
	log, err := os.Create(f.path("server.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	f.server = exec.CommandContext(ctx, filepath.Join(f.bin, "backstayctl"), "serve", "--json", "--ca", f.path("ca"), "--public", f.path("served"),
		"--collector", f.path("collector"), "--names", "localhost,127.0.0.1", "--listen-est", "127.0.0.1:0", "--listen-repo", "127.0.0.1:0",
		"--listen-mqtt", "127.0.0.1:0")
	f.server.Stderr = log
	out, err := f.server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := f.server.Start(); err != nil {
		return err
	}
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&f.ready); err != nil || f.ready.Repo == "" {
		text, _ := os.ReadFile(f.path("server.log"))
		return fmt.Errorf("start backstayctl serve: %w\n%s", err, text)
	}
	return nil
}

func (f *fleet) stop() {
	if f.server != nil && f.server.Process != nil {
		_ = f.server.Process.Signal(syscall.SIGTERM)
		_ = f.server.Wait()
	}
}

// box is one device: what a product ships, with everything switched on or with the update alone.
type box struct {
	b    *bench
	dir  string
	name string
}

func (b *bench) ours(ctx context.Context) (out []contender, err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "fleet")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if b.fleet, err = startFleet(ctx, dir, b.bin, b.images); err != nil {
		return nil, err
	}
	for _, kind := range []struct {
		name     string
		all      bool
		profiles []string
	}{{"backstay, everything on", true, []string{"base"}}, {"backstay, without audit sources", false, []string{"base"}}, {"backstay, updates alone", false, []string{}}} {
		d := &box{b: b, dir: filepath.Join(b.dir, fmt.Sprintf("device-%d", len(out))), name: kind.name}
		if err := d.make(ctx, kind.all, kind.profiles); err != nil {
			return nil, fmt.Errorf("%s: %w", kind.name, err)
		}
		out = append(out, contender{kind.name, d.install})
	}
	return out, nil
}

func (d *box) path(name string) string { return filepath.Join(d.dir, name) }

const envSize = 0x4000

func (d *box) make(ctx context.Context, all bool, profiles []string) error {
	f := d.b.fleet
	authority, err := ca.Load(f.path("ca"), ca.Options{})
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{"root/etc/os-release": []byte("ID=bench\nVERSION_ID=1.0.0\n"), "cmdline": []byte("quiet backstay.slot=A\n"),
		"root.json": f.root, "ca.pem": authority.RootPEM(), "serial": []byte("BENCH\n"), "fw_env.config": fmt.Appendf(nil, "%[1]s 0x0 0x%[2]x\n%[1]s 0x%[2]x 0x%[2]x\n", d.path("env"), envSize)} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(d.path(name)), 0o755), os.WriteFile(d.path(name), b, 0o644)); err != nil {
			return err
		}
	}
	if err := d.configure(all, profiles); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(d.b.bin, "backstay"), "identity", "init", "--json", "--config", d.path("config.json")).Output()
	if err != nil {
		return fmt.Errorf("identity init: %w", err)
	}
	var birth struct{ ID string }
	if err := errors.Join(json.Unmarshal(out, &birth), authority.Allow(ca.Device{ID: birth.ID, Serial: "BENCH", Note: "TEST"})); err != nil {
		return err
	}
	// Once to enrol and for the first looks; what it is then is what every measurement begins with.
	a, err := d.boot(ctx)
	if err != nil {
		return err
	}
	if err := a.stop(); err != nil {
		return err
	}
	return os.CopyFS(d.path("state.kept"), os.DirFS(d.path("state")))
}

func (d *box) configure(all bool, profiles []string) error {
	f := d.b.fleet
	off := []string{"all"}
	if all {
		off = []string{}
	}
	c := map[string]any{
		"state_dir": d.path("state"), "run_dir": d.path("run"),
		"product": map[string]any{"name": product, "compatible": compatible, "os_release": d.path("root/etc/os-release"), "serial_file": d.path("serial")},
		"server":  map[string]any{"ca_file": d.path("ca.pem")},
		"update":  map[string]any{"root_file": d.path("root.json"), "metadata_url": f.ready.Repo + "/metadata/", "targets_url": f.ready.Repo + "/targets/"},
		"slots": map[string]any{"A": map[string]any{"kind": "block", "path": d.b.slotA.dev},
			"B": map[string]any{"kind": "block", "path": d.b.slotB.dev}},
		"booted":   map[string]any{"cmdline": d.path("cmdline")},
		"boot":     map[string]any{"kind": "uboot", "fw_env_config": d.path("fw_env.config"), "convention": "rauc"},
		"reboot":   map[string]any{"method": "exit"},
		"identity": map[string]any{"est_url": f.ready.EST},
		"baseline": map[string]any{"profiles": profiles, "root": d.path("root")},
		"audit":    map[string]any{"sources": map[string]any{"off": off}, "brokers": []string{f.ready.MQTT}, "receipt_keys": []string{f.ready.ReceiptKey}},
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(d.path("config.json"), b, 0o644)
}

// running is an agent that has nothing to do.
type running struct {
	d   *box
	cmd *exec.Cmd
	out bytes.Buffer
	api *control.Client
}

// boot starts the agent from slot A and waits until it has enrolled, has reached its servers and is quiet.
func (d *box) boot(ctx context.Context) (*running, error) {
	if err := os.WriteFile(d.path("env"), make([]byte, 2*envSize), 0o600); err != nil {
		return nil, err
	}
	env := boot.Config{Areas: []boot.Area{{Path: d.path("env"), Size: envSize}, {Path: d.path("env"), Offset: envSize, Size: envSize}}}
	if err := boot.Create(env, binary.LittleEndian, []string{"BOOT_ORDER=A B", "BOOT_A_LEFT=3", "BOOT_B_LEFT=0"}); err != nil {
		return nil, err
	}
	if err := d.b.fleet.offer("nothing"); err != nil {
		return nil, err
	}
	r := &running{d: d, api: &control.Client{Socket: d.path("run/control.sock")}}
	r.cmd = exec.CommandContext(ctx, filepath.Join(d.b.bin, "backstay"), "run", "--config", d.path("config.json"))
	r.cmd.Stderr = &r.out
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var s control.Status
		if r.api.Call(ctx, control.MethodStatus, control.None{}, &s) == nil && s.Identity.Enrolled && s.Audit.Connected && !s.Update.CheckedAt.IsZero() {
			return r, r.quiet(ctx)
		}
	}
	_ = r.stop()
	return nil, fmt.Errorf("the agent does not come to rest:\n%s", r.out.Bytes())
}

// quiet waits until the processor time stands still for a second.
func (r *running) quiet(ctx context.Context) error {
	last := cpuOf(r.cmd.Process.Pid)
	for still, n := 0, 0; still < 10 && n < 200; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
		now := cpuOf(r.cmd.Process.Pid)
		if still++; now-last > 10*time.Millisecond {
			still = 0
		}
		last = now
	}
	return nil
}

func (r *running) stop() error {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	if err := r.cmd.Wait(); err != nil {
		return fmt.Errorf("stop agent: %w\n%s", err, r.out.Bytes())
	}
	return nil
}

// install lets the agent of a device that was idle install img; the clock runs from the command to the end of the process,
// which asks for the reboot.
func (d *box) install(ctx context.Context, img image) (s sample, err error) {
	if err := errors.Join(os.RemoveAll(d.path("state")), os.CopyFS(d.path("state"), os.DirFS(d.path("state.kept"))), private(d.path("state"))); err != nil {
		return s, err
	}
	r, err := d.boot(ctx)
	if err != nil {
		return s, err
	}
	pid := r.cmd.Process.Pid
	s.idle = status(pid, "VmRSS")
	s.plain = status(pid, "RssAnon")
	if d.b.maps {
		fmt.Fprintf(os.Stderr, "%s\n%s", d.name, mappings(pid))
	}
	if err := d.b.fleet.offer(img.version); err != nil {
		return s, err
	}
	before, began := cpuOf(pid), time.Now()
	s.start = status(pid, "VmHWM")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil { // the peak counts from here on
		return s, err
	}
	peak := watch(pid)
	var c control.UpdateCheck
	if err := r.api.Call(ctx, control.MethodUpdateInstall, control.None{}, &c); err != nil {
		_ = r.stop()
		return s, fmt.Errorf("install: %w\n%s", err, r.out.Bytes())
	}
	if d.b.maps {
		time.AfterFunc(300*time.Millisecond, func() { fmt.Fprintf(os.Stderr, "%s, in the download\n%s", d.name, mappings(pid)) })
	}
	err = r.cmd.Wait()
	s.wall, s.rss = time.Since(began), peak()
	s.cpu = r.cmd.ProcessState.UserTime() + r.cmd.ProcessState.SystemTime() - before
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 4 {
		return s, fmt.Errorf("the agent ended with %w, not for a reboot\n%s", err, r.out.Bytes())
	}
	return s, nil
}

// private gives copied files the modes that the agent insists on.
func private(dir string) error {
	return filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
}
