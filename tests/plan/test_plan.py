"""A plan for CPU devices, whose compiler is here, beside one by arithmetic; from config.json alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run

from gsae import config as schema
from gsae.errors import SettingError
from gsae.language_models import hub
from gsae.language_models.sites import Site
from gsae.plan import topology
from gsae.plan.model import AbstractModel
from gsae.plan.plan import make_plan
from gsae.plan.programs import compile_harvest
from gsae.plan.report import lines

TIMEOUT = 300


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A language model of which there is only config.json."""
    directory = tmp_path_factory.mktemp("bare")
    shutil.copy(hub.find_configuration("bundled"), directory)
    return directory


def configuration(bare, **changes):
    return schema.parse(tiny_run.configuration(Path("nowhere"), language_model__name=str(bare), **changes))


@pytest.fixture(scope="module")
def plan(bare):
    # CPUs exchange float32 whatever the rows are.
    return make_plan(configuration(bare, activations__dtype="float32"), topology.find("cpu:4"), (0, 0, 2))


def test_the_compiled_step_is_the_one_that_was_estimated(plan):
    assert plan.chosen.sizes.devices == 4 and plan.chosen.sizes.feature == 2
    assert set(plan.steps) == {group.name for group in plan.groups} and len(plan.groups) == 2
    sweep = plan.chosen.sizes.sweep
    local = [group.size // sweep for group in plan.groups]
    counted = sum(members * step.flops for members, step in zip(local, plan.steps.values(), strict=True))
    # Small products beside the large ones, which the compiler counts with everything else.
    assert plan.chosen.demand.flops < counted < 1.6 * plan.chosen.demand.flops
    sent = sum(step.sent for step in plan.steps.values())
    assert sent == pytest.approx(plan.chosen.demand.collective_bytes, rel=0.1)
    assert {one.kind for step in plan.steps.values() for one in step.collectives} <= {"all-reduce", "all-gather"}
    state = sum(step.arguments for step in plan.steps.values())
    batch = plan.chosen.demand.host_bytes  # each of two programs has one, the estimate counts four on their way
    assert state == pytest.approx(plan.chosen.demand.arguments - 2 * batch, rel=0.01)


def test_harvest_and_evaluation_are_compiled_too(plan):
    assert set(plan.harvest.programs) == {"forward"}
    assert set(plan.evaluation.programs) == {"prefix", "suffix", "score", "reconstruct"}
    for stage in (plan.harvest, plan.evaluation):
        assert stage.seconds > 0 and all(program.arguments > 0 for program in stage.programs.values())


def test_the_report_has_every_figure(plan):
    text = "\n".join(lines(plan, 1.5))
    for wanted in (
        "training, compiled",
        "it fits",
        "then sweep",
        "roofline, ms",
        "tokens/s",
        "utilisation",
        "chip hours",
    ):
        assert wanted in text, wanted
    hours, money = re.search(r"at the roofline: .*, (\S+) chip hours, (\S+) at 1.5", text).groups()
    assert float(money) == pytest.approx(1.5 * float(hours), abs=0.01)
    rows = plan.rows
    assert rows == 24 * 256 and f"{rows:,} rows of 512 bytes" in text  # float32, attn_z of width 128
    assert "chip hours," not in "\n".join(lines(plan, None))


def test_by_arithmetic_alone(bare, plan):
    estimated = make_plan(configuration(bare), topology.find("h100:4"), (0, 0, 2))
    assert not estimated.steps and not estimated.harvest.programs and estimated.compute_dtype == "bfloat16"
    assert estimated.harvest.flops == plan.harvest.flops and estimated.evaluation.flops == plan.evaluation.flops
    text = "\n".join(lines(estimated, None))
    assert "arithmetic, no compiler" in text and "compiled:" not in text.replace("arithmetic, no compiler", "")


def test_rows_made_live_belong_to_the_training(bare, plan):
    live = make_plan(configuration(bare, activations__source="live"), topology.find("h100:4"), (0, 0, 2))
    stored = make_plan(configuration(bare), topology.find("h100:4"), (0, 0, 2))
    assert live.harvest is None and live.live.seconds == pytest.approx(stored.harvest.seconds)
    assert live.seconds == pytest.approx(stored.seconds)  # one pass over the rows
    assert "on disk" not in "\n".join(lines(live, None))


def test_a_model_that_several_devices_share_takes_its_part_of_each(bare):
    model, devices = AbstractModel.of(str(bare), "main", "float32"), topology.find("cpu:2").devices
    sites = (Site.parse("attn_z.1"),)
    shared, whole = (
        compile_harvest(model, model.placed(devices, parts), sites, (2, 64), "bfloat16", False) for parts in (2, 1)
    )
    assert shared.arguments < 0.6 * whole.arguments
    assert shared.collectives and not whole.collectives


def test_settings_that_no_plan_can_have(bare):
    with pytest.raises(SettingError, match=r"config\.activations\.devices = 1"):
        make_plan(configuration(bare, activations__devices=1), topology.find("h100:4"), (0, 0, 0))
    with pytest.raises(SettingError, match=r"config\.text\.context_length"):
        make_plan(configuration(bare, text__context_length=4096), topology.find("h100:4"), (0, 0, 0))
    with pytest.raises(SettingError, match="no mesh of 4 devices"):
        make_plan(configuration(bare), topology.find("h100:4"), (1, 1, 1))


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--topology=h100:8", "--price=2"], 0, "chip hours"),
        (["--topology=h100:8", "--price=-1"], 2, "--price = -1.0: must be a number from 0"),
        (["--topology=v5e:4by4"], 2, "--topology = 'v5e:4by4': must be a TPU"),
    ],
)
def test_the_command_line(flags, code, said, bare):
    command = [sys.executable, "-m", "gsae.plan", "--config=experiments/pareto_sweep.py", *flags]
    found = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert found.returncode == code, found.stderr
    assert said in found.stdout + found.stderr and "Traceback" not in found.stderr
