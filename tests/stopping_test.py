"""Signals at a command that computes, that catches everything, or that waits outside of Python."""

import os
import signal
import subprocess
import sys
import time

import pytest

from layered_segmentation import stopping

pytestmark = pytest.mark.posix("signals for other processes")

HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none

PROGRAM = """
import ctypes, gc, sys, time
from layered_segmentation import stopping
stopping.GRACE = 2.0

def step():
    time.sleep(0.1)

def deaf():  # as code that is called from C++, where the exception is lost
    while True:
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:
            pass

def waits():
    ctypes.CDLL(None).sleep(60)

def collects():  # Python only prints what a callback of its garbage collector raises
    gc.callbacks.append(lambda phase, info: gc.callbacks.clear() or time.sleep(1))
    gc.collect()
    for _ in range(600):
        step()

def keeps_the_lock():
    while ctypes.PyDLL(None).sleep(60):
        pass

kind = sys.argv[1]
with stopping.watched("train: interrupted; again"):
    print("begun", flush=True)
    try:
        if kind == "deferred":
            with stopping.deferred():
                while not stopping.is_requested():
                    step()
                with stopping.saving():
                    time.sleep(3)
                print("saved", flush=True)
                stopping.check()
        elif kind == "deferred deaf":
            with stopping.deferred():
                deaf()
        elif kind == "collector":
            collects()
        elif kind == "destructor":
            try:
                while True:
                    step()
            finally:
                keeps_the_lock()
        else:
            {"python": lambda: [step() for _ in range(600)], "deaf": deaf, "waits": waits}[kind]()
    except KeyboardInterrupt as error:
        stopping.leave(error.status)
"""


@pytest.fixture
def start():
    processes = []

    def run(kind):
        command = [sys.executable, "-c", PROGRAM, kind]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
        processes.append(process)
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.3)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


def seconds_until_end(process):
    begin = time.monotonic()
    process.wait(timeout=20)
    return time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGUP])
@pytest.mark.parametrize(
    ("kind", "most"), [("python", 1.5), ("deaf", 4), ("waits", 4), ("deferred deaf", 4)]
)
def test_one_signal_is_enough(start, kind, most, number):
    process = start(kind)
    process.send_signal(number)
    assert seconds_until_end(process) < most
    assert process.returncode == 128 + number


@pytest.mark.slow
def test_a_signal_that_python_only_prints_is_sent_again(start):
    process = start("collector")
    process.send_signal(signal.SIGTERM)
    assert seconds_until_end(process) < 1.5  # sooner than by the watchdog
    assert process.returncode == 143
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_what_waits_in_c_and_keeps_the_lock_ends_too(start):
    process = start("destructor")
    process.send_signal(signal.SIGINT)
    assert seconds_until_end(process) < 6
    assert process.returncode == -signal.SIGALRM  # nothing of Python could run any more


@pytest.mark.slow
def test_training_saves_first_and_takes_longer_for_it(start):
    process = start("deferred")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # `timeout` sends it to the process and to its group
    assert 2 < seconds_until_end(process) < 6
    assert process.returncode == 143
    assert process.stdout.read() == "saved\n"
    assert "stopping: finishing this step" in process.stderr.read()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deferred", "deferred deaf", "deaf"])
def test_a_second_signal_ends_it_at_once(start, kind):
    process = start(kind)
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    assert seconds_until_end(process) < 0.8
    assert process.returncode == 130
    assert "train: interrupted; again" in process.stderr.read()


def test_without_a_command_a_second_signal_raises():
    with pytest.raises(stopping.Stopped) as stopped, stopping.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        assert stopping.is_requested()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        raise AssertionError("not stopped")
    assert stopped.value.status == 130
    assert not stopping.is_requested()  # of what this process does next
    with pytest.raises(stopping.Stopped), stopping.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGINT)
    with stopping.deferred():  # what came before is forgotten
        stopping.check()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(HANGUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with stopping.deferred():
            os.kill(os.getpid(), HANGUP)
            time.sleep(0.05)
    finally:
        signal.signal(HANGUP, before)
