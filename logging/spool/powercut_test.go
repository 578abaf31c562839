// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// cutter cuts the power before every effect of a log, and starts again from what may then be on flash.
type cutter struct {
	t      *testing.T
	b      *bench
	flash  *flash
	log    *spool.Log
	rng    *rand.Rand
	seed   uint64
	random int                      // random images for each effect
	active bool                     // cut now; filling a store is not worth it
	skip   int                      // cut at one effect of so many
	effect int                      // seen
	last   spool.Effect             // seen before
	before map[string][]byte        // bolt: the files before the last effect
	known  map[uint64][]knownRecord // by epoch: records that were promised to be durable
	handed map[uint64]bool          // sizes that somebody outside holds a root for, in the present epoch
	epoch  uint64
	moving bool // a new epoch is being begun

	images, lost, recovered int
	joined                  int    // most records that one hash stood for
	fetched                 uint64 // by somebody
}

// knownRecord is a record that was promised.
type knownRecord struct {
	hash     logging.Hash
	critical bool
}

func newCutter(t *testing.T, b *bench) *cutter {
	c := &cutter{t: t, b: b, flash: newFlash(b.cfg.Dir), seed: rand.Uint64(), random: 1, skip: 17, active: true, known: map[uint64][]knownRecord{}, handed: map[uint64]bool{}}
	if os.Getenv("BACKSTAY_LONG") == "1" {
		c.random, c.skip = 60, 1
		if b.cfg.Store == spool.StoreBolt {
			c.random = 130 // it has fewer effects that can be seen
		}
	}
	c.rng = rand.New(rand.NewPCG(c.seed, 5))
	l, err := spool.OpenWithFuse(b.cfg, func(e spool.Effect) (bool, error) {
		c.step(e)
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c.log = l
	c.durable()
	return c
}

// durable notes that everything in the log now was promised to the caller.
func (c *cutter) durable() {
	c.t.Helper()
	if c.b.cfg.Store == spool.StoreBolt {
		c.followBolt() // while the last change was not promised yet
	}
	c.epoch = c.log.State().Origin.Epoch
	records := c.known[c.epoch]
	for leaf, err := range c.log.From(c.t.Context(), uint64(len(records))) {
		if err != nil || leaf.Level > 0 {
			c.t.Fatalf("record %d, level %d: %v", leaf.Index, leaf.Level, err)
		}
		r, err := logging.DecodeLeaf(leaf.Body)
		records = append(records, knownRecord{leaf.Hash, err == nil && r.Critical()})
	}
	c.known[c.epoch] = records
}

// hand lets somebody have the next batches, who gives no receipts.
func (c *cutter) hand(batches int) {
	c.t.Helper()
	for range batches {
		b, err := c.log.Batch(c.t.Context(), c.fetched)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(b.Leaves) == 0 {
			return
		}
		c.fetched = b.End()
		c.handed[c.fetched] = true
	}
}

// step is called before each effect.
func (c *cutter) step(e spool.Effect) {
	c.t.Helper()
	bolt := c.b.cfg.Store == spool.StoreBolt
	if bolt {
		c.followBolt()
	}
	c.effect++
	if c.active && c.effect%c.skip == 0 {
		c.cut(e.Op)
	}
	c.flash.follow(c.t, e)
	c.last = e
}

// cut tries what may be on flash now.
func (c *cutter) cut(op string) {
	c.try(op, func() bool { return false })
	if !c.flash.root.unsure() {
		return
	}
	c.try(op, func() bool { return true })
	for range c.random {
		odds := c.rng.IntN(5) + 1
		c.try(op, func() bool { return c.rng.IntN(6) < odds })
	}
}

// followBolt cuts inside the transaction that has just been committed. bbolt grows the file and syncs, writes pages and
// syncs, writes a meta page and syncs; so what differs between before and after is one of: some pages and the length, or
// all pages and some sectors of the meta pages.
func (c *cutter) followBolt() {
	for _, name := range []string{"audit.db.new", "audit.db"} {
		path := filepath.Join(c.b.cfg.Dir, name)
		after, err := os.ReadFile(path)
		n := c.flash.find(path)
		if errors.Is(err, fs.ErrNotExist) || n != nil && bytes.Equal(after, n.data) {
			continue
		}
		if err != nil {
			c.t.Fatal(err)
		}
		if n == nil {
			n = &node{}
			c.flash.step(path, step{name: name, node: n})
		}
		if c.active && c.effect%max(c.skip/4, 1) == 0 {
			c.cutBolt(n, after)
		}
		n.data, n.synced = after, after
	}
}

const boltMeta = 8192

func (c *cutter) cutBolt(n *node, after []byte) {
	before := n.data
	meta := min(boltMeta, len(before))
	pages := append(bytes.Clone(before[:meta]), after[meta:]...) // all data, no meta
	n.synced, n.data = before, pages
	c.cut("pages of " + c.last.Op)
	n.synced, n.data = pages, after
	c.cut("meta of " + c.last.Op)
}

// try starts from one image.
func (c *cutter) try(op string, pick func() bool) {
	c.t.Helper()
	dir, err := os.MkdirTemp(c.t.TempDir(), "")
	if err != nil {
		c.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c.flash.root.image(c.t, dir, pick, c.rng)
	c.images++
	cfg := c.b.cfg
	cfg.Dir = dir
	l, err := spool.Open(cfg)
	if err != nil {
		c.t.Fatalf("seed %d: cut at %q, image %d: %v", c.seed, op, c.images, err)
	}
	defer l.Close()
	s := l.State()
	if s.Origin.Epoch > c.epoch && c.epoch > 0 {
		c.recovered++
		if reason, _ := decode(c.t, l, 0).Attr("reason"); !c.moving || reason != "rolled-back" && reason != "store-missing" {
			c.t.Errorf("seed %d: cut at %q, image %d: a new epoch because of %q", c.seed, op, c.images, reason)
		}
	} else {
		c.compare(op, l)
	}
	for _, name := range []string{"audit.db.new", "audit.log.new"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			c.t.Errorf("seed %d: cut at %q: the unfinished store is still there", c.seed, op)
		}
	}
	if err := l.Append(c.t.Context(), critical(1)); err != nil {
		c.t.Errorf("seed %d: cut at %q, image %d: append: %v", c.seed, op, c.images, err)
	}
	if _, err := l.Verify(c.t.Context()); err != nil {
		c.t.Errorf("seed %d: cut at %q, image %d: verify: %v", c.seed, op, c.images, err)
	}
	shedIsNamed(c.t, l)
	if left := leftovers(dir); len(left) > 0 {
		c.t.Errorf("seed %d: cut at %q, image %d: left behind: %v", c.seed, op, c.images, left)
	}
}

// leftovers are files in the directory of a log that are no part of it, after the first commit.
func leftovers(dir string) (out []string) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".new") && !strings.HasSuffix(path, "audit.epoch.new") {
			out = append(out, path)
		}
		return nil
	})
	return out
}

