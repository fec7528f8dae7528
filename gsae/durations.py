"""Durations as they are written in settings: "200 steps", "1_000_000 tokens", "5%" of the run. A leaf."""

import math
import re

from gsae.errors import SettingError

DURATION = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*(steps?|tokens?|%)\s*")
ALLOWED = 'a duration such as "200 steps", "1_000_000 tokens" or "5%" (of the run)'


def duration_in_steps(duration: str, *, total_steps: int, batch_size: int, setting: str) -> int:
    """A duration as a number of steps; tokens and percentages are rounded up to whole steps.

    Args:
        duration: "200 steps", "1_000_000 tokens" or "5%".
        total_steps: length of the run, what a percentage refers to.
        batch_size: tokens in a step.
        setting: the setting's full name, for the error.

    Raises:
        SettingError: when it is written in another way.
    """
    match = DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        raise SettingError(setting, duration, f"must be {ALLOWED}")
    number, unit = match[1].replace("_", ""), match[2].rstrip("s")
    if unit == "%":
        if float(number) > 100:
            raise SettingError(setting, duration, "must be at most 100%")
        return math.ceil(round(total_steps * float(number) / 100, 6))
    if "." in number:
        raise SettingError(setting, duration, f"must be a whole number of {unit}s")
    return int(number) if unit == "step" else -(-int(number) // batch_size)
