// SPDX-License-Identifier: Apache-2.0

package ship

import "context"

// Message is one message that came in.
type Message struct {
	Topic    string
	Payload  []byte
	Retained bool // the broker kept it from before this connection
}

// Transport is one link to a broker at a time. Connect, Publish and Close are called by one goroutine; Receipts may be read by
// another. [MQTT] implements it; tests have a fake.
type Transport interface {
	// Connect makes a new connection and subscribes; an older one is gone afterwards. The broker publishes will, retained, when
	// the connection ends without Close; the zero Message is no will. The returned channel is closed when the connection is
	// lost. An error means there is no connection; the call may be repeated.
	Connect(ctx context.Context, will Message) (lost <-chan struct{}, err error)

	// Publish hands over one message at QoS 1. The returned channel is closed when the broker acknowledged it or the connection
	// was lost: either way it proves nothing. An error means the connection is unusable and that the message may or may not
	// have been sent. It blocks for at most the write timeout. The transport keeps payload; the caller must not change it.
	Publish(topic string, payload []byte, retain bool) (puback <-chan struct{}, err error)

	// Receipts returns what comes in on the subscriptions, in order. The channel is the same for the life of the transport and
	// is never closed.
	Receipts() <-chan Message

	// Close ends the connection, if there is one, and waits until it is gone. Connect may be called again.
	Close() error
}
