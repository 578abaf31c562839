// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"strings"
	"testing"

	"github.com/backstay/backstay/update/trust"
	"github.com/backstay/backstay/update/trust/trusttest"
)

// TestScan holds the look before the parser to its own verdicts: whatever it
// lets through, the parser, the recovery or a digest still refuses, so no test
// of a whole refresh would miss it.
func TestScan(t *testing.T) {
	const signed = `"signed":{"_type":"targets","targets":{},"delegations":{"keys":{},"roles":[]}}`
	for name, c := range map[string]struct{ doc, want string }{
		"good":                {`{` + signed + `,"signatures":[{"keyid":"a","sig":"00"},{"keyid":"b","sig":"00"}]}`, ""},
		"space after":         {`{` + signed + `,"signatures":[]}` + " \n", ""},
		"null elsewhere":      {`{"signed":{"_type":"targets","targets":{"x":{"custom":{"a":null}}},"delegations":null},"signatures":[]}`, ""},
		"one key id twice":    {`{` + signed + `,"signatures":[{"keyid":"a","sig":"00"},{"keyid":"a","sig":"01"}]}`, "two signatures"},
		"something after":     {`{` + signed + `,"signatures":[]}{}`, "follows"},
		"brace after":         {`{` + signed + `,"signatures":[]}}`, "follows"},
		"no signatures":       {`{` + signed + `}`, "no signatures"},
		"other type":          {`{"signed":{"_type":"root"},"signatures":[]}`, "type"},
		"25 levels":           {`{"signed":{"_type":"targets","x":` + strings.Repeat("[", 25) + strings.Repeat("]", 25) + `},"signatures":[]}`, "nested"},
		"20 levels":           {`{"signed":{"_type":"targets","x":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `},"signatures":[]}`, ""},
		"null target":         {`{"signed":{"_type":"targets","targets":{"x":null}},"signatures":[]}`, "signed.targets.x is not an object"},
		"null target, case":   {`{"signed":{"_type":"targets","TARGETS":{"x":null}},"signatures":[]}`, "is not an object"},
		"null targets":        {`{"signed":{"_type":"targets","targets":null},"signatures":[]}`, "signed.targets is not"},
		"null meta entry":     {`{"signed":{"_type":"targets","meta":{"x":null}},"signatures":[]}`, "signed.meta.x is not"},
		"null key":            {`{"signed":{"_type":"targets","keys":{"x":null}},"signatures":[]}`, "signed.keys.x is not"},
		"null role":           {`{"signed":{"_type":"targets","roles":{"x":null}},"signatures":[]}`, "signed.roles.x is not"},
		"null signature":      {`{` + signed + `,"signatures":[null]}`, "signatures.# is not"},
		"null delegated key":  {`{"signed":{"_type":"targets","delegations":{"keys":{"a":null}}},"signatures":[]}`, "signed.delegations.keys.a is not"},
		"null delegated role": {`{"signed":{"_type":"targets","delegations":{"roles":[null]}},"signatures":[]}`, "signed.delegations.roles.# is not"},
		"null signed":         {`{"signed":null,"signatures":[]}`, "signed is not"},
		"no object":           {`"x"`, "is not an object"},
	} {
		err := trust.Scan([]byte(c.doc), "targets")
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	repo := trusttest.New(t)
	for role, path := range map[string]string{"root": "1.root", "timestamp": "timestamp", "snapshot": "1.snapshot", "targets": "1.targets"} {
		if err := trust.Scan(repo.File("metadata/"+path+".json"), role); err != nil {
			t.Errorf("%s as published: %v", role, err)
		}
	}
}
