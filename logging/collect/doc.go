// SPDX-License-Identifier: Apache-2.0

// Package collect receives the audit logs of a fleet: it verifies each batch, stores it, and only then says so in a signed
// receipt, which is what lets a device forget the records.
//
// [Collector] is the logic: bytes of an authenticated device in, receipt or alarm out. [Store] is where things are kept
// ([Open] gives the bbolt one); it decides by compare-and-set on (size, root) per log, so any number of collectors may work on
// one store and none needs to know of the others. Two ways in: [Front], an MQTT server of our own, and [Subscriber], an
// ordinary client of somebody else's broker. [Server] runs one of them. Fleet side only: never linked into a device.
//
// Who may write: this process alone has the store file open; its records come from devices and are as hostile as the worst of
// them. Whoever can write the file can destroy records and cannot change one unseen: every record is under a root signed by
// its device, and verification (audit verify) recomputes all of them. Whoever can read the key file can give receipts for
// records he does not have, which makes devices forget them: the file is 0600 and the key is worth as much as the archive.
//
// A hostile device with a valid certificate can fill its own logs, at the rate the front grants, and raise alarms about
// itself. It cannot write as another device, subscribe to another's topics, leave retained messages or wills behind, or
// make the collector sign a root the collector did not compute. A hostile broker (Subscriber) can withhold and repeat, which
// go-back-N heals, and can attribute garbage to a device, which raises an alarm and stores nothing; batches carry
// the device key and a signature of their own.
package collect
