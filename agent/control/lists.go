// SPDX-License-Identifier: Apache-2.0

package control

import "reflect"

// fillLists returns a copy of v in which every nil slice is an empty one, so that JSON says [] and a script can always iterate.
// v itself is left alone: a method may have handed out a value it keeps using.
func fillLists(v any) any {
	if v == nil {
		return v
	}
	return filled(reflect.ValueOf(v)).Interface()
}

func filled(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.Set(reflect.New(v.Type().Elem()))
			c.Elem().Set(filled(v.Elem()))
		}
	case reflect.Struct:
		for i := range c.NumField() {
			if f := c.Field(i); f.CanSet() {
				f.Set(filled(f))
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return c // bytes, not a list
		}
		c.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		for i := range v.Len() {
			c.Index(i).Set(filled(v.Index(i)))
		}
	}
	return c
}
