// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/backstay/backstay/update"
)

// BareboxOptions says where barebox keeps its state.
type BareboxOptions struct {
	Path     string          // device of the state's backend: a block device, an EEPROM, a file
	Offset   int64           // of the state in it
	Tree     fs.FS           // the device tree, which describes the state; /proc/device-tree
	Slots    []update.SlotID //
	Names    []string        // of the bootchooser's targets: system0
	Attempts int             // of a slot that is kept
}

// Barebox is a barebox whose bootchooser keeps its counters in the state framework (common/state of barebox). It implements
// update.Bootloader with the variables bootstate.NAME.priority and bootstate.NAME.remaining_attempts, as RAUC does: the target
// with the highest priority and attempts left is started, after one was taken.
//
// The state is three times, a stride apart, on a medium that needs no erasing:
//
//	magic 0x2354fdf3, length of what follows                            the "direct" bucket
//	magic of the device tree, u16, u16 length of data, CRC-32 of data, CRC-32 of this header
//	data: each variable where its node says, in the byte order of barebox
//
// The first whole one counts, and they are written in their order, each synced. State on raw flash, and state with a key, is
// not written here.
type Barebox struct {
	names
	medium   medium
	path     string
	offset   int64
	tree     fs.FS
	attempts int
}

const (
	bareboxDirect   = 0x2354fdf3
	bareboxCopies   = 3
	bareboxHeader   = 8 + 16
	maxStride       = 64 << 10
	bareboxPrimary  = 20
	bareboxFallBack = 10
)

// OpenBarebox checks the options. It reads and writes nothing.
func OpenBarebox(o BareboxOptions) (*Barebox, error) { return openBarebox(o, onDisk) }

func openBarebox(o BareboxOptions, m medium) (*Barebox, error) {
	n, err := newNames(o.Slots, o.Names)
	if o.Tree == nil {
		o.Tree = os.DirFS("/proc/device-tree")
	}
	return &Barebox{names: n, medium: m, path: o.Path, offset: o.Offset, tree: o.Tree, attempts: max(o.Attempts, 1)}, err
}

// bareboxLayout is what the device tree says about the state.
type bareboxLayout struct {
	magic  uint32
	stride int
	prio   []int // offsets of the variables in the data, for each slot
	left   []int
}

func (b *Barebox) cells(name string, n int) ([]uint32, error) {
	raw, err := fs.ReadFile(b.tree, name)
	if err != nil {
		return nil, err
	}
	if len(raw) != 4*n {
		return nil, fmt.Errorf("%s has %d bytes, not %d", name, len(raw), 4*n)
	}
	var out []uint32
	for ; len(raw) > 0; raw = raw[4:] {
		out = append(out, binary.BigEndian.Uint32(raw))
	}
	return out, nil
}

func (b *Barebox) text(name string) string {
	raw, _ := fs.ReadFile(b.tree, name)
	return strings.TrimRight(string(raw), "\x00")
}

func (b *Barebox) layout() (l bareboxLayout, err error) {
	node := path.Clean(strings.TrimPrefix(b.text("aliases/state"), "/"))
	if node == "." || !fs.ValidPath(node) {
		return l, errors.New("the device tree has no alias state")
	}
	if t := b.text(node + "/backend-type"); t != "raw" {
		return l, fmt.Errorf("the backend of the state is of type %q, known is raw", t)
	}
	if s := b.text(node + "/backend-storage-type"); s != "" && s != "direct" {
		return l, fmt.Errorf("the backend of the state is stored %q, known is direct", s)
	}
	if b.text(node+"/algo") != "" {
		return l, errors.New("the state is authenticated with a key that only barebox has")
	}
	magic, err := b.cells(node+"/magic", 1)
	if err != nil {
		return l, err
	}
	stride, err := b.cells(node+"/backend-stridesize", 1)
	if err != nil || stride[0] <= bareboxHeader || stride[0] > maxStride {
		return l, fmt.Errorf("backend-stridesize: %w", errors.Join(err, errors.New("it is 25 to 65536")))
	}
	l.magic, l.stride = magic[0], int(stride[0])
	for _, name := range b.names.names {
		p, err1 := b.variable(node, name, "priority")
		r, err2 := b.variable(node, name, "remaining_attempts")
		if err := errors.Join(err1, err2); err != nil {
			return l, err
		}
		l.prio, l.left = append(l.prio, p), append(l.left, r)
	}
	return l, nil
}

