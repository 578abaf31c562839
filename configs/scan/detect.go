// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"bytes"
	"errors"
	"io"
)

// format is a kind of image, known by bytes at a place.
type format struct {
	name   string
	magics []magic
	unpack string // how to make of it what can be scanned; empty for those that can be
}

type magic struct {
	at    int64
	bytes string
}

// formats are tried in order. Names of files say nothing: build systems call everything .img or .bin.
func formats() []format {
	return []format{
		{name: kindSquashfs, magics: []magic{{0, "hsqs"}}},
		{name: kindExt, magics: []magic{{1024 + 56, "\x53\xef"}}},
		{name: kindTar, magics: []magic{{257, "ustar"}}},
		{name: kindCPIO, magics: []magic{{0, cpioMagic}, {0, cpioCRC}}},
		{name: "big-endian or vendor's squashfs", magics: []magic{{0, "sqsh"}, {0, "shsq"}, {0, "qshs"}, {0, "tqsh"}, {0, "hsqt"}, {0, "sqlz"}},
			unpack: "sasquatch -d ROOT IMAGE, then scan ROOT"},
		{name: "cpio, old format", magics: []magic{{0, "070707"}, {0, "\xc7\x71"}, {0, "\x71\xc7"}},
			unpack: "mkdir ROOT && cd ROOT && cpio -id < IMAGE, then scan ROOT with --assume-root"},
		{name: "UBI", magics: []magic{{0, "UBI#"}}, unpack: "ubireader_extract_images IMAGE (pip package ubi_reader); scan the squashfs it finds, or ubireader_extract_files for UBIFS and scan the directory"},
		{name: "UBIFS", magics: []magic{{0, "\x31\x18\x10\x06"}}, unpack: "ubireader_extract_files -k IMAGE (pip package ubi_reader), then scan the directory"},
		{name: "JFFS2", magics: []magic{{0, "\x85\x19"}, {0, "\x19\x85"}}, unpack: "jefferson -d ROOT IMAGE (pip package jefferson), then scan ROOT; better, scan the tar of the same build"},
		{name: "cramfs", magics: []magic{{0, "\x45\x3d\xcd\x28"}, {0, "\x28\xcd\x3d\x45"}, {512, "\x45\x3d\xcd\x28"}}, unpack: "cramfsck -x ROOT IMAGE (package cramfsswap or util-linux fsck.cramfs --extract=ROOT), then scan ROOT"},
		{name: "EROFS", magics: []magic{{1024, "\xe2\xe1\xf5\xe0"}}, unpack: "fsck.erofs --extract=ROOT IMAGE (package erofs-utils), then scan ROOT"},
		{name: "romfs", magics: []magic{{0, "-rom1fs-"}}, unpack: "mount it read only and scan the directory, or scan the tar of the same build"},
		{name: "F2FS", magics: []magic{{1024, "\x10\x20\xf5\xf2"}}, unpack: "mount it read only and scan the directory, or scan the tar of the same build"},
		{name: "Btrfs", magics: []magic{{0x10040, "_BHRfS_M"}}, unpack: "btrfs restore -S -m IMAGE ROOT, then scan ROOT; better, scan the tar of the same build"},
		{name: "XFS", magics: []magic{{0, "XFSB"}}, unpack: "mount it read only and scan the directory, or scan the tar of the same build"},
		{name: "ISO 9660", magics: []magic{{32769, "CD001"}}, unpack: "bsdtar -xf IMAGE -C ROOT (package libarchive-tools); then scan the root file system in it"},
		{name: "Android sparse image", magics: []magic{{0, "\x3a\xff\x26\xed"}}, unpack: "simg2img IMAGE RAW (package android-sdk-libsparse-utils), then scan RAW"},
		{name: "U-Boot image", magics: []magic{{0, "\x27\x05\x19\x56"}}, unpack: "dumpimage -T ramdisk -p 0 -o OUT IMAGE (package u-boot-tools), then scan OUT"},
		{name: "device tree or FIT image", magics: []magic{{0, "\xd0\x0d\xfe\xed"}}, unpack: "dumpimage -l IMAGE; dumpimage -T flat_dt -p N -o OUT IMAGE (package u-boot-tools), then scan OUT"},
		{name: "qcow2 disk", magics: []magic{{0, "QFI\xfb"}}, unpack: "qemu-img convert -O raw IMAGE RAW, then scan RAW with --partition"},
		{name: "VMDK disk", magics: []magic{{0, "KDMV"}}, unpack: "qemu-img convert -O raw IMAGE RAW, then scan RAW with --partition"},
		{name: "ZIP archive", magics: []magic{{0, "PK\x03\x04"}}, unpack: "unzip IMAGE, then scan the image in it"},
		{name: "7z archive", magics: []magic{{0, "7z\xbc\xaf\x27\x1c"}}, unpack: "7z x IMAGE, then scan the image in it"},
		{name: "ELF program", magics: []magic{{0, "\x7fELF"}}, unpack: "name the root file system, not a program"},
	}
}

// The kinds that can be scanned.
const (
	kindDir      = "directory"
	kindTar      = "tar"
	kindCPIO     = "cpio"
	kindSquashfs = "squashfs"
	kindExt      = "ext4"
)

// formatOf recognises an image by its content.
func formatOf(r io.ReaderAt) (format, bool) {
	for _, f := range formats() {
		for _, m := range f.magics {
			if hasMagic(r, m) && (f.name != kindExt || isExt(r)) {
				return f, true
			}
		}
	}
	if isOldTar(r) {
		return format{name: kindTar}, true
	}
	return format{}, false
}

func hasMagic(r io.ReaderAt, m magic) bool {
	buf := make([]byte, len(m.bytes))
	n, err := r.ReadAt(buf, m.at)
	return n == len(buf) && (err == nil || errors.Is(err, io.EOF)) && string(buf) == m.bytes
}

// isOldTar knows archives of before POSIX, which have no magic, by the sum in their first header.
func isOldTar(r io.ReaderAt) bool {
	var h [tarBlock]byte
	if n, _ := r.ReadAt(h[:], 0); n < len(h) || h[0] == 0 {
		return false
	}
	want, digits := int64(0), 0
	for _, c := range bytes.Trim(h[148:156], " \x00") {
		if c < '0' || c > '7' {
			return false
		}
		want, digits = want*8+int64(c-'0'), digits+1
	}
	var sum int64
	for i, c := range h {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int64(c)
	}
	return digits > 0 && sum == want
}
