// SPDX-License-Identifier: Apache-2.0

package flash

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// changeRequest is struct ubi_leb_change_req of the kernel's include/uapi/mtd/ubi-user.h. It is packed, and has no gaps.
type changeRequest struct {
	lnum, bytes int32
	dtype       int8
	_           [7]int8
}

// anyTerm is what ubi-user.h asks to put into dtype for kernels older than 3.5.
const anyTerm = 3

type volume struct {
	f    *os.File
	info VolumeInfo
}

// VolumePath returns the device node of a volume, given as "/dev/ubi0_1", "/dev/ubi0:name", or "/dev/mtd3:name" for a UBI
// device that is attached to that partition. sys is where sysfs is.
func VolumePath(sys, spec string) (string, error) {
	device, name, named := strings.Cut(spec, ":")
	if !named {
		return spec, nil
	}
	dir, base := filepath.Split(device)
	if n, isMTD := strings.CutPrefix(base, "mtd"); isMTD {
		ubi, err := onMTD(sys, n)
		if err != nil {
			return "", fmt.Errorf("find UBI volume %s: %w", spec, err)
		}
		base = ubi
	}
	if _, err := strconv.ParseUint(strings.TrimPrefix(base, "ubi"), 10, 16); err != nil {
		return "", fmt.Errorf("find UBI volume %s: %w: %s is not a UBI device", spec, ErrUBI, device)
	}
	all, err := filepath.Glob(filepath.Join(sys, "class/ubi", base+"_*"))
	if err != nil {
		return "", err
	}
	for _, v := range all {
		if attribute(v, "name") == name {
			return dir + filepath.Base(v), nil
		}
	}
	return "", fmt.Errorf("find UBI volume %s: %w: %s has no volume of that name", spec, ErrUBI, base)
}

// onMTD returns which UBI device is on a partition.
func onMTD(sys, number string) (string, error) {
	all, err := filepath.Glob(filepath.Join(sys, "class/ubi/ubi*"))
	if err != nil {
		return "", err
	}
	for _, u := range all {
		if !strings.Contains(filepath.Base(u), "_") && attribute(u, "mtd_num") == number {
			return filepath.Base(u), nil
		}
	}
	return "", fmt.Errorf("%w: no UBI device is attached to mtd%s (ubiattach -m %s)", ErrUBI, number, number)
}

// attribute reads a file of sysfs, and "" if it cannot.
func attribute(dir, name string) string {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := f.Read(b)
	return strings.TrimSpace(string(b[:n]))
}

// OpenVolume opens a volume, see [VolumePath].
func OpenVolume(spec string, write bool) (Volume, error) { return openVolume("/sys", spec, write) }

func openVolume(sys, spec string, write bool) (Volume, error) {
	path, err := VolumePath(sys, spec)
	if err != nil {
		return nil, err
	}
	// The node may have any name, sysfs knows it by its number only.
	dir, err := volumeDir(sys, path)
	if err != nil {
		return nil, fmt.Errorf("open UBI volume %s: %w", spec, err)
	}
	number := func(name string) int64 {
		n, e := strconv.ParseInt(attribute(dir, name), 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("open UBI volume %s: %w: its %s cannot be read", spec, ErrUBI, name)
		}
		return n
	}
	info := VolumeInfo{LEB: number("usable_eb_size"), Data: number("data_bytes"), Static: attribute(dir, "type") == "static"}
	info.Size = number("reserved_ebs") * info.LEB
	info.Damaged = number("upd_marker") != 0 || number("corrupted") != 0
	if err != nil {
		return nil, err
	}
	mode := os.O_RDONLY
	if write {
		mode = os.O_RDWR
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, err
	}
	return &volume{f: f, info: info}, nil
}

func volumeDir(sys, path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return "", fmt.Errorf("%w: %s is not a character device", ErrUBI, path)
	}
	rdev := uint64(st.Rdev) //nolint:unconvert // it has 32 bits on some architectures
	number := fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev))
	all, err := filepath.Glob(filepath.Join(sys, "class/ubi/ubi*_*"))
	if err != nil {
		return "", err
	}
	for _, v := range all {
		if attribute(v, "dev") == number {
			return v, nil
		}
	}
	return "", fmt.Errorf("%w: %s is not a volume", ErrUBI, path)
}

func (v *volume) Info() VolumeInfo { return v.info }
func (v *volume) Close() error     { return v.f.Close() }

func (v *volume) ReadAt(p []byte, off int64) (int, error) {
	n, err := v.f.ReadAt(p, off)
	if errors.Is(err, unix.EBADF) {
		return n, fmt.Errorf("%w: an update of the volume was cut: %w", ErrUBI, err)
	}
	return n, err
}

func (v *volume) Update(n int64) (io.WriteCloser, error) {
	if n <= 0 || n > v.info.Size {
		return nil, fmt.Errorf("update %s: %w: %d bytes into a volume of %d", v.f.Name(), ErrUBI, n, v.info.Size)
	}
	if _, err := ioctl(v.f, unix.UBI_IOCVOLUP, &n); err != nil {
		return nil, fmt.Errorf("update %s: %w", v.f.Name(), err)
	}
	return &updater{v: v, left: n}, nil
}

// updater passes bytes on and counts them: the kernel ends the update at the last one.
type updater struct {
	v    *volume
	left int64
}

func (u *updater) Write(p []byte) (int, error) {
	if int64(len(p)) > u.left {
		return 0, fmt.Errorf("update %s: %w: more bytes than announced", u.v.f.Name(), ErrUBI)
	}
	n, err := u.v.f.Write(p)
	u.left -= int64(n)
	return n, err
}

func (u *updater) Close() error {
	if u.left > 0 {
		return fmt.Errorf("update %s: %w: %d bytes are missing", u.v.f.Name(), ErrUBI, u.left)
	}
	return u.v.f.Sync()
}

func (v *volume) Change(leb int, p []byte) error {
	if leb < 0 || len(p) == 0 || int64(len(p)) > v.info.LEB || int64(leb) >= v.info.Size/v.info.LEB || v.info.Static {
		return fmt.Errorf("change block %d of %s: %w: it has none of %d bytes", leb, v.f.Name(), ErrUBI, len(p))
	}
	if _, err := ioctl(v.f, unix.UBI_IOCEBCH, &changeRequest{lnum: int32(leb), bytes: int32(len(p)), dtype: anyTerm}); err != nil {
		return fmt.Errorf("change block %d of %s: %w", leb, v.f.Name(), err)
	}
	if _, err := v.f.Write(p); err != nil {
		return fmt.Errorf("change block %d of %s: %w", leb, v.f.Name(), err)
	}
	return v.f.Sync()
}

// Erase waits for the flash. A block that is only unmapped comes back with its old bytes after a cut.
func (v *volume) Erase(leb int) error {
	arg := int32(leb)
	mapped, err := ioctl(v.f, unix.UBI_IOCEBISMAP, &arg)
	if err == nil && mapped > 0 {
		_, err = ioctl(v.f, unix.UBI_IOCEBER, &arg)
	}
	if err != nil {
		return fmt.Errorf("erase block %d of %s: %w", leb, v.f.Name(), err)
	}
	return nil
}
