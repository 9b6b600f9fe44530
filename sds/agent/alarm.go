package agent

import (
	"context"
	"log/slog"
	"time"
)

// alarmLevel says how near an identity is to being lost.
type alarmLevel int

const (
	calm     alarmLevel = iota
	late                // less than 1/AlarmPart of its life is left
	critical            // less than a quarter of that
	lost                // it has ended, or there never was one
)

const (
	criticalPart = 4
	patience     = 3 // failures at the first certificate
)

func (l alarmLevel) String() string { return [...]string{"ok", "late", "critical", "lost"}[l] }

// log is the level at which a failure is logged.
func (l alarmLevel) log() slog.Level {
	switch l {
	case calm:
		return slog.LevelInfo
	case late:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}

// alarm is how near the identity is to being lost. A part in part of its life without a renewal is the first alarm.
func (k *keeper) alarm(now time.Time, part int) alarmLevel {
	switch {
	case k.now == nil && k.failures == 0: // nobody was asked yet
		return calm
	case k.now == nil && k.failures < patience: // the authority may be starting, too
		return late
	case k.now == nil:
		return lost
	}
	left, first := k.left(now), k.now.life()/time.Duration(part)
	switch {
	case left <= 0:
		return lost
	case left < first/criticalPart:
		return critical
	case left < first:
		return late
	default:
		return calm
	}
}

// raiseAlarms logs when an alarm rises, whether or not anything was tried, and when it is over.
func (a *Agent) raiseAlarms(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.keepers() {
		level := k.alarm(now, a.cfg.AlarmPart)
		switch {
		case level > k.level && k.now != nil:
			args := []any{"id", k.id, "alarm", level.String(), "not_after", k.now.notAfter(), "left", k.left(now).Round(time.Second),
				"failures", k.failures}
			if k.err != nil {
				args = append(args, "error", k.err)
			}
			if level == lost {
				args = append(args, "fix", a.remedy())
			}
			a.log.Log(context.Background(), level.log(), "a certificate was not renewed in time", args...)
		case level < k.level && level == calm:
			a.log.Info("the alarm is over", "id", k.id)
		}
		k.level = level
	}
}
