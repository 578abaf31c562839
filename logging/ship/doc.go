// SPDX-License-Identifier: Apache-2.0

// Package ship carries the audit log of a device to whoever keeps it: topics, the cursor, the MQTT connection and the loop
// that ties them together.
//
// It owns no storage. The log on flash is the queue (logging/spool behind [Log]); a batch that is lost on the way is read
// from there again. What it decides is only when to send what, and it decides that from four numbers (see [Cursor]).
//
// The broker is not trusted. A PUBACK is flow control and never proof: brokers acknowledge what they drop, forbid or forget
// (measured: a cursor moved by PUBACK lost 4192 and 7904 of 20000 records). Only a receipt, signed by a key the device was
// configured with and over the root the device itself computes at that size, moves the durable cursor. An attacker who
// controls the broker or the network can therefore delay or withhold, which is reported (delivery.stalled), make the
// device send again, and ring the doorbell. He cannot make it believe that a record arrived, allocate memory by a packet header
// (see limitConn), or run anything.
//
// There may be several brokers; one is used at a time (rotation), and a device returns to a broker that went away so that its
// fleet does not fall on it as one (backoff). On a retained topic it says whether it is there ([PresenceNote]). Brokers are reached
// directly or through a proxy that the configuration names ([Dialer]); the environment is not asked.
//
// The paho client is imported here and nowhere else. The adapter [MQTT] serves both ends: devices through [Shipper] and
// collectors behind an external broker through logging/collect.
package ship
