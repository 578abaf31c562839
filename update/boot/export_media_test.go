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

// EFIFuncs is EFI variables of a test.
type EFIFuncs struct {
	GetFunc    func(name string) (uint32, []byte, error)
	SetFunc    func(name string, value []byte) error
	RemoveFunc func(name string) error
	ListFunc   func() []string
}

func (e EFIFuncs) get(name string) (uint32, []byte, error)       { return e.GetFunc(name) }
func (e EFIFuncs) set(name string, _ uint32, value []byte) error { return e.SetFunc(name, value) }
func (e EFIFuncs) remove(name string) error                      { return e.RemoveFunc(name) }
func (e EFIFuncs) list() ([]string, error)                       { return e.ListFunc(), nil }

// EFIOn opens an EFI firmware on them.
func EFIOn(o EFIOptions, v EFIFuncs) (update.Bootloader, error) { return openEFI(o, v) }

// LoadOption reads the label of a boot entry.
func LoadOption(b []byte) (string, error) { return loadOption(b) }

// Tryboot opens a Raspberry Pi's boot loader.
func (m Media) Tryboot(o TrybootOptions) (update.Bootloader, error) { return openTryboot(o, medium(m)) }

// Android opens an Android boot loader.
func (m Media) Android(o AndroidOptions) (update.Bootloader, error) { return openAndroid(o, medium(m)) }

// PSA opens firmware with the metadata of a PSA firmware update.
func (m Media) PSA(o PSAOptions) (update.Bootloader, error) { return openPSA(o, medium(m)) }

// ParseAndroid reads a control block and writes it again.
func ParseAndroid(raw []byte) ([]byte, error) {
	b, err := parseAndroid(raw)
	if err != nil {
		return nil, err
	}
	return b.encode(), nil
}

// ParsePSA reads metadata and returns how long it is.
func ParsePSA(raw []byte) (banks, images, length int, err error) {
	d, err := parsePSA(raw)
	if err == nil {
		for i := range d.images {
			for b := range d.banks {
				_ = d.accepted(i, b)
			}
		}
	}
	return d.banks, d.images, len(d.raw), err
}

// Barebox opens a barebox.
func (m Media) Barebox(o BareboxOptions) (update.Bootloader, error) { return openBarebox(o, medium(m)) }
