// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/backstay/backstay/logging"
)

// slice is how many records one read transaction copies: long ones would keep the file from reusing pages.
const slice = 512

// Devices implements [Reader].
func (s *Bolt) Devices(ctx context.Context) ([]Device, error) { return s.devices(ctx, "") }

// Device implements [Reader].
func (s *Bolt) Device(ctx context.Context, id string) (Device, error) {
	if id == "" {
		return Device{}, ErrUnknown
	}
	all, err := s.devices(ctx, id)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("device %.64q: %w", id, ErrUnknown)
	}
	if err != nil {
		return Device{}, err
	}
	return all[0], nil
}

// devices returns one device, or all when id is empty. A device that has only alarms, because nothing it sent was fit to
// store, is listed too, and one that only said that it is there.
func (s *Bolt) devices(ctx context.Context, id string) ([]Device, error) {
	found := make(map[string]*Device)
	get := func(name string) *Device {
		d := found[name]
		if d == nil {
			d = &Device{ID: name, Logs: []LogInfo{}}
			found[name] = d
		}
		return d
	}
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketLogs).Cursor()
		for k, _ := c.Seek([]byte(id)); k != nil && bytes.HasPrefix(k, []byte(id)); k, _ = c.Next() {
			if len(k) < 8 {
				continue
			}
			n := len(k) - 8
			if id != "" && string(k[:n]) != id {
				continue
			}
			info, err := logInfo(tx, logging.Origin{Device: string(k[:n]), Epoch: binary.BigEndian.Uint64(k[n:])})
			if err != nil {
				return err
			}
			d := get(string(k[:n]))
			d.Logs = append(d.Logs, info)
			d.Size += info.Size
			if info.Seen.After(d.Seen) {
				d.Seen = info.Seen
			}
		}
		alarms, err := alarms(tx, id)
		for _, a := range alarms {
			get(a.Device).Open++
		}
		return errors.Join(err, presences(tx, id, get))
	})
	out := make([]Device, 0, len(found))
	for _, d := range found {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Device) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	return out, err
}

func logInfo(tx *bbolt.Tx, o logging.Origin) (LogInfo, error) {
	log, err := readHead(o, logBucket(tx, o).Get(keyHead))
	if err != nil {
		return LogInfo{}, err
	}
	root := log.Head.Tree.Root()
	return LogInfo{Origin: o.String(), Epoch: o.Epoch, Size: log.Head.Tree.Size(), Shed: log.Shed,
		Root: base64.StdEncoding.EncodeToString(root[:]), First: log.First, Seen: log.Seen, Receipt: string(log.Receipt)}, nil
}

// Alarms implements [Reader].
func (s *Bolt) Alarms(ctx context.Context, id string) (out []Alarm, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out, err = alarms(tx, id)
		return err
	})
	slices.SortStableFunc(out, func(a, b Alarm) int { return a.Last.Compare(b.Last) })
	return out, err
}

func alarms(tx *bbolt.Tx, id string) ([]Alarm, error) {
	out := []Alarm{}
	prefix := []byte(id)
	if id != "" {
		prefix = append(prefix, 0)
	}
	c := tx.Bucket(bucketAlarms).Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		var a Alarm
		if err := json.Unmarshal(v, &a); err != nil {
			return nil, fmt.Errorf("read alarm: %w", err)
		}
		out = append(out, a)
	}
	return out, nil
}

// Message returns a message kept as evidence, by the name Alarm.Evidence gives it.
func (s *Bolt) Message(ctx context.Context, name string) (msg []byte, err error) {
	key, err := hex.DecodeString(name)
	if err != nil {
		return nil, fmt.Errorf("evidence %.80q: %w", name, ErrUnknown)
	}
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		if msg = bytes.Clone(tx.Bucket(bucketMessages).Get(key)); msg == nil {
			return fmt.Errorf("evidence %s: %w", name, ErrUnknown)
		}
		return nil
	})
	return msg, err
}

// Records returns the records of one log from index from on, as they are stored: nothing is verified here.
func (s *Bolt) Records(ctx context.Context, o logging.Origin, from uint64) iter.Seq2[logging.Leaf, error] {
	return func(yield func(logging.Leaf, error) bool) {
		for {
			leaves, _, err := s.part(ctx, o, from)
			if err != nil {
				yield(logging.Leaf{}, err)
				return
			}
			for _, l := range leaves {
				if !yield(l, nil) {
					return
				}
			}
			if len(leaves) == 0 {
				return
			}
			from = leaves[len(leaves)-1].End()
		}
	}
}

