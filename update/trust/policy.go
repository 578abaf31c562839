// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"fmt"

	"github.com/backstay/backstay/update"
)

// policyRole is the role that says how a product's devices are configured.
const policyRole = "policy"

// Last returns the outcome of the last good refresh of this process without asking the server again, false when there was
// none or something it rests on has expired since.
func (c *Client) Last() (*Trusted, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil || !c.cfg.Now().Before(c.seen.until) {
		return nil, false
	}
	return &Trusted{c: c, seen: *c.seen, unchanged: true}, true
}

// Policy finds the configuration policy of a product. No policy is an error that is [update.ErrNothing]; one that another role
// than policy signed, the online assignment role above all, is refused with code not-genuine.
func (t *Trusted) Policy(ctx context.Context, product string) (TargetInfo, error) {
	if !update.IsProduct(product) {
		return TargetInfo{}, setup(fmt.Errorf("product %q is not a valid name", product))
	}
	path := update.PolicyPath(product)
	info, err := t.Target(ctx, path)
	if hasCode(err, "unknown-target") {
		return TargetInfo{}, fmt.Errorf("%w: there is no policy for %s", update.ErrNothing, product)
	}
	if err != nil {
		return TargetInfo{}, err
	}
	if info.Role != policyRole {
		return TargetInfo{}, refuse("not-genuine", path, nil, "it is signed by role %s, not by %s", info.Role, policyRole)
	}
	return info, nil
}
