package main

import (
	"context"
	"errors"
)

func overload(context.Context, string) error       { return errors.New("x") }
func curves(context.Context, string, string) error { return errors.New("x") }
