// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// The lab's firmware images are tar archives: files to lay over the device's root directory, as a boot script would mount a
// slot. The agent under test is part of the image, so a new image really starts a new agent.

// maxLabImage bounds what the boot stub unpacks from a slot, in bytes.
const maxLabImage = 64 << 20

type labFile struct {
	name string
	mode int64
	data []byte
}

// writeLabImage writes an image of the given release to path. selftest is the exit code of the program that the health check
// runs: 0 for a good image.
func writeLabImage(path, product, version string, agent []byte, selftest int) error {
	files := []labFile{
		{"etc/os-release", 0o644, fmt.Appendf(nil, "ID=%s\nVERSION_ID=%s\n", product, version)},
		{"usr/bin/backstay", 0o755, agent},
		{"usr/bin/product-selftest", 0o755, fmt.Appendf(nil, "#!/bin/sh\nexit %d\n", selftest)},
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	for _, file := range files {
		h := &tar.Header{Name: file.name, Mode: file.mode, Size: int64(len(file.data)), Format: tar.FormatUSTAR}
		if err = w.WriteHeader(h); err != nil {
			break
		}
		if _, err = w.Write(file.data); err != nil {
			break
		}
	}
	if err := errors.Join(err, w.Close(), f.Close()); err != nil {
		return fmt.Errorf("write image %s: %w", path, err)
	}
	return nil
}

// unpackLabImage lays the image in the slot file over root. An error means that the slot cannot be booted.
func unpackLabImage(slot, root string) error {
	f, err := os.Open(slot)
	if err != nil {
		return err
	}
	defer f.Close()
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	files := 0
	for r := tar.NewReader(io.LimitReader(f, maxLabImage)); ; files++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) && files > 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", slot, err)
		}
		if err := unpackFile(dir, h, r); err != nil {
			return fmt.Errorf("unpack %s: %s: %w", slot, h.Name, err)
		}
	}
}

func unpackFile(dir *os.Root, h *tar.Header, r io.Reader) error {
	if err := dir.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
		return err
	}
	tmp := h.Name + ".unpack" // the old file may be a program that still runs
	w, err := dir.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, os.FileMode(h.Mode)&0o777)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	return dir.Rename(tmp, h.Name)
}

// labVersion returns the firmware version of the root directory.
func labVersion(root string) string {
	b, _ := os.ReadFile(filepath.Join(root, "etc/os-release"))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VERSION_ID="); ok {
			return strings.TrimSpace(v)
		}
	}
	return "?"
}
