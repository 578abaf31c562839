// SPDX-License-Identifier: Apache-2.0

package slot

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/backstay/backstay/update"
)

// rootKey makes the parameter of the root file system say which slot runs: boot scripts as Mender's name no slot.
const rootKey = "root"

// byRoot returns the slot whose device the kernel was told to mount as its root. The last root= counts, as it does for the
// kernel. A slot that is named beside it has to be the same one.
func (s *Set) byRoot(line string) (update.SlotID, error) {
	root := ""
	for _, word := range words(line) {
		if word == "--" {
			break
		}
		if v, ok := strings.CutPrefix(word, rootKey+"="); ok {
			root = strings.Trim(v, `"`)
		}
	}
	if root == "" {
		return "", fmt.Errorf("no parameter %s", rootKey)
	}
	path := rootDevice(root)
	var found update.SlotID
	for id, d := range s.slots {
		if d.Path != path && !s.same(d, Device{Kind: d.Kind, Path: path}) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("%s=%s is slot %s and slot %s", rootKey, root, found, id)
		}
		found = id
	}
	if found == "" {
		return "", fmt.Errorf("%s=%s is no slot's device", rootKey, root)
	}
	if named, err := parseCmdline(line, raucKey); err == nil && named != found {
		return "", fmt.Errorf("it names two slots, %q by %s and %q by %s", found, rootKey, named, raucKey)
	}
	return found, nil
}

// rootDevice returns the path of a root file system as the kernel, or an initramfs, takes it.
func rootDevice(root string) string {
	for _, by := range []struct{ prefix, dir string }{
		{"PARTUUID=", "by-partuuid"}, {"PARTLABEL=", "by-partlabel"}, {"UUID=", "by-uuid"}, {"LABEL=", "by-label"},
	} {
		if v, ok := strings.CutPrefix(root, by.prefix); ok {
			if strings.HasSuffix(by.dir, "uuid") {
				v = strings.ToLower(v)
			}
			return filepath.Join("/dev/disk", by.dir, filepath.Base(v))
		}
	}
	return root
}
