"""The logs: what is written, when it is read, and how it is cut back."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from gsae.errors import RunError, SettingError
from gsae.training.logging import Logger
from gsae.training.sinks import METRICS, TensorBoard, cut_back

NAMES = {"group": ["first", "second"]}


def metrics(loss=(1.0, 2.0), active=(1.0, 1.0)):
    # A third, padding member has no name and is not logged.
    return {
        "group": {
            "loss": jnp.array([*loss, 9.0]),
            "l0": jnp.array([3.0, 4.0, 0.0]),
            "active": jnp.array([*active, 0.0]),
        }
    }


def logger_in(directory, **options):
    settings = {"every": 2, "total_steps": 10, "tokens_per_step": 100, "tensorboard": False, "bar": False}
    return Logger(directory, **(settings | options))


def lines_of(directory):
    return [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]


def test_a_line_is_written_when_it_is_read_not_when_it_is_handed_over(tmp_path):
    with logger_in(tmp_path) as logger:
        logger.start(0, NAMES, flops_per_step=1e6, peak=1e12, waiting={"stall_share": lambda: 3.0})
        assert [step for step in range(1, 11) if logger.due(step)] == [2, 4, 6, 8, 10]
        logger.hand_over(2, metrics())
        assert lines_of(tmp_path) == []
        logger.flush()
        (line,) = lines_of(tmp_path)
        assert line["step"] == 2 and line["tokens"] == 200
        assert line["points"] == {
            "first": {"loss": 1.0, "l0": 3.0, "active": 1.0},
            "second": {"loss": 2.0, "l0": 4.0, "active": 1.0},
        }
        timing = line["timing"]
        assert timing["tokens_per_second"] > 0 and timing["stall_share"] == 0
        steps_per_second = timing["tokens_per_second"] / 100
        assert timing["flop_utilisation"] == pytest.approx(steps_per_second * 1e6 / 1e12)
        logger.flush()
        logger.hand_over(4, metrics())
        logger.hand_over(6, metrics())
        assert [line["step"] for line in lines_of(tmp_path)] == [2, 4]


def test_rates_leave_pauses_out_and_count_stalls(tmp_path, monkeypatch):
    now, waited, idle = [0.0], [7.0], [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    waiting = {"stall_share": lambda: waited[0], "language_model_stall_share": lambda: idle[0]}
    with logger_in(tmp_path) as logger:
        logger.start(0, NAMES, waiting=waiting)
        now[0], idle[0] = 1.0, 1.0
        with logger.paused():  # the language model goes on waiting
            now[0], idle[0] = 4.0, 4.0
        now[0], waited[0], idle[0] = 5.0, 7.5, 4.5
        logger.hand_over(2, metrics())
        logger.flush()
        now[0], waited[0] = 6.0, 7.75
        logger.hand_over(6, metrics())
        logger.flush()
    first, second = (line["timing"] for line in lines_of(tmp_path))
    shares = {"stall_share": 0.25, "language_model_stall_share": 0.75}
    assert first == {"tokens_per_second": 100.0, **shares, "seconds": 5.0}
    assert second == {"tokens_per_second": 400.0, **shares, "language_model_stall_share": 0.0, "seconds": 6.0}


def test_numbers_that_are_not_finite_are_null_and_their_point_is_named_once(tmp_path, capsys):
    with logger_in(tmp_path) as logger:
        logger.start(0, NAMES)
        for step in (2, 4):
            logger.hand_over(step, metrics(loss=(np.nan, np.inf), active=(1.0, 0.0)))
        logger.flush()
    assert [line["points"]["second"]["loss"] for line in lines_of(tmp_path)] == [None, None]
    said = [line for line in capsys.readouterr().err.splitlines() if "not finite" in line]
    assert len(said) == 1 and "second" in said[0] and "step 2" in said[0]


def test_the_bar_shows_rate_and_ranges(tmp_path, capsys):
    with logger_in(tmp_path, bar=True) as logger:
        logger.start(4, NAMES)
        logger.hand_over(6, metrics())
        logger.flush()
    shown = capsys.readouterr().err
    assert "6/10" in shown and "tokens/s" in shown and "loss 1 to 2" in shown and "L0 3 to 4" in shown


@pytest.mark.parametrize("torn", ["", '{"step": 7, "poi'])
def test_a_resumed_log_is_cut_back_and_goes_on(tmp_path, torn):
    text = "".join(f'{{"step": {step}}}\n' for step in (2, 4, 6))
    (tmp_path / METRICS).write_text(text + torn)
    with logger_in(tmp_path) as logger:
        logger.start(5, NAMES)
        logger.hand_over(6, metrics())
        logger.flush()
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6] and "points" in lines[2]


def test_cutting_back_keeps_the_line_of_the_very_step_and_needs_no_file(tmp_path):
    cut_back(tmp_path / "none.jsonl", 3)
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 2}\n{"step": 3}\n{"step": 4}\n')
    cut_back(path, 3)
    assert path.read_text() == '{"step": 2}\n{"step": 3}\n'
    cut_back(path, 0)
    assert path.read_text() == ""


def test_a_log_that_is_not_readable_is_not_thrown_away(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 2}\nnonsense\n{"step": 4}\n')
    with pytest.raises(RunError, match="line 2"):
        cut_back(path, 9)
    assert "nonsense" in path.read_text()


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with logger_in(tmp_path / "file" / "logs") as logger, pytest.raises(RunError, match="cannot be written"):
        logger.start(0, NAMES)


def test_tensorboard_gets_every_metric_and_purges_what_comes_again(tmp_path, monkeypatch):
    # tensorboardX takes torch along where it is installed, which takes seconds and changes nothing here.
    monkeypatch.setitem(sys.modules, "torch", None)
    import tensorboardX

    made = []
    writer = tensorboardX.SummaryWriter

    def spy(*given, **options):
        made.append(options)
        return writer(*given, **options)

    monkeypatch.setattr(tensorboardX, "SummaryWriter", spy)
    with logger_in(tmp_path, tensorboard=True) as logger:
        logger.start(0, NAMES, waiting={"stall_share": lambda: 0.0})
        logger.hand_over(2, metrics())
        logger.flush()
    (file,) = (tmp_path / "tensorboard").iterdir()
    data = file.read_bytes()
    assert all(tag in data for tag in (b"loss/first", b"l0/second", b"timing/stall_share"))
    sink = TensorBoard(tmp_path / "tensorboard", 4)
    sink.close()
    assert [options["purge_step"] for options in made] == [None, 5]


def test_weights_and_biases_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SettingError, match=r"config.logging.wandb_project = 'mine': needs the package wandb"):
        logger_in(tmp_path / "logs", wandb_project="mine")
    assert not (tmp_path / "logs").exists()


def test_weights_and_biases_gets_the_same_numbers(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    class Wandb:
        __spec__ = object()

        @staticmethod
        def init(**options):
            calls.append(options)
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    with logger_in(tmp_path, wandb_project="mine", settings={"seed": 0}) as logger:
        logger.start(0, NAMES)
        logger.hand_over(2, metrics())
        logger.flush()
    options, (step, values), last = calls
    assert options["project"] == "mine" and options["resume"] == "allow" and options["config"] == {"seed": 0}
    assert step == 2 and values["loss/second"] == 2.0 and last == "finished"
