"""The experiments on published models: their settings hold, and their docstrings say what they need."""

import runpy

import pytest

from benchmarks.live_or_cached import LARGE, ROOT, experiments, needs
from gsae import config as schema
from gsae.main import parse_flags

FILES = sorted(
    path for path in (ROOT / "experiments" / "language_models").glob("*.py") if path.stem != "starting_point"
)


def test_every_file_is_in_the_arithmetic():
    assert {path.stem for path in FILES} == {name.partition(":")[0] for name in LARGE}


def test_docstrings_say_what_the_arithmetic_gives():
    for name, config in experiments():
        if name.startswith("language_models/"):
            file = ROOT / "experiments" / f"{name.partition(':')[0]}.py"
            assert " ".join(needs(config).split()) in " ".join(file.read_text().split()), name


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_all_sizes_pass_the_schema(file):
    module = runpy.run_path(str(file))
    for size in module.get("SIZES", ["default"]):
        config = schema.parse(module["get_config"](*([size] if "SIZES" in module else [])))
        assert config.training.steps * config.training.batch_size == config.activations.rows
        assert all(entry.sites == config.sweep["gated"].sites for entry in config.sweep.values())


def test_an_unknown_size_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_flags(["gsae", "--config=experiments/language_models/pythia.py:7b"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "7b" in said and "2.8b" in said and said.count("\n") == 1 and "Traceback" not in said
