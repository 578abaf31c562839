// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"bytes"
	"compress/flate"
	_ "embed"
	"errors"
	"io"

	"github.com/backstay/backstay/logging"
)

// Bodies are kept deflated (RFC 1951) against a dictionary of ordinary records: 840 bytes of JSON, of which most say the same
// every time, become about 200, so that a device keeps four times the backlog and writes a third. The hash kept with a
// record is that of the body itself: what comes back wrong is refused.
//
// packDict is for ever: records on flash need it. A better one would be a second file and a flag of its own.
//
//go:embed pack.dict
var packDict []byte

// packer deflates bodies. It holds about 0.8 MB.
type packer struct {
	w   *flate.Writer
	buf bytes.Buffer
}

// pack returns the deflated form of a body, nil when it would not be smaller. It is valid until the next call.
func (p *packer) pack(body []byte) []byte {
	p.buf.Reset()
	if p.w == nil {
		w, err := flate.NewWriterDict(&p.buf, flate.DefaultCompression, packDict)
		if err != nil {
			return nil
		}
		p.w = w
	} else {
		p.w.Reset(&p.buf)
	}
	if _, err := p.w.Write(body); err != nil || p.w.Close() != nil || p.buf.Len() >= len(body) {
		return nil
	}
	return p.buf.Bytes()
}

// unpacker inflates bodies. The zero value is ready; it holds about 40 KB once it was used.
type unpacker struct {
	r   io.ReadCloser
	src bytes.Reader
}

var errPacked = errors.New("its bytes do not unpack")

// unpack returns the body in memory of its own, never more than logging.MaxLeaf bytes.
func (u *unpacker) unpack(packed []byte) ([]byte, error) {
	u.src.Reset(packed)
	if u.r == nil {
		u.r = flate.NewReaderDict(&u.src, packDict)
	} else if err := u.r.(flate.Resetter).Reset(&u.src, packDict); err != nil {
		return nil, errPacked
	}
	body := make([]byte, 0, min(6*len(packed)+512, logging.MaxLeaf+1))
	for {
		if len(body) > logging.MaxLeaf {
			return nil, errPacked
		}
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
		n, err := u.r.Read(body[len(body):min(cap(body), logging.MaxLeaf+1)])
		body = body[:len(body)+n]
		if err == io.EOF && u.src.Len() == 0 && len(body) <= logging.MaxLeaf {
			return body, nil
		}
		if err != nil {
			return nil, errPacked
		}
	}
}
