// SPDX-License-Identifier: Apache-2.0

// Package component updates the parts of a device beside its image: a file, a directory tree, and whatever a maker's own program
// can reach, such as a microcontroller or an FPGA.
//
// It owns how the bytes of a component get to a place it does not run from, the proof that they are there, and the switch and its
// way back. When these happen, and that all happen or none, is for package update.
//
// Nothing looks into the bytes before their digest, read again from where they were put, is the signed one. A program of the
// maker's gets them earlier, because it is the one that puts them; it must not act on them before it is told to activate.
//
// Who may write the configuration chooses the program that runs with the agent's rights. Who may write beside a component's path
// can change what becomes active after it was checked. An attacker who controls a tree that is signed can fill its file system up
// to the signed length, and reach nothing outside.
package component

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/update"
)

// Kinds of components.
const (
	File    = "file"    // one file, replaced as a whole
	Tree    = "tree"    // a directory with everything in it, replaced as a whole by what a tar archive holds
	Handler = "handler" // what a program of the maker's reaches
)

// Config says what one component is.
type Config struct {
	Name    string
	Kind    string
	Path    string        // File, Tree: absolute
	Argv    []string      // Handler: program, as an absolute path, and the arguments before the operation
	Timeout time.Duration // Handler: longest time one operation may take; default 10 minutes
}

const defaultTimeout = 10 * time.Minute

// part is one component.
type part interface {
	runs(ctx context.Context, c update.Component) (bool, error)
	install(ctx context.Context, c update.Component, image io.Reader) error
	activate(ctx context.Context, c update.Component) error
	rollback(ctx context.Context, c update.Component) error
}

// Set is the components of a device. It implements update.Components.
type Set struct{ parts map[string]part }

// Open checks the configuration, and finishes a switch that a cut has left half done.
func Open(all []Config) (*Set, error) {
	s := &Set{parts: map[string]part{}}
	for _, c := range all {
		fail := func(format string, args ...any) error {
			return fmt.Errorf("open component %q: %w: %w", c.Name, update.ErrSetup, fmt.Errorf(format, args...))
		}
		if _, twice := s.parts[c.Name]; twice || c.Name == "" {
			return nil, fail("the name is missing or there twice")
		}
		switch {
		case c.Kind == Handler && (len(c.Argv) == 0 || !filepath.IsAbs(c.Argv[0])):
			return nil, fail("the program is no absolute path")
		case c.Kind == Handler:
			s.parts[c.Name] = &handler{c}
		case c.Kind != File && c.Kind != Tree:
			return nil, fail("kind %q is none of %s, %s and %s", c.Kind, File, Tree, Handler)
		case !filepath.IsAbs(c.Path) || filepath.Clean(c.Path) == "/":
			return nil, fail("path %q is not an absolute path below the root", c.Path)
		case c.Kind == File:
			s.parts[c.Name] = &file{pair{filepath.Clean(c.Path)}}
		default:
			s.parts[c.Name] = &tree{pair{filepath.Clean(c.Path)}}
		}
		if c.Kind != Handler {
			if err := (pair{filepath.Clean(c.Path)}).recover(); err != nil {
				return nil, fail("%w", err)
			}
		}
	}
	return s, nil
}

func (s *Set) part(c update.Component) (part, error) {
	p, ok := s.parts[c.Name]
	if !ok {
		return nil, &update.Refusal{Code: update.CodeNoComponent, What: "component " + c.Name, Why: "this device has none of that name"}
	}
	return p, nil
}

// Runs reports whether a component runs what c says.
func (s *Set) Runs(ctx context.Context, c update.Component) (bool, error) {
	p, err := s.part(c)
	if err != nil {
		return false, err
	}
	return p.runs(ctx, c)
}

// Install puts the bytes beside what runs, and compares them with the signed digest.
func (s *Set) Install(ctx context.Context, c update.Component, image io.Reader) error {
	p, err := s.part(c)
	if err != nil {
		return err
	}
	return p.install(ctx, c, image)
}

