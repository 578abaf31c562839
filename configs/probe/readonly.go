// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"io"
	"os"
)

// CopyOut writes into f what the file of c would be after an Edit or a Chmod: bytes, owner, mode and attributes. It is for a
// file system that cannot be written; the caller puts the copy where the file is.
func (h *Host) CopyOut(c Change, f *os.File) error {
	r, err := openRegular(h.tree, rel(c.Path))
	if err != nil {
		return err
	}
	defer r.Close()
	old, ok := r.(*os.File)
	if !ok {
		return errors.New("an image is read only")
	}
	if c.Op == Edit {
		if err := h.same(c); err != nil {
			return err
		}
		_, err = f.Write(c.After)
	} else {
		_, err = io.Copy(f, io.LimitReader(old, MaxFile))
	}
	if err != nil {
		return err
	}
	if err := likeFile(f, old); err != nil {
		return err
	}
	if c.Op == Chmod {
		return f.Chmod(c.Mode & permBits)
	}
	return nil
}
