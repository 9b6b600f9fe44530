package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// misspelt lists the environment variables that were probably meant to be a key, each with that key's. Others that start
// with WRIT_ are left alone: Kubernetes sets some for a service named writ.
func misspelt(environ []string) map[string]string { return misspeltOf(&config{}, environ) }

// misspeltOf does so for the keys of the configuration that c points to.
func misspeltOf(c any, environ []string) map[string]string {
	var known []string
	for _, key := range singleKeys(c) {
		known = append(known, envOf(key))
	}
	for _, flag := range flagsOfEnv() {
		known = append(known, envOf(flag))
	}
	found := map[string]string{}
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "WRIT_") || slices.Contains(known, name) {
			continue
		}
		for _, k := range known {
			if editDistance(name, k) <= 2 {
				found[name] = k
			}
		}
	}
	return found
}

// singleKeys lists the keys of the configuration that c points to which the environment and --set can override: all but
// those of the blocks of a list.
func singleKeys(c any) []string {
	return slices.DeleteFunc(configKeys(reflect.TypeOf(c).Elem(), ""), func(key string) bool { return strings.Contains(key, "[]") })
}

// configKeys lists the dotted keys of single values and lists under a block of type t; a block with a short form
// counts as a value as well, and a list of blocks as its blocks: "list[].key".
func configKeys(t reflect.Type, prefix string) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		key := join(prefix, f.Tag.Get("yaml"))
		block := f.Type
		switch {
		case block.Kind() == reflect.Pointer:
			block = block.Elem()
		case block.Kind() == reflect.Slice && block.Elem().Kind() == reflect.Struct:
			block, key = block.Elem(), key+"[]"
		}
		if block == reflect.TypeFor[extensionConfig]() { // its keys are Istio's
			keys = append(keys, key)
			continue
		}
		if block.Kind() != reflect.Struct || f.Tag.Get("short") != "" {
			keys = append(keys, key)
		}
		if block.Kind() == reflect.Struct {
			keys = append(keys, configKeys(block, key)...)
		}
	}
	return keys
}

func keysOf(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("yaml")
	}
	return names
}

func fieldOf(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("yaml") == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// exported is the Go field of a one-word key.
func exported(key string) string { return strings.ToUpper(key[:1]) + key[1:] }

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

func firstKey(n *yaml.Node) string {
	if len(n.Content) == 0 {
		return ""
	}
	return n.Content[0].Value
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// tagFits reports whether the YAML type of n is one that v takes: nothing is converted silently.
func tagFits(n *yaml.Node, v reflect.Value) bool {
	switch v.Addr().Interface().(type) {
	case *bool:
		return n.ShortTag() == "!!bool"
	case *int:
		return n.ShortTag() == "!!int"
	case *fileMode:
		return n.ShortTag() == "!!int" || n.ShortTag() == "!!str"
	}
	return n.ShortTag() == "!!str"
}

// typeName says what v takes, in words.
func typeName(v reflect.Value) string {
	switch v.Addr().Interface().(type) {
	case *bool:
		return "true or false"
	case *int:
		return "a whole number"
	case *fileMode:
		return "a permission such as 0660"
	case *time.Duration:
		return "a duration such as 10s"
	}
	return "text"
}

func nodeName(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys and values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	}
	return fmt.Sprintf("%q", n.Value)
}

func scalarName(n *yaml.Node) string {
	if isNull(n) {
		return "no value"
	}
	if n.ShortTag() == "!!str" {
		return fmt.Sprintf("%q", n.Value)
	}
	return n.Value
}
