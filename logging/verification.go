// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"encoding/base64"
	"fmt"
	"slices"
)

// verification is the state of one Verify.
type verification struct {
	header  Header
	want    Expect
	report  Report
	tree    Tree   // over every record seen
	good    uint64 // size of the last root that was right
	newest  *Checkpoint
	found   []Receipt
	unnamed unnamed
	early   []pledge // receipts and checkpoints that cover more records than seen so far
	// headWrong waits for the next record or the end: if the log's own checkpoint contradicts its records as well, they were
	// edited, and that refusal can say where.
	headWrong error
}

// pledge is a signed root for a size that has not been reached.
type pledge struct {
	c    Checkpoint
	what string
}

// maxShedRanges bounds the report: beyond it, the last range grows over what lies between.
const maxShedRanges = 1000

func newVerification(h Header, want Expect) (*verification, error) {
	v := &verification{header: h, want: want, tree: h.Start.Clone(), good: h.Start.Size()}
	v.report = Report{Origin: h.Origin.String(), Epoch: h.Origin.Epoch, First: h.Start.Size(),
		Shed: []Range{}, Gaps: []Gap{}, Receipts: []ReceiptReport{}}
	id, err := DeviceID(h.SPKI)
	if err != nil {
		return v, err
	}
	v.report.Device = id
	if id != h.Origin.Device {
		return v, refuse(CodeDeviceMismatch, "log "+v.report.Origin, "the key presented with it belongs to device "+id)
	}
	if want.Device != "" && want.Device != id {
		return v, refuse(CodeDeviceMismatch, "log "+v.report.Origin, "expected device "+want.Device)
	}
	if want.Head != nil {
		switch {
		case want.Head.Origin.Device != id:
			return v, refuse(CodeDeviceMismatch, "log "+v.report.Origin, "the expected head is of "+want.Head.Origin.String())
		case want.Head.Origin.Epoch > h.Origin.Epoch:
			return v, refuse(CodeRolledBack, "log "+v.report.Origin, "a later epoch was seen before: "+want.Head.Origin.String())
		}
	}
	return v, v.compareHead()
}

func (v *verification) item(it Item) error {
	switch {
	case it.Leaf != nil:
		return v.leaf(*it.Leaf)
	case it.Checkpoint != nil:
		return v.checkpoint(it.Checkpoint)
	case it.Receipt != nil:
		return v.receipt(it.Receipt)
	}
	return nil
}

func (v *verification) bad(first, last uint64, code, why string) error {
	v.report.Bad = &Range{First: first, Last: last}
	return refuse(code, rangeText(*v.report.Bad)+" of "+v.report.Origin, why)
}

func (v *verification) leaf(l Leaf) error {
	at := v.tree.Size()
	if l.Index > at {
		return v.bad(at, l.Index-1, CodeRecordMissing, fmt.Sprintf("the next record present is %d", l.Index))
	}
	if l.Index < at {
		return v.bad(l.Index, l.Index, CodeRecordMoved, fmt.Sprintf("found where record %d belongs", at))
	}
	if !complete(at, l.Level) || l.Level > 0 && !l.Shed() {
		return v.bad(at, at, CodeMalformed, fmt.Sprintf("no subtree of level %d begins there", l.Level))
	}
	if l.Shed() {
		if err := v.shed(at, l.End()); err != nil {
			return err
		}
	} else {
		if LeafHash(l.Body) != l.Hash {
			return v.bad(at, at, CodeRecordAltered, "its bytes do not have the hash the log holds for it")
		}
		if err := v.body(at, l.Body, l.Side); err != nil {
			return err
		}
	}
	if v.headWrong != nil {
		return v.headWrong
	}
	v.tree.add(l.Level, l.Hash)
	v.headWrong = v.compareHead()
	return v.reached()
}

