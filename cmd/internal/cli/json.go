// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// PrintJSON prints v as an indented JSON object whose first key is "schema". v is a struct or a map; a list is printed under
// "items", and an empty list is [], never null. A schema name is "<binary>.<command>/<n>": adding a key keeps n, anything else
// raises it.
func (e *Env) PrintJSON(schema string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", schema, err)
	}
	switch {
	case bytes.Equal(body, []byte("null")):
		body = []byte(`{"items":[]}`)
	case body[0] != '{':
		body = append(append([]byte(`{"items":`), body...), '}')
	}
	name, err := json.Marshal(schema)
	if err != nil {
		return fmt.Errorf("encode %s: %w", schema, err)
	}
	out := append([]byte(`{"schema":`), name...)
	if rest := body[1:]; rest[0] != '}' {
		out = append(out, ',')
	}
	out = append(out, body[1:]...)
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, out, "", "  "); err != nil {
		return fmt.Errorf("encode %s: %w", schema, err)
	}
	pretty.WriteByte('\n')
	_, err = e.Stdout.Write(pretty.Bytes())
	return err
}
