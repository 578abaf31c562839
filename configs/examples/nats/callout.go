// SPDX-License-Identifier: Apache-2.0

// Command callout decides for a nats-server which topics a client with a certificate may use.
//
// nats-server checks certificates and does not know that a device may use its own topics only, nor that its MQTT client id
// must be the name in its certificate; its configuration file would have to list every device. So it asks this program about
// every connection (authorization callout), and the answer is made from the certificate the server has verified:
//
//	common name = client id, a device id   publish backstay/v1/<id>/audit and status; subscribe receipt and doorbell
//	common name = client id = -collector   subscribe audit and status of all; publish receipt and doorbell of all
//	anything else                          no connection
//
// It keeps nothing. The key it signs answers with is the issuer in the server's configuration: whoever has it can let anybody
// in as anybody. Its connection to the server is the loopback interface with the password in NATS_CALLOUT_PASSWORD; while it is
// away nobody can connect, and who is connected stays.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

const subject = "$SYS.REQ.USER.AUTH"

func main() {
	url := flag.String("server", "nats://127.0.0.1:4222", "`URL` of the server")
	keyFile := flag.String("key", "", "`file` with the account seed that answers are signed with, mode 0600; made when missing")
	collector := flag.String("collector", "collector", "common `name` of the collector's certificate")
	flag.Parse()
	if err := run(*url, *keyFile, *collector); err != nil {
		log.Fatal(err)
	}
}

func run(url, keyFile, collector string) error {
	key, err := openKey(keyFile)
	if err != nil {
		return err
	}
	issuer, err := key.PublicKey()
	if err != nil {
		return err
	}
	if url == "" { // only tell the key, for the server's configuration
		fmt.Println(issuer)
		return nil
	}
	nc, err := nats.Connect(url, nats.UserInfo("callout", os.Getenv("NATS_CALLOUT_PASSWORD")), nats.MaxReconnects(-1),
		nats.ReconnectWait(100*time.Millisecond), nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	defer nc.Close()
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
		answer, err := decide(m.Data, key, collector)
		if err != nil {
			log.Print(err)
			return // no answer: the server refuses after its own time limit
		}
		m.Respond([]byte(answer)) //nolint:errcheck // the server refuses then
	}); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	return nil
}

// decide answers one request.
func decide(request []byte, key nkeys.KeyPair, collector string) (string, error) {
	rc, err := jwt.DecodeAuthorizationRequestClaims(string(request))
	if err != nil {
		return "", fmt.Errorf("read request: %w", err)
	}
	response := jwt.NewAuthorizationResponseClaims(rc.UserNkey)
	response.Audience = rc.Server.ID
	name, err := identity(rc)
	if err == nil {
		response.Jwt, err = grant(rc, name, key, collector)
	}
	if err != nil {
		response.Error = err.Error()
		log.Printf("refused %s: %v", rc.ClientInformation.Host, err)
	}
	return response.Encode(key)
}

// identity returns the name in the certificate, which the server has verified, if the client goes by the same.
func identity(rc *jwt.AuthorizationRequestClaims) (string, error) {
	if rc.ClientInformation.Type != "mqtt" {
		return "", errors.New("only MQTT clients are served")
	}
	if rc.TLS == nil || len(rc.TLS.VerifiedChains) == 0 || len(rc.TLS.VerifiedChains[0]) == 0 {
		return "", errors.New("no verified certificate")
	}
	block, _ := pem.Decode([]byte(rc.TLS.VerifiedChains[0][0]))
	if block == nil {
		return "", errors.New("certificate is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	name := cert.Subject.CommonName
	// Without this a device with a good certificate could push another one off by taking its client id.
	if rc.ClientInformation.MQTT != name {
		return "", fmt.Errorf("client id %q is not that of certificate %q", rc.ClientInformation.MQTT, name)
	}
	return name, nil
}

// grant makes the user that the server shall take the client for.
func grant(rc *jwt.AuthorizationRequestClaims, name string, key nkeys.KeyPair, collector string) (string, error) {
	who, mine, theirs := name, []string{"audit", "status"}, []string{"receipt", "doorbell"} // topics written by a device, and to it
	switch {
	case name == collector:
		who, mine, theirs = "*", theirs, mine
	case !isDevice(name):
		return "", fmt.Errorf("%q is neither a device nor the collector", name)
	}
	u := jwt.NewUserClaims(rc.UserNkey)
	u.Name, u.Audience = name, "AUDIT"
	for _, k := range mine {
		u.Permissions.Pub.Allow.Add("backstay.v1." + who + "." + k)
	}
	for _, k := range theirs {
		u.Permissions.Sub.Allow.Add("backstay.v1." + who + "." + k)
	}
	return u.Encode(key)
}

// isDevice reports whether name has the form of a device id; nothing in it means anything to the server.
func isDevice(name string) bool {
	return len(name) == 26 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

func openKey(file string) (nkeys.KeyPair, error) {
	seed, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		kp, err := nkeys.CreateAccount()
		if err != nil {
			return nil, err
		}
		if seed, err = kp.Seed(); err != nil {
			return nil, err
		}
		return kp, os.WriteFile(file, seed, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("read --key: %w", err)
	}
	return nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
}
