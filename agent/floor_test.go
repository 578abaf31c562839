// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/tpm"
	"github.com/backstay/backstay/testdata/testneed"
	"github.com/backstay/backstay/update"
)

// TestFloorInTheTPM keeps the floor as the configuration says, with a TPM in software: it survives a new start, a flash image
// from before stops installs, and so does a TPM that forgot, or is not there.
func TestFloorInTheTPM(t *testing.T) {
	name, _ := testneed.TPM(t, t.TempDir())
	dir := t.TempDir()
	var a *agent
	end := func() { // the TPM speaks with one at a time
		for _, d := range a.tpms {
			d.Close()
		}
	}
	open := func(device string, index int) (update.Floor, error) {
		t.Helper()
		if a != nil {
			end()
		}
		a = &agent{cfg: &config.Config{StateDir: dir, Floor: config.Floor{Kind: "tpm", Device: device, Index: index}}, tpms: map[string]*tpm.Device{}}
		return a.openFloor(update.Job{})
	}
	t.Cleanup(func() { end() })
	const index = 0x01800bf1
	f, err := open(name, index)
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "old")
	for v := uint64(1); v <= 3; v++ {
		if err := f.Raise(v * 10); err != nil {
			t.Fatal(err)
		}
		if v == 1 {
			if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	f, err = open(name, index)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := f.Get(); v != 30 || err != nil {
		t.Fatalf("after a new start the floor is %d, %v", v, err)
	}
	for _, file := range []string{"floor.a", "floor.b"} {
		b, err := os.ReadFile(filepath.Join(old, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for what, i := range map[string]int{"put back": index, "another counter": index + 1} {
		f, err := open(name, i)
		if err != nil {
			t.Fatal(err)
		}
		v, err := f.Get()
		if r, is := errors.AsType[*update.Refusal](err); !is || r.Code != "floor-put-back" || v != 0 {
			t.Errorf("%s: the floor is %d, %v", what, v, err)
		}
	}
	if _, err := open(filepath.Join(dir, "none"), index); err == nil {
		t.Error("a floor without its TPM was opened")
	}
}