// shed takes over the records from at to end-1, of which one hash is left. A signed root over some of them, but not all, cannot be
// compared with anything then.
func (v *verification) shed(at, end uint64) error {
	if h := v.want.Head; h != nil && h.Origin == v.header.Origin && at < h.Size && h.Size < end {
		return v.bad(at, end-1, CodeRolledBack, fmt.Sprintf("they were shed as one although a head of %d records was handed out: a device that knows that keeps it comparable", h.Size))
	}
	for _, n := range v.early {
		if at < n.c.Size && n.c.Size < end {
			return v.bad(at, end-1, CodeMalformed, fmt.Sprintf("the %s covers %d records, only some of what was shed as one", n.what, n.c.Size))
		}
	}
	v.unnamed.add(at, end)
	s := v.report.Shed
	switch {
	case len(s) > 0 && (s[len(s)-1].Last+1 == at || len(s) == maxShedRanges):
		s[len(s)-1].Last = end - 1
	default:
		v.report.Shed = append(s, Range{First: at, Last: end - 1})
	}
	return nil
}

// body reads what a record says about itself and about losses.
func (v *verification) body(at uint64, body, side []byte) error {
	v.report.Records++
	r, err := DecodeLeaf(body)
	if err != nil {
		v.report.Opaque++
		return nil
	}
	if r.Origin != v.header.Origin || r.Index != at {
		return v.bad(at, at, CodeRecordMoved, fmt.Sprintf("the record found there says it is record %d of %s", r.Index, r.Origin))
	}
	if side != nil {
		v.report.Personal++
		if _, err := r.reveal(Leaf{Index: at, Side: side}); err != nil {
			return v.bad(at, at, CodeSideMismatch, err.Error())
		}
	}
	if v.report.FirstTime.IsZero() {
		v.report.FirstTime = r.Time
	}
	v.report.LastTime = r.Time
	switch r.Code {
	case "log.gap", "log.shed":
		if len(v.report.Gaps) < maxShedRanges {
			g := Gap{Index: at, Code: r.Code}
			g.Reason, _ = r.Attr("reason")
			g.Count, _ = r.Attr("count")
			v.report.Gaps = append(v.report.Gaps, g)
		}
		if r.Code == "log.shed" {
			text, _ := r.Attr("ranges")
			v.unnamed.name(text)
		}
	case "log.start":
		if at == 0 {
			v.report.Previous, _ = r.Attr("previous_origin")
		}
	}
	return nil
}

func (v *verification) checkpoint(msg []byte) error {
	c, err := OpenCheckpoint(msg, v.header.SPKI)
	if err != nil {
		return err
	}
	if c.Origin != v.header.Origin {
		return refuse(CodeDeviceMismatch, "checkpoint of "+c.Origin.String(), "found in the log "+v.report.Origin)
	}
	v.report.Checkpoints++
	if c.Size < v.tree.Size() {
		// Its root can no longer be compared, so it must not count as compared.
		return refuse(CodeMalformed, "checkpoint of "+c.Origin.String(), fmt.Sprintf("it covers %d records and stands after record %d", c.Size, v.tree.Size()-1))
	}
	if err := v.covered(c, "checkpoint"); err != nil {
		return err
	}
	if c.Size >= v.report.Size {
		v.report.Size, v.report.Root = c.Size, base64.StdEncoding.EncodeToString(c.Root[:])
		v.newest = &c
	}
	return nil
}

// receipt verifies a receipt if its key is listed. One of another key says nothing to this verifier.
func (v *verification) receipt(msg []byte) error {
	if len(v.want.Policy.Keys) == 0 {
		return nil
	}
	got, err := v.want.Policy.Open(msg)
	if err != nil {
		return err
	}
	c := got[0].Checkpoint
	if c.Origin != v.header.Origin {
		return refuse(CodeBadReceipt, "receipt for "+c.Origin.String(), "found in the log "+v.report.Origin)
	}
	if err := v.covered(c, "receipt of "+got[0].Key); err != nil {
		return err
	}
	v.found = append(v.found, got...)
	return nil
}

