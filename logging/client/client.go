// SPDX-License-Identifier: Apache-2.0

// Package client writes events of the product's own programs into the device's audit log.
//
// It is for programs that are not the agent, so it imports the standard library and nothing else. It owns one connection to
// the agent's socket (audit.intake.socket in its configuration). Who writes is told by the kernel; what stands here is what
// happened. The agent puts every code below "app.".
//
//	log := client.New("/run/backstay/audit.sock")
//	defer log.Close()
//	err := log.Write(ctx, client.Event{Code: "door.opened", Severity: "medium", Message: "front door opened by key",
//		Attrs: map[string]any{"door": "front"}, Durable: true})
//
// When the agent is not running, Write fails and the program decides what to do: an event that must not be lost is tried again.
// Nothing is kept here.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// DefaultSocket is where the agent listens unless its configuration says otherwise.
const DefaultSocket = "/run/backstay/audit.sock"

// MaxMessage is the longest encoded event, in bytes.
const MaxMessage = 8 << 10

// timeout bounds one Write when its context does not.
const timeout = 10 * time.Second

// Event is one thing that happened. Only Code is needed.
type Event struct {
	Code     string         `json:"code"`               // lower-case letters, digits, '.', '-', '_'; recorded as app.<Code>
	Severity string         `json:"severity,omitempty"` // info, low, medium, high, critical or fatal; from high on it is durable at once
	Outcome  string         `json:"outcome,omitempty"`  // success or failure
	Message  string         `json:"message,omitempty"`  // one sentence for a person
	Session  string         `json:"session,omitempty"`  // ties the events of one login or job together
	Attrs    map[string]any `json:"attrs,omitempty"`    // text, numbers and booleans, at most 24

	// Durable makes Write return when a power cut cannot lose the event any more. It costs a write to flash: use it for what
	// must not be lost, not for all.
	Durable bool `json:"durable,omitempty"`
}

// Refused is an event the agent did not take.
type Refused struct {
	Code string // not-allowed, malformed: trying again does not help; busy, rate, full: it may; failed: see the agent's log
	Why  string
}

func (e *Refused) Error() string { return "write audit event: " + e.Code + ": " + e.Why }

// Temporary reports whether the same event may be taken later.
func (e *Refused) Temporary() bool { return e.Code == "busy" || e.Code == "rate" || e.Code == "full" }

// Log is a connection to the agent. It connects when it is first used, and again after the agent was restarted. It is safe for
// concurrent use; one event is written at a time.
type Log struct {
	path string
	mu   sync.Mutex
	conn net.Conn
	buf  []byte
}

// New returns a log that writes to the socket at path.
func New(path string) *Log { return &Log{path: path} }

type answer struct {
	OK    bool   `json:"ok"`
	Error string `json:"error"`
	Why   string `json:"why"`
}

// Write records one event. The error is a *Refused when the agent said no; any other means that it could not be asked, or did
// not answer: then the event may have been recorded all the same.
func (l *Log) Write(ctx context.Context, e Event) error {
	msg, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write audit event: %w", err)
	}
	if len(msg) > MaxMessage {
		return &Refused{Code: "malformed", Why: fmt.Sprintf("longer than %d bytes", MaxMessage)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := l.conn == nil
	a, err := l.exchange(ctx, msg)
	if !fresh && errors.Is(err, errNotSent) {
		a, err = l.exchange(ctx, msg) // the agent was restarted since
	}
	if err != nil {
		return fmt.Errorf("write audit event: %w", err)
	}
	if !a.OK {
		return &Refused{Code: a.Error, Why: a.Why}
	}
	return nil
}

// errNotSent marks an error before anything of the event left this process, so that it can be sent again without being
// recorded twice.
var errNotSent = errors.New("not sent")

func (l *Log) exchange(ctx context.Context, msg []byte) (a answer, err error) {
	defer func() {
		if err != nil {
			l.drop()
		}
	}()
	if l.conn == nil {
		var d net.Dialer
		if l.conn, err = d.DialContext(ctx, "unixpacket", l.path); err != nil {
			return a, err
		}
		l.buf = make([]byte, 4<<10)
	}
	deadline := time.Now().Add(timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn := l.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // ends the calls below
	defer stop()
	if err := conn.SetDeadline(deadline); err != nil {
		return a, err
	}
	_, sendErr := conn.Write(msg)
	if sendErr != nil && !errors.Is(sendErr, syscall.EPIPE) {
		return a, sendErr
	}
	// One who is turned away finds the pipe closed and the reason waiting.
	n, err := conn.Read(l.buf)
	if err != nil || n == 0 {
		if sendErr != nil {
			return a, fmt.Errorf("%w: %w", errNotSent, sendErr)
		}
		return a, errors.Join(errors.New("no answer"), err, ctx.Err())
	}
	if err := json.Unmarshal(l.buf[:n], &a); err != nil {
		return a, fmt.Errorf("read answer: %w", err)
	}
	if a.Error == "busy" || a.Error == "not-allowed" {
		l.drop() // the agent closed it
	}
	return a, nil
}

func (l *Log) drop() {
	if l.conn != nil {
		l.conn.Close() //nolint:errcheck // it is of no use any more
		l.conn = nil
	}
}

// Close ends the connection. A later Write would make a new one.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop()
	return nil
}

// NotRunning reports whether err means that no agent listens.
func NotRunning(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}
