"""The tables of SCALING.md, without a compiler: the public figure, growth, and where they are put."""

from benchmarks import scaling


def cells(lines):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_public_figure_is_beside_ours():
    """Standard at the roofline takes about half of the 45 ms that were published: no less would be believable."""
    head, _, *rows = cells(scaling.public_figure())
    best = {row[0]: float(row[head.index("step, ms")]) for row in reversed(rows)}  # the first of each kind
    assert 19.5 < best["standard"] < 0.55 * 45 and 27 < best["gated"] < 45
    assert 1.3 < best["gated"] / best["standard"] < 1.5  # seven products against five


def test_steps_without_a_compiler():
    head, _, *rows = cells(scaling.steps(compiling=False))
    assert len(head) == 12 and all(len(row) == len(head) for row in rows)
    assert len(rows) == len(scaling.WIDTHS) * len(scaling.MACHINES) * len(scaling.KINDS)
    assert {row[5] for row in rows} == {row[7] for row in rows} == {"-"}
    step = {tuple(row[:3]): float(row[8]) for row in rows}
    for label in scaling.WIDTHS:
        assert step[label, "8 v5e", "gated"] > step[label, "64 v5e", "gated"] > step[label, "256 v5e", "gated"]
        assert step[label, "8 v5e", "topk-like"] > step[label, "8 v5e", "standard"]


def test_what_is_written_replaces_what_was_there():
    document = scaling.DOCUMENT.read_text()
    once = scaling.written(document, ["| a |"])
    assert once == scaling.written(once, ["| a |"]) and "| a |" in once
    assert once.startswith(document.partition(scaling.BEGIN)[0])
