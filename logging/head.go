// SPDX-License-Identifier: Apache-2.0

package logging

import "fmt"

// Head is what a consumer remembers of one log: enough to verify the next batch and to tell a rolled back or forked device
// from an honest one. It must be stored in the same transaction as the records it covers, compare-and-set.
type Head struct {
	Origin Origin
	Tree   Tree
}

// Advance verifies a batch against the head and returns the head after it, the records that are new, and the verified
// checkpoint. Nothing is changed; a batch that brings nothing new returns the same head and no records.
//
// Errors match ErrRefused. CodeBatchGap means the batch starts beyond the head: answer with the last receipt, the device
// rewinds. CodeDeviceMismatch, CodeBadCheckpoint and CodeMalformed mean the batch proves nothing. CodeRootMismatch means
// that the device signed a log that does not continue the one this consumer has, or that a record was altered after
// signing; CodeForked that it signed another root for a size this consumer already has; CodeRolledBack that it shed records as one on both sides of this
// head, which a device never does that knows what it has sent. These three are evidence: keep the
// batch, raise an alarm, give no receipt. CodeSideMismatch means that a personal value beside a record is not the one it commits
// to: somebody between the device and here changed it, since a device checks before it sends.
func (h Head) Advance(b Batch) (Head, []Leaf, Checkpoint, error) {
	fail := func(err error) (Head, []Leaf, Checkpoint, error) { return h, nil, Checkpoint{}, err }
	c, err := OpenCheckpoint(b.Checkpoint, b.SPKI)
	if err != nil {
		return fail(err)
	}
	what := fmt.Sprintf("batch of records %d to %d of %s", b.Start, b.End(), b.Origin)
	switch {
	case c.Origin != b.Origin:
		return fail(refuse(CodeMalformed, what, "its checkpoint is of "+c.Origin.String()))
	case b.Origin != h.Origin:
		return fail(refuse(CodeDeviceMismatch, what, "it is not of the log "+h.Origin.String()))
	case c.Size != b.End():
		return fail(refuse(CodeMalformed, what, fmt.Sprintf("its checkpoint covers %d records", c.Size)))
	case b.Start > h.Tree.Size():
		return fail(refuse(CodeBatchGap, what, fmt.Sprintf("%d records are here", h.Tree.Size())))
	}
	if b.End() <= h.Tree.Size() {
		if b.End() == h.Tree.Size() && c.Root != h.Tree.Root() {
			return fail(refuse(CodeForked, what, "the device signed another root for a size already acknowledged"))
		}
		return h, nil, c, nil
	}
	fresh, straddles := after(b, h.Tree.Size())
	if straddles {
		return fail(refuse(CodeRolledBack, what, fmt.Sprintf("the device shed records in one on both sides of the %d that are here, and does not know that it sent them", h.Tree.Size())))
	}
	next := h.Tree.Clone()
	for _, l := range fresh {
		if !l.Shed() && LeafHash(l.Body) != l.Hash {
			return fail(refuse(CodeRecordAltered, what, fmt.Sprintf("record %d does not have the hash it comes with", l.Index)))
		}
		if err := CheckSide(l); err != nil {
			return fail(err)
		}
		if err := next.AppendSubtree(l.Level, l.Hash); err != nil {
			return fail(err)
		}
	}
	if next.Root() != c.Root {
		return fail(refuse(CodeRootMismatch, what, "the records do not add up to the signed root"))
	}
	return Head{Origin: h.Origin, Tree: next}, fresh, c, nil
}

// after returns the leaves of a batch from record size on, and whether one of them begins before.
func after(b Batch, size uint64) (leaves []Leaf, straddles bool) {
	at := b.Start
	for i, l := range b.Leaves {
		if at >= size {
			return b.Leaves[i:], at > size
		}
		at += l.Count()
	}
	return nil, at > size
}
