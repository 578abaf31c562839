// SPDX-License-Identifier: Apache-2.0

package est

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

// maxCertificate is the most one certificate may take, in bytes.
const maxCertificate = 16 << 10

// contentInfo is the outer layer of CMS (RFC 5652 section 3).
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,tag:0"`
}

// ParseCerts reads a "certs-only" message: CMS SignedData without content and without signers, used as a bag of certificates
// (RFC 7030 4.1.3). DER only, nothing behind the message, 1 to 16 certificates, 256 KiB in all.
func ParseCerts(der []byte) ([]*x509.Certificate, error) {
	if len(der) > MaxReply {
		return nil, fmt.Errorf("certs-only: %d bytes", len(der))
	}
	var outer contentInfo
	if rest, err := asn1.Unmarshal(der, &outer); err != nil {
		return nil, fmt.Errorf("certs-only: %w", err)
	} else if len(rest) != 0 {
		return nil, fmt.Errorf("certs-only: %d bytes behind the message", len(rest))
	}
	if !outer.Type.Equal(oidSignedData()) {
		return nil, fmt.Errorf("certs-only: content type %s is not SignedData", outer.Type)
	}
	set, err := certificateSet(outer.Content.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certs-only: %w", err)
	}
	var certs []*x509.Certificate
	for len(set) > 0 {
		if len(certs) == MaxCertificates {
			return nil, fmt.Errorf("certs-only: more than %d certificates", MaxCertificates)
		}
		var one asn1.RawValue
		if set, err = asn1.Unmarshal(set, &one); err != nil {
			return nil, fmt.Errorf("certs-only: certificate %d: %w", len(certs)+1, err)
		}
		if one.Class != asn1.ClassUniversal || one.Tag != asn1.TagSequence || len(one.FullBytes) > maxCertificate {
			return nil, fmt.Errorf("certs-only: certificate %d: not an X.509 certificate of at most %d bytes", len(certs)+1, maxCertificate)
		}
		c, err := x509.ParseCertificate(one.FullBytes)
		if err != nil {
			return nil, fmt.Errorf("certs-only: certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("certs-only: no certificate")
	}
	return certs, nil
}

// certificateSet walks the fields of SignedData (RFC 5652 5.1) and returns the content of certificates [0].
//
//	SignedData ::= SEQUENCE { version INTEGER, digestAlgorithms SET, encapContentInfo SEQUENCE,
//	    certificates [0] IMPLICIT SET OPTIONAL, crls [1] IMPLICIT SET OPTIONAL, signerInfos SET }
func certificateSet(content []byte) ([]byte, error) {
	var signed asn1.RawValue
	if rest, err := asn1.Unmarshal(content, &signed); err != nil {
		return nil, err
	} else if len(rest) != 0 || signed.Class != asn1.ClassUniversal || signed.Tag != asn1.TagSequence {
		return nil, errors.New("malformed SignedData")
	}
	const set, sequence, context = 1<<8 | asn1.TagSet, 1<<8 | asn1.TagSequence, 1<<8 | 1<<16
	next, want := signed.Bytes, []int{asn1.TagInteger, set, sequence, context | 0, context | 1, set}
	var certs []byte
	var fields [6]asn1.RawValue
	for n := range want {
		if n == 3 || n == 4 { // optional
			if len(next) == 0 || next[0] != byte(0xa0+n-3) {
				continue
			}
		}
		var err error
		if next, err = asn1.Unmarshal(next, &fields[n]); err != nil {
			return nil, fmt.Errorf("SignedData field %d: %w", n+1, err)
		}
		if kind(fields[n]) != want[n] {
			return nil, fmt.Errorf("SignedData field %d has the wrong type", n+1)
		}
	}
	certs = fields[3].Bytes
	switch {
	case len(next) != 0:
		return nil, errors.New("unknown field behind SignedData")
	case len(fields[5].Bytes) != 0:
		return nil, errors.New("it has a signer, certs-only has none")
	}
	return certs, nil
}

// kind folds class, form and tag of a value into one number.
func kind(v asn1.RawValue) int {
	k := v.Tag
	if v.IsCompound {
		k |= 1 << 8
	}
	if v.Class == asn1.ClassContextSpecific {
		k |= 1 << 16
	} else if v.Class != asn1.ClassUniversal {
		k |= 1 << 17
	}
	return k
}

// EncodeCerts makes the message ParseCerts reads. A server sends it as Wrap(EncodeCerts(...)).
func EncodeCerts(certs []*x509.Certificate) ([]byte, error) {
	var set []byte
	for _, c := range certs {
		set = append(set, c.Raw...)
	}
	type encap struct{ Type asn1.ObjectIdentifier }
	signed, err := asn1.Marshal(struct {
		Version int
		Digests []asn1.RawValue `asn1:"set"`
		Encap   encap
		Certs   asn1.RawValue
		Signers []asn1.RawValue `asn1:"set"`
	}{
		Version: 1, Encap: encap{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}},
		Certs: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: set},
	})
	if err != nil {
		return nil, fmt.Errorf("encode certs-only: %w", err)
	}
	der, err := asn1.Marshal(struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}{oidSignedData(), asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: signed}})
	if err != nil {
		return nil, fmt.Errorf("encode certs-only: %w", err)
	}
	return der, nil
}

func oidSignedData() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2} }
