// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/backstay/backstay/update"
)

// double is Mender's environment for GRUB: two directories with a block each, and beside it a block that holds only
// editing=0 or editing=1, with its checksum for programs that can compute one. GRUB cannot, and its block has none, so this
// is how a torn one is known: it is only ever written while its lock says 1. Both readers repair it from the other one. It is
// written second copy first: the change counts from the moment the first lock says 1.
type double struct {
	medium medium
	copies [2]struct{ env, lock, sum string }
}

// menderLock is taken by Mender's grub-mender-grubenv-set and -print.
const menderLock = "/var/lock/grub-mender-grubenv-set.lock"

func newDouble(m medium, dir string) double {
	d := double{medium: m}
	for i := range d.copies {
		in := filepath.Join(dir, fmt.Sprint("mender_grubenv", i+1))
		d.copies[i].env, d.copies[i].lock, d.copies[i].sum = filepath.Join(in, "env"), filepath.Join(in, "lock"), filepath.Join(in, "lock.sha256sum")
	}
	return d
}

// envs reads both environments and says which are whole. A lock without a checksum is one that only GRUB writes.
func (d double) envs() (envs [2]grubenv, whole [2]bool, err error) {
	for i, c := range d.copies {
		raw, err := d.medium.readAll(c.env, maxGrubenv)
		if err != nil {
			return envs, whole, err
		}
		env, bad := parseGrubenv(raw)
		lock, err := d.medium.readAll(c.lock, maxGrubenv)
		if err != nil {
			return envs, whole, err
		}
		l, badLock := parseGrubenv(lock)
		if bad != nil || badLock != nil {
			continue
		}
		envs[i] = env
		editing, _ := l.get("editing")
		whole[i] = editing == "0" && d.sumFits(i, lock)
	}
	if !whole[0] && !whole[1] {
		return envs, whole, fmt.Errorf("%w: both environments of %s are damaged or half written", update.ErrSetup, filepath.Dir(filepath.Dir(d.copies[0].env)))
	}
	return envs, whole, nil
}

func (d double) sumFits(i int, lock []byte) bool {
	sum, err := d.medium.readAll(d.copies[i].sum, 4096)
	if errors.Is(err, update.ErrSetup) {
		return true
	}
	want := sha256.Sum256(lock)
	return err == nil && bytes.HasPrefix(sum, []byte(hex.EncodeToString(want[:])))
}

// current is the environment that GRUB would use: the first, unless only the second is whole.
func current2(envs [2]grubenv, whole [2]bool) grubenv {
	if whole[0] {
		return envs[0]
	}
	return envs[1]
}

func (d double) load() (grubenv, error) {
	unlock, err := acquire(Config{Locks: []string{menderLock}})
	if err != nil {
		return nil, err
	}
	defer unlock()
	envs, whole, err := d.envs()
	if err != nil {
		return nil, err
	}
	return current2(envs, whole), nil
}

func (d double) save(change func(grubenv) (grubenv, error)) error {
	unlock, err := acquire(Config{Locks: []string{menderLock}})
	if err != nil {
		return err
	}
	defer unlock()
	envs, whole, err := d.envs()
	if err != nil {
		return err
	}
	now := current2(envs, whole)
	next, err := change(now)
	if err != nil {
		return err
	}
	// A copy that is not whole is repaired first, from the other one, or a cut while that one is written would leave none.
	for i := range d.copies {
		if !whole[i] {
			if err := d.repair(i, now); err != nil {
				return err
			}
			envs[i] = now
		}
	}
	for _, i := range []int{1, 0} {
		if bytes.Equal(envs[i], next) {
			continue
		}
		if err := d.write(i, next); err != nil {
			return err
		}
	}
	return nil
}

// write replaces one environment under its lock.
func (d double) write(i int, env grubenv) error {
	if err := d.setLock(i, "1"); err != nil {
		return err
	}
	if err := d.medium.overwrite(d.copies[i].env, 0, env); err != nil {
		return err
	}
	return d.setLock(i, "0")
}

