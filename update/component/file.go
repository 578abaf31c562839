// SPDX-License-Identifier: Apache-2.0

package component

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/backstay/backstay/update"
)

// file is a component that is one file. What it runs is told by its digest.
type file struct{ pair }

func holds(path string, c update.Component) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	sum, err := again(f)
	return sum == c.SHA256, err
}

func (f *file) runs(_ context.Context, c update.Component) (bool, error) { return holds(f.path, c) }

// install gives the new file the mode and owner of the old one.
func (f *file) install(ctx context.Context, c update.Component, image io.Reader) error {
	if err := put(ctx, f.other(), c, image); err != nil {
		return err
	}
	mode, uid, gid := fs.FileMode(0o644), -1, -1
	if st, err := os.Stat(f.path); err == nil {
		mode = st.Mode().Perm()
		uid, gid = owner(st)
	}
	if err := os.Chmod(f.other(), mode); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		return os.Chown(f.other(), uid, gid)
	}
	return nil
}

func (f *file) activate(_ context.Context, c update.Component) error {
	if done, err := holds(f.path, c); done || err != nil {
		return err
	}
	if ready, err := holds(f.other(), c); err != nil || !ready {
		return errors.Join(err, fmt.Errorf("%s does not hold it any more", f.other()))
	}
	return f.swap()
}

func (f *file) rollback(_ context.Context, c update.Component) error {
	if active, err := holds(f.path, c); !active || err != nil {
		return err
	}
	return f.back()
}

// back exchanges the two again. Where there was nothing before, there is nothing again.
func (p pair) back() error {
	if _, err := os.Lstat(p.other()); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(p.path, p.other())
	}
	return p.swap()
}
