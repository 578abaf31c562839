// SPDX-License-Identifier: Apache-2.0

package logging_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/backstay/backstay/logging"
)

// independentVerify is a second verifier of export files, written from the documents alone: standard library, no tlog, no
// note, no code of this package. It is what an agency would write in an afternoon. It returns the number of records the
// newest checkpoint covers.
func independentVerify(export []byte) (size int, err error) {
	var hashes []independentHash
	next := 0
	var spki []byte
	var origin, last string
	signed := 0
	sc := bufio.NewScanner(bytes.NewReader(export))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		f := strings.SplitN(sc.Text(), " ", 4)
		switch f[0] {
		case "spki":
			if spki, err = base64.StdEncoding.DecodeString(f[1]); err != nil {
				return 0, err
			}
		case "origin":
			origin = f[1]
			sum := sha256.Sum256(spki)
			id := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
			if !strings.HasPrefix(origin, "backstay/audit/"+id+"/") {
				return 0, fmt.Errorf("key does not belong to %s", origin)
			}
		case "subtree":
			level, err := strconv.Atoi(f[2])
			if err != nil || level < 1 || level > 62 || f[1] != fmt.Sprint(next) || next%(1<<level) != 0 {
				return 0, fmt.Errorf("subtree %s %s at place %d", f[1], f[2], next)
			}
			h, err := hex.DecodeString(f[3])
			if err != nil || len(h) != 32 {
				return 0, fmt.Errorf("subtree %s: bad hash", f[1])
			}
			hashes = append(hashes, independentHash{[32]byte(h), 1 << level})
			next, last = next+1<<level, ""
		case "leaf", "leaf64", "shed":
			if f[1] != fmt.Sprint(next) {
				return 0, fmt.Errorf("record %s at place %d", f[1], next)
			}
			h, err := hex.DecodeString(f[2])
			if err != nil || len(h) != 32 {
				return 0, fmt.Errorf("record %s: bad hash", f[1])
			}
			if f[0] != "shed" {
				body := []byte(f[3])
				if f[0] == "leaf64" {
					if body, err = base64.StdEncoding.DecodeString(f[3]); err != nil {
						return 0, err
					}
				}
				if sum := sha256.Sum256(append([]byte{0}, body...)); !bytes.Equal(sum[:], h) {
					return 0, fmt.Errorf("record %s was altered", f[1])
				}
			}
			hashes = append(hashes, independentHash{[32]byte(h), 1})
			next, last = next+1, ""
			if f[0] != "shed" {
				last = sc.Text()
			}
		case "side":
			// Personal values: nothing depends on them, but one that is there must be what the record says it is.
			var values []struct{ Field, Salt, Value string }
			_, text, _ := strings.Cut(strings.TrimPrefix(sc.Text(), "side "), " ")
			if err := json.Unmarshal([]byte(text), &values); err != nil {
				return 0, err
			}
			for _, v := range values {
				salt, err := hex.DecodeString(v.Salt)
				sum := sha256.Sum256(append(salt, v.Value...))
				if err != nil || len(salt) != 16 || !strings.Contains(last, fmt.Sprintf("sha256:%x", sum)) {
					return 0, fmt.Errorf("record %d does not commit to its %s", next-1, v.Field)
				}
			}
		case "checkpoint":
			if err := independentCheckpoint(f[1], spki, origin, next, hashes); err != nil {
				return 0, err
			}
			signed = next
		}
	}
	return signed, sc.Err()
}

// independentHash is the hash of a number of records: of one, or of a complete subtree.
type independentHash struct {
	hash [32]byte
	n    int
}

// independentRoot is the Merkle tree hash of RFC 6962, section 2.1, over n records.
func independentRoot(d []independentHash, n int) ([32]byte, error) {
	if len(d) == 1 && d[0].n == n {
		return d[0].hash, nil
	}
	k := 1
	for k*2 < n {
		k *= 2
	}
	i, left := 0, 0
	for ; i < len(d) && left < k; i++ {
		left += d[i].n
	}
	if left != k {
		return [32]byte{}, fmt.Errorf("no tree has such subtrees")
	}
	l, err := independentRoot(d[:i], k)
	if err != nil {
		return l, err
	}
	r, err := independentRoot(d[i:], n-k)
	return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...)), err
}

func independentCheckpoint(b64 string, spki []byte, origin string, size int, hashes []independentHash) error {
	note, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return err
	}
	body, sigs, _ := strings.Cut(string(note), "\n\n")
	root, err := independentRoot(hashes, size)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%s\n%d\n%s", origin, size, base64.StdEncoding.EncodeToString(root[:])); body != want {
		return fmt.Errorf("checkpoint says %q, records say %q", body, want)
	}
	line, _, _ := strings.Cut(sigs, "\n")
	f := strings.Fields(line)
	if len(f) != 3 || f[0] != "—" || f[1] != origin {
		return fmt.Errorf("signature line %q", line)
	}
	sig, err := base64.StdEncoding.DecodeString(f[2])
	if err != nil || len(sig) < 5 {
		return fmt.Errorf("signature line %q", line)
	}
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(body + "\n"))
	if !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), digest[:], sig[4:]) {
		return fmt.Errorf("checkpoint of %d records is not signed by the device", size)
	}
	return nil
}

// Both verifiers agree on random honest logs, and on what is wrong with every random edit of them.
func TestIndependentVerifierAgrees(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 2))
	edits, caught := 0, 0
	for range 20 {
		r := newRig(t)
		for range 1 + rng.IntN(5) {
			r.grow(t, 1+rng.IntN(40))
		}
		for i := range r.leaves {
			if rng.IntN(10) == 0 {
				r.leaves[i].Body = nil
			}
		}
		for range rng.IntN(6) {
			r.join(rng.Uint64N(r.tree.Size()), uint8(1+rng.IntN(5)))
		}
		var out bytes.Buffer
		if err := logging.WriteExport(&out, r.header(), seq(r.items())); err != nil {
			t.Fatal(err)
		}
		export := out.Bytes()
		size, err := independentVerify(export)
		if err != nil || size != int(r.tree.Size()) {
			t.Fatalf("seed %d: independent verifier: %d of %d, %v", seed, size, r.tree.Size(), err)
		}
		if ours, err := verifyExport(export); err != nil || ours != size {
			t.Fatalf("seed %d: %d, %v", seed, ours, err)
		}
		// One byte of the evidence changes. Both must see it, or both find it harmless (case of a hex digit, say).
		for range 30 {
			edited := bytes.Clone(export)
			at := rng.IntN(len(edited))
			edited[at] ^= byte(1 + rng.IntN(255))
			if edited[at] == '\n' || export[at] == '\n' {
				continue // changes the shape of the file, which only one of the two is strict about
			}
			edits++
			ours, ourErr := verifyExport(edited)
			theirs, theirErr := independentVerify(edited)
			if ourErr == nil && (theirErr != nil || theirs != ours) {
				t.Errorf("seed %d: byte %d: accepted here, refused independently: %v", seed, at, theirErr)
			}
			if ourErr != nil {
				caught++
			}
		}
	}
	if caught < edits*9/10 {
		t.Errorf("seed %d: only %d of %d edits were refused", seed, caught, edits)
	}
	t.Logf("%d of %d random edits refused", caught, edits)
}

func verifyExport(b []byte) (int, error) {
	h, items, err := readExport(b)
	if err != nil {
		return 0, err
	}
	report, err := verify(h, items, logging.Expect{})
	return int(report.Size), err
}
