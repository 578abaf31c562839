// SPDX-License-Identifier: Apache-2.0

// Package logging is the record of a device that nobody can quietly edit: events, the exact bytes that stand for them, the
// Merkle log over those bytes, the signed head of that log, the receipt of whoever stored it, and the verification of all
// of it. Device, collector and offline verifier use this same code.
//
// One log per device and epoch. A leaf is the exact JSON bytes of one OCSF event; its hash is the RFC 6962 leaf hash
// SHA-256(0x00 || bytes), so whoever has the bytes can check them with sha256sum and no canonical form is involved. The head
// is a C2SP tlog-checkpoint signed by the birth key of the device; a receipt is a C2SP cosignature/v1 with the mirror
// meaning "durably stored". Details: [EncodeLeaf], [Tree], [Checkpoint], [Receipt], [Batch], [Verify].
//
// What it does not own: where leaves are kept (logging/spool on the device, logging/collect on the fleet side), how they
// travel (logging/ship), keys (identity).
//
// An attacker who controls its input can be any of: a broker (batches and receipts), a program on the device (the text in
// events), somebody who can write the device's flash (leaves, checkpoints, receipts) or an export file. Every parser here
// has explicit limits and a fuzz target; nothing is believed before a signature and a recomputed root say so. What such an
// attacker can still do: with the device's key and root he may add false records from then on and delete records that
// nobody has acknowledged yet. He cannot change what has been acknowledged without being seen.
//
// All functions are pure and safe for concurrent use; values are not.
package logging

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// Emit records one event. Pillars call it with a stable code (see [Lookup]) and attributes; the composition turns it into
// an [Event] with [NewEvent], adds what it knows about the device, and appends it to the spool.
type Emit func(code string, attrs ...slog.Attr)

// Limits of the formats of this package. They are part of the formats: a decoder refuses what exceeds them.
const (
	// MaxLeaf bounds the bytes of one leaf. [EncodeLeaf] never produces more.
	MaxLeaf = 16 << 10
	// MaxNote bounds a signed note: a checkpoint, or a receipt with several cosignatures.
	MaxNote = 8 << 10
	// MaxSPKI bounds a public key in SubjectPublicKeyInfo form (P-256 takes 91 bytes).
	MaxSPKI = 512
	// MaxOrigin bounds the name of a log.
	MaxOrigin = 128
)

const (
	originPrefix = "backstay/audit/"
	deviceIDLen  = 26
)

// Origin is the name of one log: one device, one epoch. It is the first line of every checkpoint.
type Origin struct {
	Device string // device id: 26 characters of lower-case base32
	Epoch  uint64 // starts at 1, rises whenever the log had to start anew
}

// String returns "backstay/audit/<device>/<epoch>".
func (o Origin) String() string {
	return originPrefix + o.Device + "/" + strconv.FormatUint(o.Epoch, 10)
}

// ParseOrigin is the inverse of [Origin.String]; it accepts nothing else. Errors match ErrRefused.
func ParseOrigin(s string) (Origin, error) {
	bad := func(why string) (Origin, error) { return Origin{}, refuse(CodeMalformed, "origin", why) }
	if len(s) > MaxOrigin {
		return bad("too long")
	}
	rest, ok := strings.CutPrefix(s, originPrefix)
	if !ok {
		return bad("does not start with " + originPrefix)
	}
	device, epoch, ok := strings.Cut(rest, "/")
	if !ok || !validDeviceID(device) {
		return bad("no device id in it")
	}
	n, err := strconv.ParseUint(epoch, 10, 63)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != epoch {
		return bad("epoch is not a positive number")
	}
	return Origin{Device: device, Epoch: n}, nil
}

func validDeviceID(s string) bool {
	if len(s) != deviceIDLen {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// DeviceID returns the device id that belongs to a public key in SubjectPublicKeyInfo form: the first 26 characters of the
// lower-case base32 of its SHA-256. It is the same rule as the identity pillar's, so the id certifies itself: nobody
// needs a directory to know whether a key belongs to a device. Errors match ErrRefused.
func DeviceID(spki []byte) (string, error) {
	if len(spki) > MaxSPKI {
		return "", refuse(CodeMalformed, "device key", "too long")
	}
	if _, err := x509.ParsePKIXPublicKey(spki); err != nil {
		return "", refuseErr(CodeMalformed, "device key", err)
	}
	return deviceID(spki), nil
}

func deviceID(spki []byte) string {
	sum := sha256.Sum256(spki)
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:deviceIDLen]
}

func rangeText(r Range) string {
	if r.Last == r.First {
		return fmt.Sprintf("record %d", r.First)
	}
	return fmt.Sprintf("records %d to %d", r.First, r.Last)
}

// Range names records by index, both ends inclusive.
type Range struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}
