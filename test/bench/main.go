// Command bench compares writ with what people would otherwise use, and writes what it finds into the documentation.
//
//	bench table  [-write FILE] [-rounds N]   every comparison, one table
//	bench curves [-write FILE] [-tokens N]   memory and cost as the work grows
//	bench overload [-write FILE] [-rounds N] twice what the server can do; fails if it does not bear that
//	bench instructions [-record]             the instructions of hot paths; fails if they are more than recorded
//
// Servers are processes of their own: their CPU time and memory are the kernel's figures. It needs Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say what to measure: table, curves, overload or instructions")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	write := flags.String("write", "", "Markdown file whose marked part is replaced; without it the result is only printed")
	rounds := flags.Int("rounds", 15, "how often each server has its turn")
	tokens := flags.Int("tokens", 1_000_000, "curves: how many distinct tokens to ask with at most")
	record := flags.Bool("record", false, "instructions: write them down as what they are to be")
	switch args[0] {
	case roleStock:
		return serveStock(ctx)
	case roleCall:
		return callForever(ctx, args[1:])
	case roleIssue:
		return serveIssue(ctx, args[1:])
	case roleOPA, roleCompile, roleSDS:
		if len(args) != 2 {
			return fmt.Errorf("%s: want one file", args[0])
		}
		return map[string]func(context.Context, string) error{roleOPA: serveOPA, roleCompile: compile, roleSDS: serveSDS}[args[0]](ctx, args[1])
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if *rounds < 1 || *tokens < 1 {
		return fmt.Errorf("-rounds %d, -tokens %d: want 1 or more", *rounds, *tokens)
	}
	dir, err := os.MkdirTemp("", "writ-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	switch args[0] {
	case "table":
		return table(ctx, dir, *write, *rounds)
	case "curves":
		return curves(ctx, dir, *write, *tokens)
	case "overload":
		return overload(ctx, dir, *write, *rounds)
	case "instructions":
		return instructions(ctx, *record)
	}
	return fmt.Errorf("unknown measurement %q: want table, curves, overload or instructions", args[0])
}
