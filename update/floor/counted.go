// SPDX-License-Identifier: Apache-2.0

package floor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/backstay/backstay/update"
)

// Counter is a counter in hardware that only rises, by one with each Next, such as one in a TPM's non-volatile memory.
type Counter interface {
	// Read returns the count, 0 as long as it never rose.
	Read(ctx context.Context) (uint64, error)
	// Next raises the count and returns it, durably. After an error it may have risen.
	Next(ctx context.Context) (uint64, error)
}

// Counted is a floor in files that holds at one count of a hardware counter. It implements update.Floor, for one process and one
// goroutine at a time. A Raise that raises costs one write of the counter: one for each release kept that asks for a higher
// floor.
//
// What an old copy of the files says was written for a lower count, and is refused. What a Raise that was cut left behind was
// written for the next count, and is not looked at: as long as the counter has not risen, the floor has not.
type Counted struct {
	file    *File
	counter Counter
}

// wait bounds a command to the counter.
const wait = 30 * time.Second

// OpenCounted binds the floor of a directory to a counter that never rose, and opens one that is bound already. A device that
// had a file floor keeps its value. Only a counter that never rose is bound: files without a count beside one that rose are an
// old copy, or a binding that lost power just between the counter and the files, which looks the same; then installs stop, and
// a person who can tell has to remove the counter (tpm2_nvundefine).
func OpenCounted(c Config, counter Counter) (*Counted, error) {
	f, err := Open(c)
	if err != nil {
		return nil, err
	}
	out := &Counted{file: f, counter: counter}
	count, err := out.count()
	if err != nil || count > 0 {
		return out, err
	}
	a, errA := f.read(copyA)
	b, errB := f.read(copyB)
	if (errA != nil && errB != nil) || a.count > 0 || b.count > 0 {
		return out, nil // Get says what is wrong
	}
	if count, err = out.next(); err != nil {
		return nil, err
	}
	if err := f.write(record{max(a.floor, b.floor), count}); err != nil {
		return nil, fmt.Errorf("bind floor to the counter: %w", err)
	}
	return out, nil
}

// Class names how strong the floor is, for reports.
func (c *Counted) Class() string { return "hardware-counter" }

// Get returns the floor: what a copy says that was written for the present count.
func (c *Counted) Get() (uint64, error) {
	count, err := c.count()
	if err != nil {
		return 0, err
	}
	r, _, err := c.current(count)
	return r.floor, err
}

// current returns the record that holds at a count, and the name of the copy it is in.
func (c *Counted) current(count uint64) (record, string, error) {
	var errs [2]error
	readable := false
	for i, name := range []string{copyA, copyB} {
		r, err := c.file.read(name)
		if err == nil && r.count == count && count > 0 {
			return r, name, nil
		}
		if errs[i] = err; err == nil {
			errs[i] = fmt.Errorf("%s: it is for count %d", name, r.count)
			readable = true
		}
	}
	if readable {
		return record{}, "", &update.Refusal{Code: "floor-put-back", What: "read floor in " + c.file.dir,
			Why: fmt.Sprintf("the hardware counts %d: %v", count, errors.Join(errs[:]...))}
	}
	return record{}, "", c.file.unreadable(errs[0], errs[1])
}

// Raise makes the floor at least v. First the copy that does not hold says what holds at the next count; then the counter
// rises, which is the moment the floor does; then the other copy follows.
func (c *Counted) Raise(v uint64) error {
	count, err := c.count()
	if err != nil {
		return fmt.Errorf("raise floor: %w", err)
	}
	now, held, err := c.current(count)
	if err != nil {
		return fmt.Errorf("raise floor: %w", err)
	}
	if v > now.floor {
		if count == math.MaxUint64 {
			return fmt.Errorf("raise floor to %d: %w: the counter has reached its end", v, update.ErrSetup)
		}
		other := copyA
		if held == copyA {
			other = copyB
		}
		now = record{floor: v, count: count + 1}
		if err := c.file.replace(other, encode(now)); err != nil {
			return fmt.Errorf("raise floor to %d: %w", v, err)
		}
		if risen, err := c.next(); err != nil || risen != now.count {
			return fmt.Errorf("raise floor to %d: counter at %d, expected %d: %w", v, risen, now.count, orElse(err))
		}
	}
	if err := c.file.write(now); err != nil { // the floor has risen; a copy that is behind is only weaker against damage
		return fmt.Errorf("raise floor to %d: %w", v, err)
	}
	return nil
}

func orElse(err error) error {
	if err == nil {
		return errors.New("somebody else raises it")
	}
	return err
}

func (c *Counted) count() (uint64, error) { return c.ask(c.counter.Read) }

func (c *Counted) next() (uint64, error) { return c.ask(c.counter.Next) }

// ask turns a counter that does not answer into something to try again: the bus or the resource manager may be busy.
func (c *Counted) ask(f func(context.Context) (uint64, error)) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	n, err := f(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask the counter of the floor: %w: %w", err, update.ErrRetry)
	}
	return n, nil
}
