"""Where ways of a program meet, and what is known in the handlers of a `try`: its body may have got anywhere."""

from __future__ import annotations

from collections.abc import Callable

from torchlint.semantics.frames import Frame
from torchlint.semantics.kinds import UNKNOWN, Value, join


def meet(frame: Frame, other: dict[str, Value]) -> None:
    """What is known of the names of `other` where either way may have been taken."""
    for key, value in other.items():
        now = frame.env.get(key, UNKNOWN)
        if now is not value:
            frame.env[key] = join(value, now)


def handle(frame: Frame, start: dict[str, Value], evaluate: Callable[[Frame], None]) -> None:
    """Evaluates a handler. `start`: what was known in front of the `try`. What the handler leaves alone is behind it
    what the body makes it: a `try` that fails is the exception."""
    done = dict(frame.env)
    meet(frame, start)
    entered = dict(frame.env)
    evaluate(frame)
    for key, value in done.items():
        if frame.env.get(key) is entered.get(key):
            frame.env[key] = value
    meet(frame, done)
