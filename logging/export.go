// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
)

// An export is the evidence of one log as a text file, one item a line, so that it can be read, cut and checked without
// this program:
//
//	backstay-audit-export 3
//	spki <base64>                        device key
//	origin <name>
//	start <n>                            index of the first record
//	frontier <hex>                       one line per hash of the frontier before it, largest subtree first
//	leaf <index> <hex> <bytes>           hash and exact bytes to the end of the line
//	leaf64 <index> <hex> <base64>        the same for bytes that are not one printable line
//	side <index> <json>                  personal values the leaf before it commits to; no hash covers it, it may be left out
//	shed <index> <hex>                   hash of a record whose body was shed
//	subtree <index> <level> <hex>        hash of the complete subtree of 2^level shed records that begins at index
//	checkpoint <base64>                  signed note
//	receipt <base64>                     signed note
//	end <number of records>
//
// Version 2 is the same without subtree lines, version 1 without side lines too.
//
// The hash of a leaf is SHA-256 of one zero byte and the bytes: `(printf '\0'; printf %s "$bytes") | sha256sum`; that of a subtree
// is SHA-256 of a byte 1 and the hashes of its two halves (RFC 6962).
const (
	exportMagic   = "backstay-audit-export"
	exportVersion = "3"
	exportSided   = "2"
	exportPlain   = "1"
	maxExportLine = 64 + 2*MaxLeaf
)

// WriteExport writes evidence to w as it comes; memory does not grow with it. The evidence is not verified here, so that a
// damaged log can be exported for forensics too. An error of items ends the file without its last line, which a reader
// then refuses as cut off.
func WriteExport(w io.Writer, h Header, items iter.Seq2[Item, error]) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s %s\nspki %s\norigin %s\nstart %d\n", exportMagic, exportVersion,
		base64.StdEncoding.EncodeToString(h.SPKI), h.Origin, h.Start.Size())
	for _, n := range h.Start.Nodes() {
		fmt.Fprintf(out, "frontier %x\n", n[:])
	}
	records := uint64(0)
	for it, err := range items {
		if err != nil {
			return errors.Join(fmt.Errorf("export %s: %w", h.Origin, err), out.Flush())
		}
		switch {
		case it.Leaf != nil:
			records += it.Leaf.Count()
			writeLeafLine(out, *it.Leaf)
		case it.Checkpoint != nil:
			fmt.Fprintf(out, "checkpoint %s\n", base64.StdEncoding.EncodeToString(it.Checkpoint))
		case it.Receipt != nil:
			fmt.Fprintf(out, "receipt %s\n", base64.StdEncoding.EncodeToString(it.Receipt))
		}
	}
	fmt.Fprintf(out, "end %d\n", records)
	if err := out.Flush(); err != nil { // bufio keeps the first error of all writes
		return fmt.Errorf("export %s: %w", h.Origin, err)
	}
	return nil
}

func writeLeafLine(out *bufio.Writer, l Leaf) {
	switch {
	case l.Shed() && l.Level > 0:
		fmt.Fprintf(out, "subtree %d %d %x\n", l.Index, l.Level, l.Hash[:])
		return
	case l.Shed():
		fmt.Fprintf(out, "shed %d %x\n", l.Index, l.Hash[:])
		return
	case printable(l.Body):
		fmt.Fprintf(out, "leaf %d %x %s\n", l.Index, l.Hash[:], l.Body)
	default:
		fmt.Fprintf(out, "leaf64 %d %x %s\n", l.Index, l.Hash[:], base64.StdEncoding.EncodeToString(l.Body))
	}
	if printable(l.Side) {
		fmt.Fprintf(out, "side %d %s\n", l.Index, l.Side)
	}
}

