// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrLater means that the TPM protects its memory from too many writes (TPM_RC_NV_RATE). The counter did not rise.
var ErrLater = errors.New("tpm: too many writes, try later")

// Indexes a counter may have: the range that belongs to the owner (TCG registry of reserved handles).
const (
	minIndex = 0x01800000
	maxIndex = 0x01bfffff
)

// Command codes and attributes of TPM 2.0 Library Part 2.
const (
	cmdDefine     = 0x12a
	cmdIncrement  = 0x134
	cmdRead       = 0x14e
	cmdReadPublic = 0x169

	ownerHierarchy = 0x40000001
	algSHA256      = 0x000b

	attrAuthWrite = 1 << 2
	attrCounter   = 1 << 4
	attrTypeMask  = 0xf << 4
	attrOwnerRead = 1 << 17
	attrAuthRead  = 1 << 18
	attrNoDA      = 1 << 25 // wrong passwords do not lock the TPM
	counterSize   = 8
)

// Counter is a counter in the TPM. Its methods are safe for concurrent use. A TPM wears out: raise it once a boot and at most
// hourly (100 000 writes are promised by common parts).
type Counter struct {
	dev   *Device
	index uint32
}

// OpenCounter uses the counter at an NV index, and defines it when there is none, which needs an owner hierarchy without a
// password. It refuses an index that is anything but a counter of eight bytes with the attributes it defines itself: an
// ordinary index at that place can be set to any value.
func OpenCounter(d *Device, index uint32) (*Counter, error) {
	if index < minIndex || index > maxIndex {
		return nil, fmt.Errorf("open tpm counter: index 0x%08x is not one of the owner's, 0x%08x to 0x%08x", index, minIndex, maxIndex)
	}
	c := &Counter{dev: d, index: index}
	err := c.check()
	if is(err, codeHandle) {
		if err = c.define(); err == nil || is(err, codeDefined) {
			err = c.check()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open tpm counter 0x%08x: %w", index, err)
	}
	return c, nil
}

func (c *Counter) check() error {
	reply, err := c.dev.command(cmdReadPublic, []uint32{c.index}, false, nil)
	if err != nil {
		return err
	}
	public, _, err := sized(reply)
	if err != nil {
		return err
	}
	return checkPublic(public, c.index)
}

// checkPublic reads a TPMS_NV_PUBLIC: index, name algorithm, attributes, policy, size.
func checkPublic(b []byte, index uint32) error {
	if len(b) < 12 {
		return errMalformed
	}
	attrs := binary.BigEndian.Uint32(b[6:])
	_, rest, err := sized(b[10:])
	if err != nil || len(rest) != 2 {
		return errMalformed
	}
	const wanted = attrAuthWrite | attrCounter | attrAuthRead
	switch {
	case binary.BigEndian.Uint32(b) != index:
		return errMalformed
	case attrs&attrTypeMask != attrCounter:
		return errors.New("the index is not a counter: it can be set to any value")
	case attrs&wanted != wanted || binary.BigEndian.Uint16(rest) != counterSize:
		return fmt.Errorf("the index was defined for something else (attributes 0x%08x)", attrs)
	}
	return nil
}

func (c *Counter) define() error {
	public := binary.BigEndian.AppendUint32(nil, c.index)
	public = binary.BigEndian.AppendUint16(public, algSHA256)
	public = binary.BigEndian.AppendUint32(public, attrAuthWrite|attrCounter|attrOwnerRead|attrAuthRead|attrNoDA)
	public = append(public, 0, 0) // no policy
	public = binary.BigEndian.AppendUint16(public, counterSize)
	params := []byte{0, 0} // empty password
	params = append(binary.BigEndian.AppendUint16(params, uint16(len(public))), public...)
	_, err := c.dev.command(cmdDefine, []uint32{ownerHierarchy}, true, params)
	return err
}

// Read returns the value; 0 for a counter that was never raised.
func (c *Counter) Read(ctx context.Context) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	reply, err := c.dev.command(cmdRead, []uint32{c.index, c.index}, true, []byte{0, counterSize, 0, 0})
	if is(err, codeUnset) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read tpm counter: %w", err)
	}
	value, rest, err := sized(reply)
	if err != nil || len(value) != counterSize || len(rest) != 0 {
		return 0, fmt.Errorf("read tpm counter: %w", errMalformed)
	}
	return binary.BigEndian.Uint64(value), nil
}

// Next raises the counter and returns the new value, which is in non-volatile memory then. ErrLater means it did not rise;
// after any other error it may have.
func (c *Counter) Next(ctx context.Context) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	_, err := c.dev.command(cmdIncrement, []uint32{c.index, c.index}, true, nil)
	if is(err, codeNVRate) {
		return 0, ErrLater
	}
	if err != nil {
		return 0, fmt.Errorf("raise tpm counter: %w", err)
	}
	return c.Read(ctx)
}
