// Command coffeeshop is writ's demo, run by `make run`: the coffee shop of deploy/coffee-shop with a real Envoy before
// every service. One `writ serve` issues identities and decides who may call whom; a `writ agent` beside every service gets
// that service's identity, keeps it renewed and hands it to its Envoy over SDS.
//
// It prints one table of what it does, what was expected, what came back and why: requests with certificates, without, and
// with tokens, a Rego policy that changes, an outage of the customers' identity provider, renewals and a rotation of the root
// under traffic, a revocation. Then it stays up for you to try things, until Ctrl-C, which leaves nothing behind: no process,
// no file, no port.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// startPatience bounds how long everything together may take to come up; the first run may have to fetch Envoy.
const startPatience = 5 * time.Minute

func main() {
	err := run(os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "coffeeshop:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	once     bool
	verbose  bool
	port     int
	policies string
	rego     string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("coffeeshop", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.once, "once", false, "print the table and exit: 1 if an answer differs")
	flags.BoolVar(&o.verbose, "v", false, "show what writ, its agents and the Envoys print")
	flags.IntVar(&o.port, "port", 15001, "first of the nine ports on 127.0.0.1 that are used; 0 = any free ones")
	flags.StringVar(&o.policies, "policies", "deploy/coffee-shop/policies", "directory of documents")
	flags.StringVar(&o.rego, "rego", "deploy/coffee-shop/rego", "directory of the Rego that barista-service asks")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q: this takes flags only", flags.Arg(0))
	}
	if o.port < 0 || o.port > 65535-portsUsed || o.port > 0 && o.port < 1024 {
		return o, fmt.Errorf("-port %d: want 0, or 1024 to %d", o.port, 65535-portsUsed)
	}
	return o, nil
}

// run is the whole life of the shop. The error is nil when the user ended it.
func run(args []string, stdout, stderr io.Writer) (err error) {
	opts, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if runtime.GOOS != "linux" {
		return errors.New("the coffee shop opens on Linux only: its agents ask the kernel who calls them (run it in a virtual machine or a container)")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, orphaned := context.WithCancel(ctx)
	defer orphaned()
	go watchParent(ctx, orphaned)

	shop := new(shop)
	defer func() {
		closing := shop.close()
		if closing == nil && !opts.once {
			fmt.Fprintln(stdout, "\nThe shop is closed; nothing is left behind.")
		}
		err = errors.Join(err, closing)
	}()
	starting, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	fmt.Fprintln(stderr, "Opening the coffee shop: writ, five services, their agents and their Envoys …")
	if err := shop.open(starting, opts, stderr); err != nil {
		return unlessEnded(ctx, err)
	}
	if err := shop.listIdentities(ctx, stdout); err != nil {
		return unlessEnded(ctx, err)
	}
	different, err := shop.show(ctx, stdout)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	if !opts.once {
		shop.invite(stdout)
		if err := shop.wait(ctx); err != nil {
			return err
		}
	}
	if different > 0 {
		return fmt.Errorf("%d rows of the table differ from what deploy/coffee-shop says", different)
	}
	return nil
}

// show prints the table and returns how many rows are not as expected. If decisions differ, what rests on them is left out.
func (s *shop) show(ctx context.Context, out io.Writer) (different int, err error) {
	var orders traffic
	defer orders.stop()
	decisions, events := s.decisions(), s.events(&orders)
	t := newTable(out, append(slices.Clone(decisions), events...))
	t.head()
	for _, a := range decisions {
		if err := t.play(ctx, a); err != nil {
			return t.different, err
		}
	}
	if t.different == 0 {
		for _, a := range events {
			if err := t.play(ctx, a); err != nil {
				return t.different, err
			}
		}
	}
	t.sum()
	return t.different, s.issueFiles(ctx)
}

// unlessEnded keeps an error only if it is not just the echo of Ctrl-C.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// watchParent ends the run when the program that started it is gone: `go run` dies of SIGTERM without passing it on.
func watchParent(ctx context.Context, gone context.CancelFunc) {
	parent := os.Getppid()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if os.Getppid() != parent {
				gone()
				return
			}
		}
	}
}