func printable(b []byte) bool {
	return len(b) > 0 && bytes.IndexFunc(b, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// ReadExport reads the head of an export and returns it with the rest as evidence for [Verify]. The sequence can be used
// once and reads from r as it goes. Every line is bounded; an unknown line, a missing end or anything after it is an error
// that matches ErrRefused (CodeMalformed, CodeTruncated for a file that was cut off, CodeUnknownVersion).
func ReadExport(r io.Reader) (Header, iter.Seq2[Item, error], error) {
	e := &exportReader{s: bufio.NewScanner(r)}
	e.s.Buffer(make([]byte, 0, 4096), maxExportLine)
	h, err := e.header()
	if err != nil {
		return Header{}, nil, err
	}
	return h, e.items, nil
}

type exportReader struct {
	s       *bufio.Scanner
	line    int
	pending bool // the current line was read but not used
	records uint64
}

// next returns the word a line starts with and the rest.
func (e *exportReader) next() (word, rest string, err error) {
	if e.pending {
		e.pending = false
	} else {
		if !e.s.Scan() {
			if err := e.s.Err(); errors.Is(err, bufio.ErrTooLong) {
				return "", "", e.bad("line too long")
			} else if err != nil {
				return "", "", fmt.Errorf("read export: %w", err)
			}
			return "", "", refuse(CodeTruncated, "export", fmt.Sprintf("it ends after line %d without an end line", e.line))
		}
		e.line++
	}
	word, rest, _ = strings.Cut(e.s.Text(), " ")
	return word, rest, nil
}

func (e *exportReader) bad(why string) error {
	return refuse(CodeMalformed, fmt.Sprintf("export line %d", e.line), why)
}

func (e *exportReader) field(name string) (string, error) {
	word, rest, err := e.next()
	if err == nil && word != name {
		err = e.bad("want " + name)
	}
	return rest, err
}

func (e *exportReader) header() (Header, error) {
	word, version, err := e.next()
	if err != nil {
		return Header{}, err
	}
	if word != exportMagic {
		return Header{}, e.bad("not an audit export")
	}
	if version != exportVersion && version != exportSided && version != exportPlain {
		return Header{}, refuse(CodeUnknownVersion, "export", fmt.Sprintf("version %.20q, this program knows %s", version, exportVersion))
	}
	spki, err := e.field("spki")
	if err != nil {
		return Header{}, err
	}
	origin, err := e.field("origin")
	if err != nil {
		return Header{}, err
	}
	start, err := e.field("start")
	if err != nil {
		return Header{}, err
	}
	var h Header
	if h.SPKI, err = base64.StdEncoding.DecodeString(spki); err != nil || len(h.SPKI) > MaxSPKI {
		return Header{}, refuse(CodeMalformed, "export", "device key is not base64 or too long")
	}
	if h.Origin, err = ParseOrigin(origin); err != nil {
		return Header{}, err
	}
	size, err := strconv.ParseUint(start, 10, 63)
	if err != nil {
		return Header{}, refuse(CodeMalformed, "export", "start is not a number")
	}
	nodes, err := e.frontier()
	if err != nil {
		return Header{}, err
	}
	h.Start, err = NewTree(size, nodes)
	return h, err
}

func (e *exportReader) frontier() ([]Hash, error) {
	var nodes []Hash
	for {
		word, rest, err := e.next()
		if err != nil {
			return nil, err
		}
		if word != "frontier" {
			e.pending = true
			return nodes, nil
		}
		h, err := e.hash(rest)
		if err != nil {
			return nil, err
		}
		if nodes = append(nodes, h); len(nodes) > 63 {
			return nil, e.bad("too many frontier hashes")
		}
	}
}

func (e *exportReader) hash(s string) (Hash, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != HashSize {
		return Hash{}, e.bad("not a hash in hex")
	}
	return Hash(b), nil
}

func (e *exportReader) items(yield func(Item, error) bool) {
	for {
		word, rest, err := e.next()
		if err != nil {
			yield(Item{}, err)
			return
		}
		if word == "end" {
			if err := e.end(rest); err != nil {
				yield(Item{}, err)
			}
			return
		}
		it, err := e.item(word, rest)
		if !yield(it, err) || err != nil {
			return
		}
	}
}

func (e *exportReader) end(rest string) error {
	if rest != strconv.FormatUint(e.records, 10) {
		return refuse(CodeTruncated, "export", fmt.Sprintf("it ends with %.20q records, %d are in it", rest, e.records))
	}
	if e.s.Scan() {
		return e.bad("something follows the end")
	}
	if err := e.s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return e.bad("something follows the end")
	} else if err != nil {
		return fmt.Errorf("read export: %w", err)
	}
	return nil
}

func (e *exportReader) item(word, rest string) (Item, error) {
	switch word {
	case "leaf", "leaf64", "shed", "subtree":
		l, err := e.leaf(word, rest)
		e.records += l.Count()
		if err == nil {
			l.Side, err = e.side(l.Index)
		}
		return Item{Leaf: &l}, err
	case "checkpoint", "receipt":
		b, err := base64.StdEncoding.DecodeString(rest)
		if err != nil || len(b) == 0 || len(b) > MaxNote {
			return Item{}, e.bad("not a signed note in base64")
		}
		if word == "checkpoint" {
			return Item{Checkpoint: b}, nil
		}
		return Item{Receipt: b}, nil
	}
	return Item{}, e.bad("unknown item")
}

// side reads the line after a leaf when it is its side record.
func (e *exportReader) side(index uint64) ([]byte, error) {
	word, rest, err := e.next()
	if err != nil || word != "side" {
		e.pending = err == nil
		if code := new(Refusal); errors.As(err, &code) && code.Code == CodeTruncated {
			err = nil // the next line will be asked for again, and its absence is told then
		}
		return nil, err
	}
	at, side, _ := strings.Cut(rest, " ")
	switch {
	case at != strconv.FormatUint(index, 10):
		return nil, e.bad("a side record of another leaf")
	case len(side) == 0 || len(side) > MaxSide || !printable([]byte(side)):
		return nil, e.bad("side record is empty, too long or not printable")
	}
	return []byte(side), nil
}

func (e *exportReader) leaf(word, rest string) (Leaf, error) {
	index, rest, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(index, 10, 63)
	if err != nil {
		return Leaf{}, e.bad("index is not a number")
	}
	l := Leaf{Index: n}
	if word == "subtree" {
		var level string
		level, rest, _ = strings.Cut(rest, " ")
		k, err := strconv.ParseUint(level, 10, 8)
		if l.Level = uint8(k); err != nil || k == 0 || !complete(n, l.Level) {
			return Leaf{}, e.bad("no subtree of this level begins here")
		}
	}
	sum, body, more := strings.Cut(rest, " ")
	if l.Hash, err = e.hash(sum); err != nil {
		return Leaf{}, err
	}
	switch word {
	case "leaf":
		l.Body = []byte(body)
	case "leaf64":
		if l.Body, err = base64.StdEncoding.DecodeString(body); err != nil {
			return Leaf{}, e.bad("record is not base64")
		}
	case "shed", "subtree":
		if more {
			return Leaf{}, e.bad("a shed record with a body")
		}
		return l, nil
	}
	if len(l.Body) == 0 || len(l.Body) > MaxLeaf {
		return Leaf{}, e.bad("record is empty or too long")
	}
	return l, nil
}