// compare counts the records that were promised and are not there, or critical ones without their body.
func (c *cutter) compare(op string, l *spool.Log) {
	known := c.known[c.epoch]
	at := l.State().Pruned
	for leaf, err := range l.From(c.t.Context(), at) {
		if err != nil || at >= uint64(len(known)) {
			break
		}
		if leaf.End() > uint64(len(known)) || !sameRecords(leaf, known[at:leaf.End()]) {
			break
		}
		c.joined = max(c.joined, int(leaf.Count()))
		for i := at + 1; i < leaf.End(); i++ {
			if c.handed[i] {
				c.t.Errorf("seed %d: cut at %q, image %d: a head of %d records was handed out, and %d to %d are one hash", c.seed, op, c.images, i, at, leaf.End()-1)
			}
		}
		at = leaf.End()
	}
	if at < uint64(len(known)) {
		c.lost += len(known) - int(at)
		c.t.Errorf("seed %d: cut at %q, image %d: record %d of %d promised is not there; %+v", c.seed, op, c.images, at, len(known), l.State())
	}
}

// sameRecords reports whether a leaf is what was promised; of a critical record that is more than a hash.
func sameRecords(leaf logging.Leaf, known []knownRecord) bool {
	hashes := make([][32]byte, len(known))
	for i, k := range known {
		if hashes[i] = k.hash; k.critical && leaf.Shed() {
			return false
		}
	}
	return leaf.Hash == logging.Hash(mth(hashes))
}

