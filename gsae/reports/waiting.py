"""Where the rows of a training came from, and who waited for whom, out of the JSON lines that it logged."""

import json
from pathlib import Path

TRAINER, LANGUAGE_MODEL = "stall_share", "language_model_stall_share"  # the latter only while rows are made live


def rows_sentence(metrics_log: Path) -> str:
    """One sentence: stored rows, or rows made live, and the share of the time for which each side waited.

    The log's `timing` says it for every line. "" where there is no log.
    """
    live, stored = _Interval(), _Interval()
    before = 0
    for line in Path(metrics_log).read_text(encoding="utf-8").splitlines() if Path(metrics_log).is_file() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # a killed run's last line
            continue
        timing, tokens = record["timing"], record["tokens"] - before
        (live if LANGUAGE_MODEL in timing else stored).add(tokens, timing)
        before = record["tokens"]
    if not before:
        return ""
    waited = f"the sweep waited for rows for {(live.waited + stored.waited) / (live.seconds + stored.seconds):.1%}"
    if not live.tokens:
        return f"The rows were stored before the training; {waited} of its time."
    idle = f"the language model for the sweep for {live.idle / live.seconds:.1%}"
    if not stored.tokens:
        return f"The language model made the rows live while the sweep trained; {waited} of the time, {idle}."
    share = f"The language model made {live.tokens / before:.0%} of the rows live, the others were stored"
    return f"{share}; {waited} of the time, {idle} while it made them."


class _Interval:
    """Sums over some lines of the log."""

    def __init__(self) -> None:
        self.tokens, self.seconds, self.waited, self.idle = 0, 0.0, 0.0, 0.0

    def add(self, tokens: int, timing: dict) -> None:
        seconds = tokens / timing["tokens_per_second"]
        self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds
        self.waited += seconds * timing[TRAINER]
        self.idle += seconds * timing.get(LANGUAGE_MODEL, 0.0)