// covered compares a signed root with the records: now, when there are that many, or as soon as there are.
func (v *verification) covered(c Checkpoint, what string) error {
	switch {
	case c.Size > v.tree.Size():
		v.early = append(v.early, pledge{c, what})
		if len(v.early) > maxShedRanges {
			return refuse(CodeMalformed, "log "+v.report.Origin, "too many checkpoints ahead of the records")
		}
		return nil
	case c.Size < v.tree.Size():
		if c.Size > v.header.Start.Size() {
			return refuse(CodeMalformed, what+" of "+v.report.Origin, fmt.Sprintf("it covers %d records and stands after record %d", c.Size, v.tree.Size()-1))
		}
		// A receipt for records before the run, which were pruned because of it. Its signer vouches for them, nothing here does.
		return nil
	}
	return v.compare(c, what)
}

func (v *verification) compare(c Checkpoint, what string) error {
	if v.tree.Root() == c.Root {
		v.good = c.Size
		return nil
	}
	if c.Size == 0 {
		return refuse(CodeRootMismatch, what+" of "+v.report.Origin, "the root of the empty log is wrong")
	}
	return v.bad(min(v.good, c.Size-1), c.Size-1, CodeRootMismatch,
		fmt.Sprintf("the records do not add up to the root the %s for %d records was given for", what, c.Size))
}

// reached compares what came early and is due now.
func (v *verification) reached() error {
	var err error
	v.early = slices.DeleteFunc(v.early, func(n pledge) bool {
		if n.c.Size != v.tree.Size() {
			return false
		}
		if e := v.compare(n.c, n.what); err == nil {
			err = e
		}
		return true
	})
	return err
}

func (v *verification) compareHead() error {
	h := v.want.Head
	if h == nil || h.Origin != v.header.Origin || h.Size != v.tree.Size() {
		return nil
	}
	v.report.HeadChecked = true
	if h.Root != v.tree.Root() {
		return v.forked(*h)
	}
	return nil
}

func (v *verification) forked(h Checkpoint) error {
	return refuse(CodeForked, "log "+v.report.Origin, fmt.Sprintf("another root was signed for %d records before", h.Size))
}

func (v *verification) finish() error {
	if v.headWrong != nil {
		return v.headWrong
	}
	for _, n := range v.early {
		return v.bad(v.tree.Size(), n.c.Size-1, CodeTruncated, fmt.Sprintf("the %s covers %d records, %d are here", n.what, n.c.Size, v.tree.Size()))
	}
	if h := v.want.Head; h != nil && h.Origin == v.header.Origin {
		if h.Size > v.tree.Size() {
			return v.bad(v.tree.Size(), h.Size-1, CodeRolledBack, fmt.Sprintf("a head of %d records was seen before, %d are here", h.Size, v.tree.Size()))
		}
	}
	if v.newest == nil && v.tree.Size() > 0 {
		return refuse(CodeUnsigned, "log "+v.report.Origin, "no checkpoint covers its records")
	}
	v.report.Unsigned = v.tree.Size() - v.report.Size
	v.report.Unnamed = v.unnamed.count()
	v.receipts()
	if v.want.Acked && v.report.Acked == 0 {
		return refuse(CodeNoQuorum, "log "+v.report.Origin, fmt.Sprintf("fewer than %d of the listed keys have acknowledged it", v.want.Policy.Quorum))
	}
	return nil
}

func (v *verification) receipts() {
	v.report.Acked = v.want.Policy.Acked(v.found)
	for _, k := range v.want.Policy.Keys {
		var best *Receipt
		for i, r := range v.found {
			if r.Key == k.name && r.KeyHash == k.hash && (best == nil || r.Checkpoint.Size > best.Checkpoint.Size) {
				best = &v.found[i]
			}
		}
		if best != nil {
			v.report.Receipts = append(v.report.Receipts, ReceiptReport{Key: best.Key, Size: best.Checkpoint.Size, Time: best.Time})
		}
	}
}