// mth is the hash of a complete subtree.
func mth(d [][32]byte) [32]byte {
	if len(d) == 1 {
		return d[0]
	}
	l, r := mth(d[:len(d)/2]), mth(d[len(d)/2:])
	return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...))
}

func (c *cutter) report() {
	c.t.Logf("%s: %d effects, %d images, %d acknowledged records lost, %d opened with a new epoch, one hash for up to %d records", c.b.cfg.Store, c.effect, c.images, c.lost, c.recovered, c.joined)
}

// TestPowerCuts cuts the power before, in the middle of and after every durable effect, and starts again. Every record that
// was promised to be durable is there, the log verifies, and it takes new records.
func TestPowerCuts(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes under an emulator; nothing in it depends on the architecture")
	}
	eachStore(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Capacity = spool.MinCapacity // segments of 32 KiB
		c := newCutter(t, b)
		col := b.collector()
		for round := range 4 {
			if err := c.log.Append(t.Context(), critical(round)); err != nil {
				t.Fatal(err)
			}
			c.durable()
			fillLog(t, c.log, 100)
			c.durable()
			if err := c.log.Receipt(t.Context(), col.take(c.log)); err != nil {
				t.Fatal(err)
			}
			if err := c.log.Prune(t.Context(), uint64(round*60)); err != nil {
				t.Fatal(err)
			}
		}
		// A receipt for what we do not have: the next epoch.
		far, err := b.signer.Sign(logging.Checkpoint{Origin: c.log.State().Origin, Size: 1 << 20}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		c.moving = true
		wantCode(t, c.log.Receipt(t.Context(), far), logging.CodeRolledBack)
		c.moving = false
		c.durable()
		if err := c.log.Append(t.Context(), critical(9)); err != nil {
			t.Fatal(err)
		}
		c.durable()
		c.report()
	})
}

// long is an ordinary event whose text does not get smaller.
func (c *cutter) long() logging.Event {
	e := ordinary(0)
	for range 40 {
		e.Message += strconv.FormatUint(c.rng.Uint64(), 36)
	}
	return e
}

// TestPowerCutsWhenFull is the same while bodies are shed, what is left is joined and files rewritten, and somebody fetches a batch now
// and then.
func TestPowerCutsWhenFull(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes under an emulator; nothing in it depends on the architecture")
	}
	eachStore(t, func(t *testing.T) {
		b := newBench(t)
		b.cfg.Capacity = spool.MinCapacity
		c := newCutter(t, b)
		c.active = false
		for i := 0; c.log.State().Fill < 55 && i < 2000; i++ {
			if err := c.log.Append(t.Context(), c.long()); err != nil {
				t.Fatal(err)
			}
		}
		c.durable()
		c.active = true
		for i := range 12 {
			if err := c.log.Append(t.Context(), critical(i)); err != nil {
				t.Fatal(err)
			}
			c.durable()
			for range 40 {
				if err := c.log.Append(t.Context(), c.long()); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.log.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.durable()
			if i%5 == 4 {
				c.hand(2)
			}
		}
		if c.joined < 16 {
			t.Errorf("one hash stands for %d records at most", c.joined)
		}
		if codes(t, c.log)["shed"] == 0 {
			t.Error("nothing was shed")
		}
		c.report()
	})
}