func (d double) setLock(i int, editing string) error {
	raw, err := d.medium.readAll(d.copies[i].lock, maxGrubenv)
	if err != nil {
		return err
	}
	lock, err := parseGrubenv(raw)
	if err == nil {
		lock, err = lock.set("editing", editing)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d.copies[i].lock, err)
	}
	if bytes.Equal(raw, lock) {
		return nil
	}
	return d.medium.overwrite(d.copies[i].lock, 0, lock)
}

// repair writes one environment from the other. Its lock may be anything, so it is taken from the other one as well.
func (d double) repair(i int, env grubenv) error {
	o := 1 - i
	lock, err := d.medium.readAll(d.copies[o].lock, maxGrubenv)
	if err != nil {
		return err
	}
	open, err := grubenv(lock).set("editing", "1")
	if err != nil {
		return err
	}
	for _, w := range []struct {
		path string
		raw  []byte
	}{{d.copies[i].lock, open}, {d.copies[i].env, env}, {d.copies[i].lock, lock}} {
		if err := d.medium.overwrite(w.path, 0, w.raw); err != nil {
			return fmt.Errorf("repair environment: %w", err)
		}
	}
	if d.sumFits(i, lock) {
		return nil
	}
	sum := sha256.Sum256(lock)
	if err := d.medium.overwrite(d.copies[i].sum, 0, []byte(hex.EncodeToString(sum[:]))); err != nil {
		return fmt.Errorf("repair environment: %w", err)
	}
	return nil
}

// grubMender is the convention of Mender's script: mender_boot_part is the slot's partition. While upgrade_available is 1 the
// script sets bootcount to 1 and starts that slot; if it finds bootcount at 1 already it goes back to the other partition and
// clears both. Outside a trial the other slot is never started.
type grubMender struct {
	names
	attempts int
}

const menderPart = "mender_boot_part"

func (m grubMender) point(i int, available string) []assign {
	return []assign{{bootCount, "0"}, {menderPart, m.names.names[i]}, {upgradeAvailable, available}}
}

// named returns the slot that is named, and refuses what the script itself calls corrupt.
func (m grubMender) named(g grubenv) (now int, available, counted bool, err error) {
	for i, name := range m.names.names {
		if v, _ := g.get(menderPart); v == name {
			a, _ := g.get(upgradeAvailable)
			c, _ := g.get(bootCount)
			if (a != "0" && a != "1") || (c != "0" && c != "1") {
				return 0, false, false, fmt.Errorf("%w: %s is %q and %s is %q, possible is 0 or 1", update.ErrSetup, upgradeAvailable, a, bootCount, c)
			}
			return i, a == "1", c == "1", nil
		}
	}
	v, _ := g.get(menderPart)
	return 0, false, false, fmt.Errorf("%w: %s is %q, which is no slot's partition", update.ErrSetup, menderPart, v)
}

func (m grubMender) disarm(g grubenv, i int) ([]assign, error) {
	now, _, _, err := m.named(g)
	if err != nil {
		return nil, err
	}
	if now == i {
		return nil, onlySlot(m.slots[i])
	}
	return m.point(now, "0"), nil
}

func (m grubMender) try(_ grubenv, i int) ([]assign, error)  { return m.point(i, "1"), nil }
func (m grubMender) keep(_ grubenv, i int) ([]assign, error) { return m.point(i, "0"), nil }

func (m grubMender) state(g grubenv) (update.BootState, error) {
	i, available, counted, err := m.named(g)
	if err != nil {
		return update.BootState{}, err
	}
	now, other := m.slots[i], m.slots[1-i]
	if !available {
		return update.BootState{Primary: now, Order: []update.SlotID{now}, Left: map[update.SlotID]int{now: m.attempts, other: 0}}, nil
	}
	s := update.BootState{Primary: now, Order: []update.SlotID{now, other}, Trial: true, Left: map[update.SlotID]int{now: 1, other: m.attempts}}
	if counted {
		s.Primary, s.Left[now] = other, 0
	}
	return s, nil
}
