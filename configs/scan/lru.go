// SPDX-License-Identifier: Apache-2.0

package scan

import "container/list"

// lru remembers the values used last, as many as fit.
type lru[K comparable, V any] struct {
	limit, total int
	order        *list.List // the one used last is in front
	items        map[K]*list.Element
}

type lruItem[K comparable, V any] struct {
	key  K
	v    V
	cost int
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit: limit, order: list.New(), items: map[K]*list.Element{}}
}

func (c *lru[K, V]) get(k K) (v V, ok bool) {
	e, ok := c.items[k]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(lruItem[K, V]).v, true
}

func (c *lru[K, V]) put(k K, v V, cost int) {
	if e, ok := c.items[k]; ok {
		c.drop(e)
	}
	c.items[k] = c.order.PushFront(lruItem[K, V]{k, v, cost})
	for c.total += cost; c.total > c.limit && c.order.Len() > 1; {
		c.drop(c.order.Back())
	}
}

func (c *lru[K, V]) drop(e *list.Element) {
	it := c.order.Remove(e).(lruItem[K, V])
	c.total -= it.cost
	delete(c.items, it.key)
}
