// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/backstay/backstay/identity/ca"
	"github.com/backstay/backstay/update"
	"github.com/backstay/backstay/update/repo"
)

// labFleet is the other end of the wire: maker, operator and server. Its keys are made for one run of the lab.
type labFleet struct {
	dir  string
	self string // this program

	ca          []byte // PEM of the root devices pin
	factoryRoot []byte
	estURL      string
	repoURL     string
	brokerURL   string
	receiptKey  string

	server *exec.Cmd
}

func (f *labFleet) path(elem ...string) string {
	return filepath.Join(append([]string{f.dir}, elem...)...)
}

// create makes the authority and a repository whose root needs two of three keys.
func (f *labFleet) create() error {
	authority, err := ca.Create(f.path("ca"), ca.Options{Name: "TEST lab"})
	if err != nil {
		return err
	}
	f.ca = authority.RootPEM()
	r, err := repo.Create(f.path("repo"), repo.Options{}, repo.Setup{
		Root: repo.RoleKeys{Keys: []string{"file:keys/TEST-root-1.pem", "file:keys/TEST-root-2.pem", "file:keys/TEST-root-3.pem"}, Threshold: 2},
	})
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.AddProduct(labProduct, repo.RoleKeys{}); err != nil {
		return err
	}
	if _, err := r.SignAll(); err != nil {
		return err
	}
	if f.factoryRoot, err = r.FactoryRoot(); err != nil {
		return err
	}
	return f.serveDir(f.path("repo/public"))
}

// release adds an image, signs for it and rolls it out, to the named devices only if there are any. It is in force
// once published.
func (f *labFleet) release(ctx context.Context, version, image string, floor uint64, devices ...string) error {
	r, err := repo.Open(f.path("repo"), repo.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	file, err := os.Open(image)
	if err != nil {
		return err
	}
	defer file.Close()
	n := repo.NewRelease{Product: labProduct, Version: version, Compatible: []string{labCompatible}, Floor: floor, Class: "security", NoCompress: true}
	if _, err := r.Add(ctx, n, file); err != nil {
		return err
	}
	if _, err := r.SignAll(); err != nil {
		return err
	}
	_, err = r.StartRollout(repo.Rollout{Product: labProduct, Version: version, Devices: devices})
	return err
}

// rotateOnline replaces the keys of snapshot and timestamp: root 2 revokes the old ones.
func (f *labFleet) rotateOnline(ctx context.Context) error {
	r, err := repo.Open(f.path("repo"), repo.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	var root struct {
		Signed struct {
			Roles map[string]struct{ KeyIDs []string }
		}
	}
	if err := json.Unmarshal(f.factoryRoot, &root); err != nil {
		return err
	}
	var changes []repo.KeyChange
	for _, role := range []string{"snapshot", "timestamp"} {
		changes = append(changes, repo.KeyChange{Role: role, Add: []string{"file:keys/TEST-" + role + "-2.pem"}, Remove: root.Signed.Roles[role].KeyIDs})
	}
	if _, err := r.Rotate(changes...); err != nil {
		return err
	}
	if _, err := r.SignAll(); err != nil {
		return err
	}
	_, err = r.Publish(ctx)
	return err
}

// serveDir makes the server serve another directory from now on: the lab's attacker has taken over the mirror.
func (f *labFleet) serveDir(dir string) error {
	link, tmp := f.path("served"), f.path("served.new")
	if err := os.Symlink(dir, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, link)
}

// start starts the server as a process of its own and waits until it listens.
func (f *labFleet) start(ctx context.Context, more ...string) error {
	log, err := os.Create(f.path("server.log"))
	if err != nil {
		return err
	}
	args := append([]string{"serve", "--json", "--ca", f.path("ca"), "--repo", f.path("repo"), "--public", f.path("served"),
		"--collector", f.path("collector"), "--names", "localhost,127.0.0.1",
		"--listen-est", "127.0.0.1:0", "--listen-repo", "127.0.0.1:0"}, more...)
	cmd := exec.CommandContext(ctx, f.self, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	f.server = cmd
	var r struct {
		ready
		Message string // of an error
	}
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&r); err != nil || r.Message != "" {
		text, _ := os.ReadFile(f.path("server.log"))
		return fmt.Errorf("start server: %s %w\n%s", r.Message, err, text)
	}
	f.estURL, f.repoURL, f.brokerURL, f.receiptKey = r.EST, r.Repo, r.MQTT, r.ReceiptKey
	return nil
}

// stop ends the server and waits for it: the collector's store is then free to be verified.
func (f *labFleet) stop() error {
	if f.server == nil {
		return nil
	}
	if err := f.server.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := f.server.Wait()
	f.server = nil
	return err
}

// allow puts a device on the birth list.
func (f *labFleet) allow(d *labDevice) error {
	authority, err := ca.Load(f.path("ca"), ca.Options{})
	if err != nil {
		return err
	}
	return authority.Allow(ca.Device{ID: d.id, Serial: "LAB-" + d.name, Note: "TEST"})
}

// copyTree copies a directory; large files are linked, and must be replaced rather than written to.
func copyTree(from, to string) error {
	const link = 1 << 20
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if e.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Size() >= link {
			return os.Link(path, target)
		}
		return copyFile(path, target, info.Mode().Perm())
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// publishedImage is where the repository serves the image of a release.
func publishedImage(public, version string) (string, error) {
	dir, name := filepath.Split(filepath.Join(public, "targets", update.ImagePath(labProduct, version)))
	found, err := filepath.Glob(filepath.Join(dir, "*."+name))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("find image of %s: %d files, %w", version, len(found), err)
	}
	return found[0], nil
}

func (f *labFleet) republish(ctx context.Context) error {
	_, err := publish(ctx, f.path("repo"))
	return err
}