// Activate switches to what was installed.
func (s *Set) Activate(ctx context.Context, c update.Component) error {
	p, err := s.part(c)
	if err != nil {
		return err
	}
	return p.activate(ctx, c)
}

// Rollback switches back.
func (s *Set) Rollback(ctx context.Context, c update.Component) error {
	p, err := s.part(c)
	if err != nil {
		return err
	}
	return p.rollback(ctx, c)
}

// pair is a path and the place beside it, PATH.new, where the other of two versions is: the one to come, and after the switch
// the one before.
type pair struct{ path string }

func (p pair) other() string { return p.path + ".new" }

// aside is where the old one is for a moment, on a file system that cannot exchange two names.
func (p pair) aside() string { return p.path + ".old" }

// swap exchanges the two, as one step where the file system can: most can, overlayfs and vfat among others cannot. What is
// missing at path is simply put there.
func (p pair) swap() error {
	defer syncDir(filepath.Dir(p.path))
	if _, err := os.Lstat(p.path); os.IsNotExist(err) {
		return os.Rename(p.other(), p.path)
	}
	err := unix.Renameat2(unix.AT_FDCWD, p.other(), unix.AT_FDCWD, p.path, unix.RENAME_EXCHANGE)
	if err == nil {
		return nil
	}
	if err != unix.EINVAL && err != unix.ENOSYS && err != unix.EOPNOTSUPP {
		return fmt.Errorf("exchange %s and %s: %w", p.other(), p.path, err)
	}
	return p.swapSlowly()
}

// swapSlowly has a moment without anything at path, which recover ends after a cut.
func (p pair) swapSlowly() error {
	if err := os.RemoveAll(p.aside()); err != nil {
		return err
	}
	for _, step := range [][2]string{{p.path, p.aside()}, {p.other(), p.path}, {p.aside(), p.other()}} {
		if err := os.Rename(step[0], step[1]); err != nil {
			return err
		}
		if err := syncDir(filepath.Dir(p.path)); err != nil {
			return err
		}
	}
	return nil
}

// recover finishes a slow swap: with nothing at path what was there comes back, and with something there the rest is put in order.
func (p pair) recover() error {
	if _, err := os.Lstat(p.aside()); err != nil {
		return nil
	}
	to := p.path
	if _, err := os.Lstat(p.path); err == nil {
		to = p.other()
	}
	if _, err := os.Lstat(to); err == nil {
		return os.RemoveAll(p.aside()) // both are there: it is a rest of an earlier swap
	}
	if err := os.Rename(p.aside(), to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(p.path))
}

// put writes the bytes of a component to a file and compares what it reads again with what is signed.
func put(ctx context.Context, path string, c update.Component, image io.Reader) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 128<<10)
	for at := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := image.Read(buf)
		if at += int64(n); at > c.Length {
			return wrong(c, update.CodeWrongLength, "it is longer than the signed %d bytes", c.Length)
		}
		if _, err := f.Write(buf[:n]); err != nil {
			return err
		}
		if err == io.EOF && at < c.Length {
			return fmt.Errorf("it ends at %d of %d bytes: %w", at, c.Length, update.ErrRetry)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	sum, err := again(f)
	if err != nil {
		return err
	}
	if sum != c.SHA256 {
		return wrong(c, update.CodeBadHash, "its SHA-256 is %x, signed is %x", sum, c.SHA256)
	}
	return nil
}

func wrong(c update.Component, code, format string, args ...any) error {
	return &update.Refusal{Code: code, What: "component " + c.Name + " " + c.Version, Why: fmt.Sprintf(format, args...)}
}

// again computes the digest of a file from the medium.
func again(f *os.File) (sum [32]byte, err error) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return sum, err
	}
	return [32]byte(h.Sum(nil)), nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