// variable returns where bootstate.NAME.VARIABLE is in the data. The unit address of its node may be anything.
func (b *Barebox) variable(node, name, variable string) (int, error) {
	if strings.ContainsAny(name, `*?[\/`) {
		return 0, fmt.Errorf("%q is no name of a node", name)
	}
	for _, pattern := range []string{variable + "@*", variable} {
		found, err := fs.Glob(b.tree, node+"/bootstate/"+name+"/"+pattern)
		if err != nil || len(found) != 1 {
			continue
		}
		reg, err := b.cells(found[0]+"/reg", 2)
		if err != nil {
			return 0, err
		}
		if t := b.text(found[0] + "/type"); t != "uint32" || reg[1] != 4 || reg[0] > maxStride {
			return 0, fmt.Errorf("variable bootstate.%s.%s is a %s of %d bytes, not a uint32", name, variable, t, reg[1])
		}
		return int(reg[0]), nil
	}
	return 0, fmt.Errorf("the state has no variable bootstate.%s.%s", name, variable)
}

// bareboxState is one copy.
type bareboxState struct {
	bareboxLayout
	order binary.ByteOrder
	data  []byte
}

func (l bareboxLayout) parse(raw []byte) (s bareboxState, err error) {
	s.bareboxLayout = l
	for _, o := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if o.Uint32(raw) == bareboxDirect && o.Uint32(raw[8:]) == l.magic {
			s.order = o
		}
	}
	if s.order == nil {
		return s, errors.New("it is no state of this device tree")
	}
	n, head := int(s.order.Uint32(raw[4:])), raw[8:]
	size := int(s.order.Uint16(head[6:]))
	if n != 16+size || 8+n > len(raw) || s.order.Uint32(head[12:]) != crc32.ChecksumIEEE(head[:12]) {
		return s, errors.New("its header is damaged")
	}
	s.data = bytes.Clone(head[16 : 16+size])
	if s.order.Uint32(head[8:]) != crc32.ChecksumIEEE(s.data) {
		return s, errors.New("its checksum is wrong")
	}
	for _, at := range slices.Concat(l.prio, l.left) {
		if at+4 > size {
			return s, errors.New("a variable is after its end")
		}
	}
	return s, nil
}

func (s bareboxState) encode() []byte {
	out := make([]byte, bareboxHeader, bareboxHeader+len(s.data))
	s.order.PutUint32(out, bareboxDirect)
	s.order.PutUint32(out[4:], uint32(16+len(s.data)))
	s.order.PutUint32(out[8:], s.magic)
	s.order.PutUint16(out[14:], uint16(len(s.data)))
	s.order.PutUint32(out[16:], crc32.ChecksumIEEE(s.data))
	s.order.PutUint32(out[20:], crc32.ChecksumIEEE(out[8:20]))
	return append(out, s.data...)
}

func (s bareboxState) get(at int) uint32 { return s.order.Uint32(s.data[at:]) }

func (s bareboxState) set(at int, v uint32) { s.order.PutUint32(s.data[at:], v) }

// load reads all copies; the first whole one counts. copies has the bytes of those that are whole.
func (b *Barebox) load() (now bareboxState, copies [bareboxCopies][]byte, err error) {
	l, err := b.layout()
	if err != nil {
		return now, copies, fmt.Errorf("%w: %w", update.ErrSetup, err)
	}
	var errs []error
	for i := range copies {
		raw, err := b.medium.read(b.path, b.offset+int64(i*l.stride), l.stride)
		if err != nil {
			return now, copies, err
		}
		s, err := l.parse(raw)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		copies[i] = raw[:bareboxHeader+len(s.data)]
		if now.data == nil {
			now = s
		}
	}
	if now.data == nil {
		return now, copies, fmt.Errorf("%s: %w: all copies of the state are damaged: %w", b.path, update.ErrSetup, errors.Join(errs...))
	}
	return now, copies, nil
}

