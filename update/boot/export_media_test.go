// SPDX-License-Identifier: Apache-2.0

package boot

import "github.com/backstay/backstay/update"

// MediumFile is what a test's medium opens.
type MediumFile = mediumFile

// Media makes boot loaders on a test's medium.
type Media func(path string, write bool) (MediumFile, error)

// GRUB opens a GRUB.
func (m Media) GRUB(o GRUBOptions) (update.Bootloader, error) { return openGRUB(o, medium(m)) }

// GrubVars reads a block of GRUB's.
func GrubVars(raw []byte) ([]string, error) {
	g, err := parseGrubenv(raw)
	return g.all(), err
}

// GrubGet reads one variable.
func GrubGet(raw []byte, name string) (string, bool) { return grubenv(raw).get(name) }

// GrubSet changes a block of GRUB's.
func GrubSet(raw []byte, name, value string) ([]byte, error) {
	g, err := parseGrubenv(raw)
	if err != nil {
		return nil, err
	}
	return g.set(name, value)
}
