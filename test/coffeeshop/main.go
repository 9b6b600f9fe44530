// Command coffeeshop is writ's demo, run by `make run`: the coffee shop of deploy/coffee-shop with a real Envoy before
// every service, and one `writ serve` that gives each of them its certificate and decides who may call whom.
//
// It sends a table of requests, shows what was expected and what came back, and why, as Envoy's access log tells it.
// Then it stays up for you to try things, until Ctrl-C, which leaves nothing behind: no process, no file, no port.
// Meanwhile its identity provider goes down, comes back and rotates its keys, which shows what becomes of tokens.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
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
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("coffeeshop", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.once, "once", false, "send the table of requests and exit: 1 if an answer differs")
	flags.BoolVar(&o.verbose, "v", false, "show what writ and the Envoys print")
	flags.IntVar(&o.port, "port", 15001, "first of the nine ports on 127.0.0.1 that are used; 0 = any free ones")
	flags.StringVar(&o.policies, "policies", "deploy/coffee-shop/policies", "directory of documents")
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
	fmt.Fprintln(stderr, "Opening the coffee shop: writ, five services and their Envoys …")
	if err := shop.open(starting, opts, stderr); err != nil {
		return unlessEnded(ctx, err)
	}
	if err := shop.listIdentities(ctx, stdout); err != nil {
		return unlessEnded(ctx, err)
	}
	different, err := shop.table(ctx, stdout)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	if opts.once {
		return shop.once(ctx, stdout, different)
	}
	return shop.stay(ctx, stdout, different)
}

// once ends the run with the drill, or with an error if an answer differs.
func (s *shop) once(ctx context.Context, stdout io.Writer, different int) error {
	if different == 0 {
		more, err := s.drill(ctx, stdout)
		if err != nil {
			return unlessEnded(ctx, err)
		}
		different = more
	}
	if different > 0 {
		return fmt.Errorf("%d answers differ from what deploy/coffee-shop/policies says", different)
	}
	return nil
}

// stay keeps the shop open until ctx ends. The drill takes half a minute, so it runs while people try things.
func (s *shop) stay(ctx context.Context, stdout io.Writer, different int) error {
	s.invite(stdout)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		more, err := s.drill(ctx, stdout)
		different += more
		return unlessEnded(ctx, err)
	})
	group.Go(func() error {
		defer cancel()
		return s.wait(ctx)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if different > 0 {
		return fmt.Errorf("%d answers of the tables differed", different)
	}
	return nil
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