func (b *Barebox) write(i int, s bareboxState, raw []byte) error {
	return b.medium.overwrite(b.path, b.offset+int64(i*s.stride), raw)
}

func (b *Barebox) change(what string, id update.SlotID, f func(s bareboxState, i int) error) error {
	i := b.index(id)
	if i < 0 {
		return fmt.Errorf("%s %s: %w", what, id, unknownSlot(id))
	}
	now, copies, err := b.load()
	if err == nil {
		err = b.apply(now, copies, i, f)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

func (b *Barebox) apply(now bareboxState, copies [bareboxCopies][]byte, i int, f func(s bareboxState, i int) error) error {
	old := now.encode()
	next := now
	next.data = bytes.Clone(now.data)
	if err := f(next, i); err != nil {
		return err
	}
	raw := next.encode()
	// While the first copy is written, another one has to be whole and say what counts now.
	if !bytes.Equal(copies[0], raw) && !bytes.Equal(copies[1], old) && !bytes.Equal(copies[2], old) {
		if err := b.write(1, now, old); err != nil {
			return err
		}
		copies[1] = old
	}
	for c := range copies {
		if bytes.Equal(copies[c], raw) {
			continue
		}
		if err := b.write(c, now, raw); err != nil {
			return err
		}
	}
	return nil
}

func (s bareboxState) alive(i int) bool { return s.get(s.prio[i]) > 0 && s.get(s.left[i]) > 0 }

// rest leaves another target than i to start, and reports whether there is one.
func (b *Barebox) rest(s bareboxState, i int) bool {
	found := -1
	for o := range b.slots {
		if o == i || s.get(s.prio[o]) == 0 {
			continue
		}
		if s.get(s.left[o]) > 0 {
			return true
		}
		found = o
	}
	if found >= 0 {
		s.set(s.left[found], uint32(b.attempts))
	}
	return found >= 0
}

func (b *Barebox) first(s bareboxState, i, attempts int) {
	for o := range b.slots {
		if s.get(s.prio[o]) > 0 {
			s.set(s.prio[o], bareboxFallBack)
		}
	}
	s.set(s.prio[i], bareboxPrimary)
	s.set(s.left[i], uint32(attempts))
}

// Disarm takes a target's priority and attempts away.
func (b *Barebox) Disarm(id update.SlotID) error {
	return b.change("disarm slot", id, func(s bareboxState, i int) error {
		if !b.rest(s, i) {
			return onlySlot(id)
		}
		s.set(s.prio[i], 0)
		s.set(s.left[i], 0)
		return nil
	})
}

// Try makes a target the first choice for some starts.
func (b *Barebox) Try(id update.SlotID, attempts int) error {
	return b.change("try slot", id, func(s bareboxState, i int) error {
		b.rest(s, i)
		b.first(s, i, attempts)
		return nil
	})
}

// Keep makes a target the first choice, with its attempts full.
func (b *Barebox) Keep(id update.SlotID) error {
	return b.change("keep slot", id, func(s bareboxState, i int) error {
		b.first(s, i, b.attempts)
		return nil
	})
}

// State returns what the bootchooser would do.
func (b *Barebox) State() (update.BootState, error) {
	out := update.BootState{Left: map[update.SlotID]int{}}
	s, _, err := b.load()
	if err != nil {
		return out, err
	}
	var order []int
	for i, id := range b.slots {
		out.Left[id] = int(min(s.get(s.left[i]), maxLeft))
		if s.alive(i) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(x, y int) int { return int(min(s.get(s.prio[y]), 1<<20)) - int(min(s.get(s.prio[x]), 1<<20)) })
	for _, i := range order {
		out.Order = append(out.Order, b.slots[i])
	}
	if len(out.Order) > 0 {
		out.Primary = out.Order[0]
	}
	return out, nil
}