// Evidence implements [Reader].
func (s *Bolt) Evidence(ctx context.Context, o logging.Origin, from uint64) (logging.Header, iter.Seq2[logging.Item, error], error) {
	log, err := s.Log(ctx, o)
	if err != nil {
		return logging.Header{}, nil, fmt.Errorf("read log %s: %w", o, err)
	}
	h := logging.Header{SPKI: log.SPKI, Origin: o}
	for l, err := range s.Records(ctx, o, 0) {
		if err != nil {
			return logging.Header{}, nil, fmt.Errorf("read log %s: %w", o, err)
		}
		if l.Index >= from {
			break
		}
		if l.End() > from {
			return logging.Header{}, nil, fmt.Errorf("read log %s: records %d to %d were shed as one, the log cannot begin at %d: %w", o, l.Index, l.End()-1, from, ErrUnknown)
		}
		if err := h.Start.AppendSubtree(l.Level, l.Hash); err != nil {
			return logging.Header{}, nil, fmt.Errorf("read log %s: %w", o, err)
		}
	}
	if h.Start.Size() != from {
		return logging.Header{}, nil, fmt.Errorf("read log %s: record %d is beyond its end: %w", o, from, ErrUnknown)
	}
	return h, func(yield func(logging.Item, error) bool) { s.items(ctx, log, from, yield) }, nil
}

// items yields records and the notes that cover up to them, in the order logging.Item asks for.
func (s *Bolt) items(ctx context.Context, log Log, from uint64, yield func(logging.Item, error) bool) {
	last := uint64(0) // size of the newest note
	for {
		leaves, notes, err := s.part(ctx, log.Head.Origin, from)
		if err != nil {
			yield(logging.Item{}, err)
			return
		}
		if len(leaves) == 0 {
			break
		}
		for _, l := range leaves {
			if !yield(logging.Item{Leaf: &l}, nil) {
				return
			}
			for len(notes) > 0 && notes[0].size <= l.End() {
				last = notes[0].size
				if !yield(notes[0].item, nil) {
					return
				}
				notes = notes[1:]
			}
		}
		from = leaves[len(leaves)-1].End()
	}
	// The head is stored apart from records and notes: when the tail of those was cut off, it says so.
	if last < log.Head.Tree.Size() {
		_ = yield(logging.Item{Checkpoint: log.Checkpoint}, nil) && yield(logging.Item{Receipt: log.Receipt}, nil)
	}
}

type sizedNote struct {
	size uint64
	item logging.Item
}

// part copies up to slice records from index from on, and the notes about sizes after from up to their end.
func (s *Bolt) part(ctx context.Context, o logging.Origin, from uint64) (leaves []logging.Leaf, notes []sizedNote, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b := logBucket(tx, o)
		if b == nil {
			return ErrUnknown
		}
		lb, nb := b.Bucket(bucketLeaf), b.Bucket(bucketNote)
		if lb == nil || nb == nil {
			return errors.New("store is damaged: no records in the log")
		}
		c := lb.Cursor()
		for k, v := containing(c, from); k != nil && len(leaves) < slice; k, v = c.Next() {
			l, err := leafValue(k, v)
			if err != nil {
				return err
			}
			leaves = append(leaves, l)
		}
		if len(leaves) == 0 {
			return nil
		}
		end := leaves[len(leaves)-1].End()
		c = nb.Cursor()
		for k, v := c.Seek(be64(from + 1)); len(k) == 9 && binary.BigEndian.Uint64(k) <= end; k, v = c.Next() {
			n := sizedNote{size: binary.BigEndian.Uint64(k)}
			if k[8] == noteCheckpoint {
				n.item.Checkpoint = bytes.Clone(v)
			} else {
				n.item.Receipt = bytes.Clone(v)
			}
			notes = append(notes, n)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read records of %s from %d: %w", o, from, err)
	}
	return leaves, notes, nil
}

// containing moves to the leaf that stands for record from, alone or with others, or to the next one.
func containing(c *bbolt.Cursor, from uint64) (k, v []byte) {
	if k, v = c.Seek(be64(from)); bytes.Equal(k, be64(from)) {
		return k, v
	}
	var before []byte
	if k == nil {
		before, v = c.Last()
	} else {
		before, v = c.Prev()
	}
	if before != nil {
		if l, err := leafValue(before, v); err == nil && l.Index < from && l.End() > from {
			return before, v
		}
	}
	return c.Seek(be64(from))
}

func leafValue(k, v []byte) (logging.Leaf, error) {
	if len(k) != 8 || len(v) <= logging.HashSize {
		return logging.Leaf{}, errors.New("store is damaged: not a record")
	}
	l := logging.Leaf{Index: binary.BigEndian.Uint64(k), Hash: logging.Hash(v[:logging.HashSize])}
	rest := v[logging.HashSize+1:]
	switch v[logging.HashSize] {
	case leafSided:
		if len(rest) < 2 || int(binary.BigEndian.Uint16(rest)) > len(rest)-2 {
			return logging.Leaf{}, errors.New("store is damaged: not a record")
		}
		end := 2 + int(binary.BigEndian.Uint16(rest))
		l.Side, rest = bytes.Clone(rest[2:end]), rest[end:]
		fallthrough
	case leafBody:
		l.Body = append([]byte{}, rest...)
	case leafTree:
		if len(rest) != 1 || rest[0] == 0 || rest[0] > logging.MaxLevel || l.Index&(1<<rest[0]-1) != 0 {
			return logging.Leaf{}, errors.New("store is damaged: not a subtree")
		}
		l.Level = rest[0]
	}
	return l, nil
}

var (
	_ Store  = (*Bolt)(nil)
	_ Reader = (*Bolt)(nil)
)
