// SPDX-License-Identifier: Apache-2.0

// Package intake lets the product's own programs write into the device's audit log. There are two ways in: a socket that takes
// one JSON object per message and answers each, and a socket that takes the lines programs send to /dev/log.
//
// It owns both sockets, who may write to them, how fast, and what a message may say. It does not own the log: the agent hands
// in functions. A program cannot pose as the agent: whatever code it names ends up below "app.", and who it is comes from the
// kernel, not from the message. A line that looks like a login becomes a login event only when root's own process sent it.
//
// The first socket is of type SOCK_SEQPACKET. It keeps messages apart, so that there is no framing to get wrong on either
// side; it is a connection, so that an answer finds its way back without a second socket in the file system, and the kernel
// notes once who connected; and a reader that is slow makes the writer wait instead of losing messages, as a datagram may. The
// second is SOCK_DGRAM, because that is what the C libraries send to /dev/log.
//
// An attacker who may write here can fill the log with nonsense at the rate of his user id, and no faster: he has a bucket of
// his own, events that have to be durable at once have a smaller one, and what was left out is counted and recorded. A user who
// may not write leaves one record a minute. Connections, message sizes, user ids remembered and everything in a message have
// bounds; text is escaped and searched for secrets where leaves are encoded.
package intake

import (
	"context"
	"log/slog"

	"github.com/backstay/backstay/logging"
)

// Limits of what comes in.
const (
	MaxMessage  = 8 << 10 // bytes of one JSON message or syslog line; a longer one is refused or cut
	maxConns    = 32      // open connections
	maxPerUID   = 16      // of these, of one user id
	maxUIDs     = 64      // user ids with a bucket of their own; all others share one
	maxCode     = 48      // bytes of a code without "app."
	maxAttrs    = 24      // attributes of one message; those the agent adds come on top
	maxAttrName = 32      // bytes
)

// Prefix stands before every code that comes from a program.
const Prefix = "app."

// Codes this package gives out itself.
const (
	CodeSyslog  = "app.syslog"     // a line that came to the syslog socket
	CodeRefused = "intake.refused" // a user id wrote that may not
)

// Names of the two ways in, as the attribute "source" of events.
const (
	SourceSocket = "intake"
	SourceSyslog = "syslog"
)

// Config says who may write, how fast, and where events go. Record and Emit are required; they are called from several
// goroutines.
type Config struct {
	// AllowUIDs and AllowGIDs are who may connect to the JSON socket: by user id, or by the primary group of the process. The
	// agent's own user always may. The syslog socket is open to every program, as it is everywhere.
	AllowUIDs, AllowGIDs []int

	// Rate is what one user id may write through each of the two sockets. Events that have to be durable at once cost a write to
	// flash each: they have a bucket of a tenth of it.
	Rate logging.Rate

	// Level is the least severe line of the syslog socket that is recorded, as a number of RFC 5424: 0 is an emergency, 7 is
	// debugging. Lines of the facilities for security matters are always recorded.
	Level int

	// Record appends one event. With durable set it returns when the event cannot be lost any more; size is the number of durable
	// records then, so the event is one of those before it. An error that matches logging.ErrRetry means that there is no room now.
	Record func(ctx context.Context, e logging.Event, durable bool) (size uint64, err error)

	// Emit records what this package has to say itself: refusals and counts of what was left out.
	Emit logging.Emit

	// Login reads a line of a login program: app is the name before the line's text. It returns the code of an auth event and its
	// attributes, or false when the line is about something else. It may be nil.
	Login func(app, message string) (code string, attrs []slog.Attr, ok bool)
}

// Peer is who wrote a message, as the kernel says.
type Peer struct {
	UID, GID, PID int
	Exe           string // program, "" when it cannot be told
}

// Counts says what came in since the start.
type Counts struct {
	Accepted   uint64 // events recorded
	Refused    uint64 // messages that were malformed, or of users that may not write
	Suppressed uint64 // events beyond a rate
	Below      uint64 // syslog lines below the level
}
