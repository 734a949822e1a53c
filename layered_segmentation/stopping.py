"""Stops a command at a signal: Ctrl-C, SIGTERM (preemption), SIGHUP (a closed terminal).

A signal raises `Stopped` in the main thread, except inside `deferred`, where training finishes its
step and saves a checkpoint first. `watched` is for commands: a second signal ends the process at
once, and so does a watchdog if the first one has no effect within `GRACE` seconds, because the main
thread traces a graph or waits for data in C++.
"""

import _thread
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

GRACE = 8.0  # seconds from the signal to the exit

_SAVING = 60.0  # seconds more for a checkpoint that is being written
_REPEATED = 0.5  # seconds in which `timeout` and others send the same signal again
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last is of Windows
_SIGNALS = {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop.

    Attributes:
        status: The exit status of a command, 128 + the signal: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int):
        super().__init__(f"signal {number}")
        self.status = 128 + number


class _State:
    """What the handler, the main thread and the watchdog know of each other."""

    received: int | None = None
    is_deferred = False
    is_saving = False
    is_watched = False
    is_lost = False  # Python has only printed a `Stopped`
    is_repeated = False  # the watchdog sends the signal again
    is_stuck = False  # an input pipeline may wait for Python's lock forever


def is_requested() -> bool:
    """Returns whether a signal has asked this process to stop."""
    return _State.received is not None


def check() -> None:
    """Raises `Stopped` if a signal has asked this process to stop."""
    if _State.received is not None:
        raise Stopped(_State.received)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Lets a signal only be recorded; the block calls `check` where it can stop.

    Without `watched`, as in a notebook, a second signal raises at once.
    """
    with _handling():
        _State.is_deferred = True
        try:
            yield
        finally:
            _State.is_deferred = False
        check()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Lets a signal raise `Stopped` inside `deferred`, in a block that can take long."""
    check()
    before, _State.is_deferred = _State.is_deferred, False
    try:
        yield
    finally:
        _State.is_deferred = before
    check()


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Gives the block up to a minute more before the watchdog ends the process."""
    _State.is_saving = True
    if is_requested():
        _set_alarm(GRACE + _SAVING)
    try:
        yield
    finally:
        _State.is_saving = False
        if is_requested():
            _set_alarm(GRACE)


@contextlib.contextmanager
def watched(message: str) -> Iterator[None]:
    """Ends the process if a signal has no effect; for commands, not for libraries.

    Args:
        message: What the watchdog prints when it ends the process.
    """
    if threading.current_thread() is not threading.main_thread() or _State.is_watched:
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with _handling(), ours, theirs:
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        hook, sys.unraisablehook = sys.unraisablehook, _note_lost
        _State.is_watched, _State.is_stuck = True, False
        threading.Thread(target=_watch, args=(ours, message), daemon=True).start()
        try:
            yield
        finally:
            _State.is_watched = False
            sys.unraisablehook = hook
            signal.set_wakeup_fd(before)


def leave(status: int) -> None:
    """Ends the process now if it is `watched` and a signal or an error ended training.

    The interpreter's own exit may wait forever, in the destructor of an input pipeline.
    """
    if _State.is_watched and (is_requested() or _State.is_stuck):
        _exit(status)


def note_pipeline() -> None:
    """Notes that an error left an input pipeline running, for `leave`."""
    _State.is_stuck = True


@contextlib.contextmanager
def _handling() -> Iterator[None]:
    """Installs the handlers, unless they are, or a signal is ignored (`nohup`)."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None, _handle):
                before[number] = signal.signal(number, _handle)
    if before:
        _State.received = None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:  # what runs later in this process has not been asked to stop
            _State.received = None


def _handle(number: int, frame: types.FrameType | None) -> None:
    del frame
    is_first = _State.received is None
    if is_first:
        _State.received = number
        _set_alarm(GRACE + (_SAVING if _State.is_saving else 0))
    is_repeated, _State.is_repeated = _State.is_repeated, False
    # The watchdog sees a second one, even where this handler does not run.
    if not (_State.is_deferred if is_first or is_repeated else _State.is_watched):
        raise Stopped(number)


def _note_lost(unraisable: Any) -> None:
    """Takes the place of `sys.unraisablehook`, for a signal in a destructor or a GC callback."""
    if isinstance(unraisable.exc_value, Stopped):
        _State.is_lost = True
    else:
        sys.__unraisablehook__(unraisable)


def _set_alarm(seconds: float) -> None:
    """Lets the system end the process, for C++ that waits and keeps Python's lock.

    A little later than the watchdog, which can say why.
    """
    if _State.is_watched and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)


def _watch(wakeups: socket.socket, message: str) -> None:
    first: int | None = None
    start = 0.0
    repeated = 0
    while True:
        try:
            received = wakeups.recv(1)
        except TimeoutError:
            received = b"\0"
        except OSError:  # closed: the command has ended
            return
        if not received:
            return
        number, waited = received[0], time.monotonic() - start
        if number in _SIGNALS and first is None:
            first, start = number, time.monotonic()
            wakeups.settimeout(0.1)
            if _State.is_deferred:
                note = "finishing this step and saving a checkpoint; a second signal exits at once"
                print(f"\nstopping: {note}", file=sys.stderr, flush=True)
            continue
        if first is None:
            continue
        if number in _SIGNALS and repeated:
            repeated -= 1
            continue
        if _State.is_lost:
            _State.is_lost, _State.is_repeated = False, True
            repeated += 1
            _thread.interrupt_main(signal.Signals(first))
            continue
        is_second = number in _SIGNALS and waited > _REPEATED
        if is_second or waited > GRACE + (_SAVING if _State.is_saving else 0):
            print(f"\n{message}", file=sys.stderr, flush=True)
            _exit(128 + first)


def _exit(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)
