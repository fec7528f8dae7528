"""Command lines of the smaller programs: a mistake is one line and an exit code, never a traceback."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from gsae.errors import Interrupted, RunError, SettingError


class Parser(argparse.ArgumentParser):
    """argparse, whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and exits with the code of a wrong setting."""
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(SettingError.exit_code)


def at_least(least: int) -> Callable[[str], int]:
    """The type of a flag: a whole number, with underscores where one likes, not below `least`."""

    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from {least}")
        return number

    return whole


def positive(text: str) -> float:
    """The type of a flag: a number above zero."""
    return _number(text, "must be a number above 0", lambda number: 0 < number < float("inf"))


def share(text: str) -> float:
    """The type of a flag: a number between 0 and 1, both excluded."""
    return _number(text, "must be between 0 and 1, both excluded", lambda number: 0 < number < 1)


def _number(text: str, allowed: str, fits: Callable[[float], bool]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not fits(number):
        raise argparse.ArgumentTypeError(f"{text!r}: {allowed}")
    return number


def finish(name: str, work: Callable[[], None]) -> int:
    """Does the work and gives the exit code; what went wrong is printed as one line."""
    try:
        work()
    except (SettingError, RunError, Interrupted) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return Interrupted.exit_code
    return 0
