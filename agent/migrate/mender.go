// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// menderConf is what is read of Mender's mender.conf. The partitions may be in the fall-back file of the data partition.
type menderConf struct {
	RootfsPartA, RootfsPartB  string
	DeviceTypeFile            string
	UpdatePollIntervalSeconds int
	ServerURL                 string
	Servers                   []struct{ ServerURL string }
	ArtifactVerifyKey         string
	ArtifactVerifyKeys        []string
	TenantToken               string
	Connectivity              json.RawMessage
}

const menderData = "/var/lib/mender/"

func (d *draft) mender(file string) error {
	var c menderConf
	for i, name := range []string{menderData + "mender.conf", file} { // what is in the second wins
		text, err := d.read(name)
		if i == 0 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(text, &c)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if c.RootfsPartA == "" || c.RootfsPartB == "" {
		return errors.New("RootfsPartA and RootfsPartB are in neither file")
	}
	if err := d.deviceType(or(c.DeviceTypeFile, menderData+"device_type")); err != nil {
		return err
	}
	for name, device := range map[string]string{"A": c.RootfsPartA, "B": c.RootfsPartB} {
		s := slot{Kind: "block", Path: device, Bootname: trailingNumber(device)}
		if volume, ok := strings.CutPrefix(device, "ubi"); ok || strings.HasPrefix(device, "/dev/ubi") {
			s.Kind = "ubi"
			if ok {
				s.Path = "ubi" + volume
			}
		}
		if s.Bootname == "" {
			return fmt.Errorf("%s does not end with the number of a partition", device)
		}
		if err := d.add(name, s); err != nil {
			return err
		}
	}
	d.key = "root"
	if n := time.Duration(c.UpdatePollIntervalSeconds) * time.Second; n >= time.Second && n <= 720*time.Hour {
		d.poll = n.String()
	}
	if err := d.environment("mender"); err != nil {
		return err
	}
	d.menderRemarks(c)
	return nil
}

func (d *draft) deviceType(file string) error {
	text, err := d.read(file)
	if errors.Is(err, fs.ErrNotExist) {
		d.remark("%s is missing: product.name is to be filled in", file)
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "device_type="); ok {
			d.name = v
			return nil
		}
	}
	return fmt.Errorf("%s: no line device_type=", file)
}

// trailingNumber is the number of a partition's device.
func trailingNumber(device string) string {
	return strings.TrimLeft(device[len(strings.TrimRight(device, "0123456789")):], "0")
}

func (d *draft) menderRemarks(c menderConf) {
	if c.ServerURL != "" || len(c.Servers) > 0 {
		d.remark("ServerURL: Mender's server is not a TUF repository; publish with backstayctl repo")
	}
	if c.TenantToken != "" {
		d.remark("TenantToken: a device is known by its certificate; see identity.est_url")
	}
	if c.ArtifactVerifyKey != "" || len(c.ArtifactVerifyKeys) > 0 {
		d.remark("ArtifactVerifyKey: an artifact's signature is not used; releases are signed in a TUF repository")
	} else {
		d.remark("no ArtifactVerifyKey: this device has installed unsigned artifacts; here nothing is installed without signatures")
	}
	for _, dir := range []string{"/etc/mender/scripts", menderData + "scripts"} {
		if d.exists(dir) {
			d.remark("%s: state scripts are not called; see update.health for checks", dir)
		}
	}
	d.remark("update modules have no counterpart: an image is the whole of a slot")
}
