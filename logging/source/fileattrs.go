// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/hex"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// attrs describes a change from old to now, each nil where there is none.
func (f *fileWatcher) attrs(message, name string, down bool, old, now *look, st *unix.Stat_t) []slog.Attr {
	attrs := []slog.Attr{slog.String("message", message), slog.String("path", name)}
	content := old == nil || now == nil || !old.sameContent(*now)
	if old != nil && content && !old.isDir() {
		attrs = append(attrs, slog.String("before", hex.EncodeToString(old.sum[:])))
	}
	if now != nil {
		if content && !now.isDir() {
			attrs = append(attrs, slog.String("after", hex.EncodeToString(now.sum[:])), slog.Int64("size", now.size))
		}
		attrs = append(attrs, slog.String("mode", modeText(now.mode)), slog.Uint64("owner", uint64(now.uid)), slog.Uint64("group", uint64(now.gid)))
		if now.part {
			attrs = append(attrs, slog.Bool("hash_of_beginning", true))
		}
		if now.mode&unix.S_IFMT == unix.S_IFLNK {
			if target, err := os.Readlink(f.env.Path(name)); err == nil {
				attrs = append(attrs, slog.String("target", cut(target)))
			}
		}
	}
	if old != nil && now != nil && !old.sameAttributes(*now) {
		attrs = append(attrs, slog.String("mode_before", modeText(old.mode)), slog.Uint64("owner_before", uint64(old.uid)), slog.Uint64("group_before", uint64(old.gid)))
	}
	if now != nil && now.mode&unix.S_ISUID != 0 && now.uid == 0 && (old == nil || old.mode&unix.S_ISUID == 0) {
		attrs = append(attrs, slog.String("severity", "high"))
	}
	if st != nil {
		attrs = append(attrs, f.env.writers.of(st)...)
	}
	if down {
		attrs = append(attrs, slog.Bool("while_down", true))
	}
	return attrs
}

// modeText writes a mode as ls and chmod do together: "-0644", "d1777", "l0777".
func modeText(mode uint32) string {
	kind := "?"
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		kind = "-"
	case unix.S_IFDIR:
		kind = "d"
	case unix.S_IFLNK:
		kind = "l"
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	case unix.S_IFIFO:
		kind = "p"
	case unix.S_IFSOCK:
		kind = "s"
	}
	n := strconv.FormatUint(uint64(mode&0o7777), 8)
	return kind + strings.Repeat("0", 4-len(n)) + n
}
