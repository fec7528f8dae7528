"""Signals become a request; the second interrupt kills."""

import signal
import subprocess
import sys
import textwrap
import threading

from gsae.training.preemption import watch_signals


def test_the_first_signal_is_noted_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with watch_signals() as stop:
        assert not stop.reached(1)
        signal.raise_signal(signal.SIGTERM)
        assert stop.reached(2) and stop.signal_name == "SIGTERM"
        signal.raise_signal(signal.SIGTERM)  # schedulers repeat themselves
        assert stop.reached(3)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_the_main_thread_nothing_is_watched():
    seen = []

    def work():
        with watch_signals() as stop:
            seen.append(stop.reached(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_second_sigint_kills_at_once():
    program = """
        import os, signal
        from gsae.training.preemption import watch_signals
        with watch_signals():
            os.kill(os.getpid(), signal.SIGINT)
            print("noted", flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            print("still here", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT and done.stdout == "noted\n" and "SIGINT: saving" in done.stderr
