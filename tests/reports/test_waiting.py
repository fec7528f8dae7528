import json

import pytest

from gsae.reports.waiting import rows_sentence


def log(path, lines):
    """Lines of 100 tokens each: seconds, share that the sweep waited, share that the language model waited."""
    with open(path, "w") as file:
        for number, (seconds, stall, *idle) in enumerate(lines, start=1):
            timing = {"tokens_per_second": 100 / seconds, "stall_share": stall}
            timing |= {"language_model_stall_share": idle[0]} if idle else {}
            file.write(json.dumps({"step": number, "tokens": 100 * number, "points": {}, "timing": timing}) + "\n")
        file.write('{"step": 7, "tok')  # killed here
    return path


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [(1, 0.5), (3, 0.1)],
            "The rows were stored before the training; the sweep waited for rows for 20.0% of its time.",
        ),
        (
            [(1, 0.5, 0.0), (3, 0.1, 0.4)],
            "The language model made the rows live while the sweep trained; the sweep waited for rows for 20.0% of the "
            "time, the language model for the sweep for 30.0%.",
        ),
        (
            [(1, 0.5, 0.3), (3, 0.1), (1, 0.2), (1, 0.2)],
            "The language model made 25% of the rows live, the others were stored; the sweep waited for rows for 20.0% "
            "of the time, the language model for the sweep for 30.0% while it made them.",
        ),
    ],
)
def test_the_sentence_weighs_shares_by_time(tmp_path, lines, expected):
    assert rows_sentence(log(tmp_path / "metrics.jsonl", lines)) == expected


def test_without_a_log_there_is_nothing_to_say(tmp_path):
    assert rows_sentence(tmp_path / "metrics.jsonl") == ""
