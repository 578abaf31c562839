// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/backstay/backstay/identity"
)

// Device is one line of the birth list.
type Device struct {
	ID      string    `json:"device_id"`
	Serial  string    `json:"serial,omitempty"` // on the label; at most 64 characters
	Note    string    `json:"note,omitempty"`   // at most 200 characters
	Allowed time.Time `json:"allowed"`
	Revoked time.Time `json:"revoked,omitzero"`
	Reason  string    `json:"reason,omitempty"` // of the revocation; at most 200 characters
}

// Issued is one line of the list of certificates.
type Issued struct {
	Time     time.Time      `json:"time"`
	ID       string         `json:"device_id"`
	Serial   string         `json:"certificate"` // serial number, hexadecimal
	Key      []byte         `json:"key"`         // SHA-256 of the SubjectPublicKeyInfo
	NotAfter time.Time      `json:"not_after"`
	Class    identity.Class `json:"key_class,omitempty"` // as the device claims it
	Label    string         `json:"label,omitempty"`     // "recover"
	Renewal  bool           `json:"renewal,omitempty"`
}

// maxLine bounds a line of either list, in bytes.
const maxLine = 4096

// Allow lets a device enrol. Allowing it again changes serial number and note. A revoked device stays revoked: see Reinstate.
func (c *CA) Allow(d Device) error {
	return c.change(d.ID, func(old Device, known bool) (Device, error) {
		if known && !old.Revoked.IsZero() {
			return d, &identity.Refusal{Code: "revoked", What: "allow " + d.ID, Why: "it was revoked on " + old.Revoked.Format(time.DateOnly)}
		}
		d.Allowed, d.Revoked, d.Reason = c.now().UTC().Truncate(time.Second), time.Time{}, ""
		return d, nil
	})
}

// Revoke stops a device: its certificate is refused by every listener of the fleet from now on, and it cannot enrol. A device
// that was never allowed may be revoked as well.
func (c *CA) Revoke(id, reason string) error {
	err := c.change(id, func(old Device, known bool) (Device, error) {
		if known && !old.Revoked.IsZero() {
			return old, nil
		}
		old.ID, old.Revoked, old.Reason = id, c.now().UTC().Truncate(time.Second), reason
		return old, nil
	})
	if err == nil {
		c.emit("ca.revoked", slog.String("device_id", id), slog.String("reason", reason))
	}
	return err
}

// Reinstate takes a revocation back.
func (c *CA) Reinstate(id string) error {
	return c.change(id, func(old Device, known bool) (Device, error) {
		if !known {
			return old, &identity.Refusal{Code: "unknown-device", What: "reinstate " + id, Why: "it is not on the list"}
		}
		old.Allowed, old.Revoked, old.Reason = c.now().UTC().Truncate(time.Second), time.Time{}, ""
		return old, nil
	})
}

// List returns the birth list, sorted by device id.
func (c *CA) List() ([]Device, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refresh(); err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(c.devices), func(a, b Device) int { return cmp.Compare(a.ID, b.ID) }), nil
}

// Last returns the newest certificate issued to a device.
func (c *CA) Last(id string) (Issued, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refresh(); err != nil {
		return Issued{}, false
	}
	i, ok := c.last[id]
	return i, ok
}

// Revoked reports whether a device was revoked. When the list cannot be read the answer is yes: a server that does not know
// must not let anybody in.
func (c *CA) Revoked(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refresh(); err != nil {
		c.emit("ca.unreadable", slog.String("why", err.Error()))
		return true
	}
	return !c.devices[id].Revoked.IsZero()
}

// change replaces one line of the birth list under the lock, durably.
func (c *CA) change(id string, f func(old Device, known bool) (Device, error)) error {
	if !identity.ValidID(id) {
		return &identity.Refusal{Code: "malformed-id", What: "device", Why: fmt.Sprintf("%.60q is not a device id (26 characters a-z, 2-7)", id)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.locked(func() error {
		if err := c.refresh(); err != nil {
			return err
		}
		old, known := c.devices[id]
		d, err := f(old, known)
		if err != nil {
			return err
		}
		if len(d.Serial) > 64 || len(d.Note) > 200 || len(d.Reason) > 200 {
			return &identity.Refusal{Code: "too-long", What: "device " + id, Why: "the serial number may have 64 characters, note and reason 200"}
		}
		next := maps.Clone(c.devices)
		next[id] = d
		if err := writeFile(c.dir, fileDevices, encodeDevices(next), 0o600); err != nil {
			return fmt.Errorf("write birth list: %w", err)
		}
		return c.refresh()
	})
}

func encodeDevices(m map[string]Device) []byte {
	var b bytes.Buffer
	for _, id := range slices.Sorted(maps.Keys(m)) {
		line, err := json.Marshal(m[id])
		if err != nil {
			continue // strings and times of this century always marshal
		}
		b.Write(append(line, '\n'))
	}
	return b.Bytes()
}

// refresh reads what another process changed. c.mu is held.
func (c *CA) refresh() error {
	info, err := os.Stat(filepath.Join(c.dir, fileDevices))
	if err != nil {
		return fmt.Errorf("read birth list: %w", err)
	}
	if c.stamp == nil || !os.SameFile(info, c.stamp) || info.Size() != c.stamp.Size() || !info.ModTime().Equal(c.stamp.ModTime()) {
		devices, err := readDevices(filepath.Join(c.dir, fileDevices))
		if err != nil {
			return fmt.Errorf("read birth list: %w", err)
		}
		c.devices, c.stamp = devices, info
	}
	if err := c.readIssued(); err != nil {
		return fmt.Errorf("read list of certificates: %w", err)
	}
	return nil
}

func readDevices(path string) (map[string]Device, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	devices := map[string]Device{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var d Device
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if _, twice := devices[d.ID]; twice || !identity.ValidID(d.ID) {
			return nil, fmt.Errorf("line %d: device id %.60q is malformed or there twice", n, d.ID)
		}
		devices[d.ID] = d
	}
	return devices, lines.Err()
}

// readIssued reads the lines that were appended since the last call. A last line without an end is being written, or was cut
// off by a power cut; it was not acknowledged to anybody.
func (c *CA) readIssued() error {
	f, err := os.Open(filepath.Join(c.dir, fileIssued))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == c.read {
		return err
	}
	if info.Size() < c.read {
		return errors.New("it became shorter")
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, c.read, info.Size()-c.read), maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var i Issued
		if err := json.Unmarshal(line, &i); err != nil || len(i.Key) != 32 || !identity.ValidID(i.ID) {
			return fmt.Errorf("malformed line at byte %d", c.read)
		}
		c.bound[[32]byte(i.Key)], c.last[i.ID] = i.ID, i
		c.read += int64(len(line))
	}
}

// appendIssued adds a line, durably. The lock is held and refresh has just read the file, so what lies behind c.read is the
// rest of a line that was cut off: it is overwritten.
func (c *CA) appendIssued(i Issued) error {
	line, err := json.Marshal(i)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(c.dir, fileIssued), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := f.Truncate(c.read); err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = f.WriteAt(append(line, '\n'), c.read)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return c.readIssued()
}
