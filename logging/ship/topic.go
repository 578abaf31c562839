// SPDX-License-Identifier: Apache-2.0

package ship

import (
	"fmt"
	"strings"

	"github.com/backstay/backstay/logging"
)

// Topics, all below one prefix so that one ACL line per direction is enough:
//
//	backstay/v1/<device>/audit     device -> collector  batches, QoS 1, never retained
//	backstay/v1/<device>/receipt   collector -> device  newest receipt, QoS 1, retained
//	backstay/v1/<device>/doorbell  collector -> device  "look now", QoS 1, never retained, at most MaxDoorbell bytes
//	backstay/v1/<device>/status    device -> collector  [PresenceNote], QoS 1, retained, also the will; at most MaxPresence bytes
//
// <device> is the device id, which is also the MQTT client id and the common name of the certificate. The version is that of
// the topic layout; the formats inside carry their own.
const topicPrefix = "backstay/v1/"

// MaxTopic bounds a topic name in bytes.
const MaxTopic = 64

// MaxDoorbell bounds the payload of a doorbell message in bytes. It is text for the engineer's log and is never acted on.
const MaxDoorbell = 64

// Kind is the last part of a topic.
type Kind string

// The kinds of topic.
const (
	Audit    Kind = "audit"
	Receipt  Kind = "receipt"
	Doorbell Kind = "doorbell"
	Presence Kind = "status"
)

// Topic names one channel of one device.
type Topic struct {
	Device string // device id
	Kind   Kind
}

// String returns the topic name.
func (t Topic) String() string { return topicPrefix + t.Device + "/" + string(t.Kind) }

// ParseTopic is the inverse of [Topic.String] and accepts nothing else: no wildcard, no other version, no other kind, no
// device id that [logging.DeviceID] cannot produce. Errors match logging.ErrRefused with code logging.CodeMalformed.
func ParseTopic(s string) (Topic, error) {
	bad := func(why string) (Topic, error) {
		return Topic{}, &logging.Refusal{Code: logging.CodeMalformed, What: "topic", Why: why}
	}
	if len(s) > MaxTopic {
		return bad("too long")
	}
	rest, ok := strings.CutPrefix(s, topicPrefix)
	if !ok {
		return bad("does not start with " + topicPrefix)
	}
	device, kind, _ := strings.Cut(rest, "/")
	if !ValidDevice(device) {
		return bad("no device id in it")
	}
	switch k := Kind(kind); k {
	case Audit, Receipt, Doorbell, Presence:
		return Topic{Device: device, Kind: k}, nil
	}
	return bad(fmt.Sprintf("unknown kind %q", kind))
}

// ValidDevice reports whether s has the form of a device id.
func ValidDevice(s string) bool {
	// An origin is the one place that defines the form; epoch 1 always parses.
	_, err := logging.ParseOrigin(logging.Origin{Device: s, Epoch: 1}.String())
	return err == nil
}

// Filter is the subscription of a collector to one kind of all devices.
func Filter(k Kind) string { return topicPrefix + "+/" + string(k) }
