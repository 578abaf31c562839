// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strconv"

	"github.com/backstay/backstay/update"
)

// minBandwidth is the least update.bandwidth: below it a file of metadata takes longer than it may.
const minBandwidth = 4096

// when checks what says when a device may be updated, and over what.
func (v *validator) when(u Update) {
	for i, m := range u.Mirrors {
		key := "update.mirrors[" + strconv.Itoa(i) + "]"
		v.url(key+".metadata_url", m.MetadataURL, "https")
		v.url(key+".targets_url", m.TargetsURL, "https")
		if m.MetadataURL == "" && m.TargetsURL == "" {
			v.fail(key, "it has neither metadata_url nor targets_url")
		}
	}
	if len(u.Mirrors) > 7 {
		v.fail("update.mirrors", "%d of them; at most 7", len(u.Mirrors))
	}
	if u.Bandwidth > 0 && u.Bandwidth < minBandwidth {
		v.fail("update.bandwidth", "%d is below the minimum %d; 0 means no limit", u.Bandwidth, minBandwidth)
	}
	if u.LineFile != "" {
		v.absolute("update.line_file", u.LineFile)
	}
	if u.ConsentFile != "" {
		v.absolute("update.consent_file", u.ConsentFile)
	}
	if len(u.ConsentExec) > 0 {
		v.absolute("update.consent_exec[0]", u.ConsentExec[0])
	}
	for i, dir := range u.LocalDirs {
		v.absolute("update.local_dirs["+strconv.Itoa(i)+"]", dir)
	}
	v.steps("update.automatic", u.Automatic)
	v.steps("update.window_steps", u.WindowSteps)
	for i, w := range u.Windows {
		if _, err := update.ParseWindow(w); err != nil {
			v.fail("update.windows["+strconv.Itoa(i)+"]", "%v", err)
		}
	}
	if _, err := update.ParseZone(u.Zone); err != nil {
		v.fail("update.zone", "%q is %v", u.Zone, err)
	}
	for i, c := range u.Conditions {
		v.condition("update.conditions["+strconv.Itoa(i)+"]", c)
	}
	v.components(u.Components)
}

func (v *validator) steps(key string, steps []string) {
	for i, s := range steps {
		v.oneOf(key+"["+strconv.Itoa(i)+"]", s, []string{"check", "download", "install", "reboot"})
	}
}

func (v *validator) condition(key string, c Condition) {
	v.need(key+".name", c.Name, "the status and events use it")
	switch {
	case (c.File == "") == (len(c.Argv) == 0):
		v.fail(key, "it needs either file or argv")
	case c.File != "":
		v.absolute(key+".file", c.File)
	default:
		v.absolute(key+".argv[0]", c.Argv[0])
	}
}
