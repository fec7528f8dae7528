"""A plan for CPU devices, whose compiler is here, beside one by arithmetic; from config.json alone."""

import dataclasses
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
from gsae.plan.compilations import Compilations
from gsae.plan.compiler import Compiled
from gsae.plan.model import AbstractModel
from gsae.plan.plan import make_plan
from gsae.plan.programs import lower_harvest
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


@pytest.fixture(scope="module")
def report(plan, tmp_path_factory):
    """The report's lines, and when each came: how many programs had been compiled by then."""
    kept = tmp_path_factory.mktemp("kept")
    with Compilations(plan.topology, directory=kept) as compilations:
        found = [(line, len(list(kept.iterdir()))) for line in lines(plan, 1.5, compilations)]
    assert compilations.reused == 0
    return kept, found


@pytest.fixture(scope="module")
def steps(plan, report):
    with Compilations(plan.topology, directory=report[0]) as compilations:
        found = {name: compilations.start(program)() for name, program in plan.lower_steps()}
    assert compilations.reused == 2  # the report has compiled them
    return found


def test_the_compiled_step_is_the_one_that_was_estimated(plan, steps):
    assert plan.chosen.sizes.devices == 4 and plan.chosen.sizes.feature == 2
    assert set(steps) == {group.name for group in plan.groups} and len(plan.groups) == 2
    sweep = plan.chosen.sizes.sweep
    local = [group.size // sweep for group in plan.groups]
    counted = sum(members * step.flops for members, step in zip(local, steps.values(), strict=True))
    # Small products beside the large ones, which the compiler counts with everything else.
    assert plan.chosen.demand.flops < counted < 1.6 * plan.chosen.demand.flops
    sent = sum(step.sent for step in steps.values())
    assert sent == pytest.approx(plan.chosen.demand.collective_bytes, rel=0.1)
    assert {one.kind for step in steps.values() for one in step.collectives} <= {"all-reduce", "all-gather"}
    state = sum(step.arguments for step in steps.values())
    batch = plan.chosen.demand.host_bytes  # each of two programs has one, the estimate counts four on their way
    assert state == pytest.approx(plan.chosen.demand.arguments - 2 * batch, rel=0.01)


def test_the_report_has_every_figure(plan, steps, report):
    _, found = report
    text = "\n".join(line for line, _ in found)
    wanted = ["then sweep", "roofline, ms", "tokens/s", "utilisation", "chip hours", "harvest, forward: GB", *steps]
    wanted += [f"evaluation, {name}: GB" for name in ("prefix", "suffix", "score", "reconstruct")]
    for words in wanted:
        assert words in text, words
    hours, money = re.search(r"at the roofline: .*, (\S+) chip hours, (\S+) at 1.5", text).groups()
    assert float(money) == pytest.approx(1.5 * float(hours), abs=0.01)
    rows = plan.rows
    assert rows == 24 * 256 and f"{rows:,} rows of 512 bytes" in text  # float32, attn_z of width 128
    assert text.count("  it fits") == 2 and found[-1][0] == "  it fits, as compiled"
    assert plan.harvest.seconds > 0 and plan.evaluation.seconds > 0


def test_arithmetic_comes_before_anything_is_compiled(report):
    _, found = report
    first = next(i for i, (line, _) in enumerate(found) if line.startswith("compiled for cpu:4 (as for a run)"))
    assert all(done == 0 for _, done in found[: first + 1])
    assert any("whole run" in line for line, _ in found[:first]) and found[first - 1][0] == "  it fits, by arithmetic"
    assert found[-1][1] == 7


def test_what_an_earlier_plan_compiled_is_not_compiled_again(plan, report, monkeypatch):
    kept, found = report

    def fail(*_):
        raise AssertionError("a program was compiled again")

    monkeypatch.setattr("gsae.plan.compiler.Program.compile", fail)
    with Compilations(plan.topology, directory=kept) as compilations:
        again = list(lines(plan, 1.5, compilations))
    assert [line for line in again if "--cache" not in line] == [line for line, _ in found]
    assert again[-2] == "  7 of these programs were compiled by an earlier plan (--cache)"
    one = next(kept.iterdir())
    one.write_text("{")  # what somebody else left there
    with Compilations(plan.topology, directory=kept) as compilations, pytest.raises(AssertionError, match="again"):
        list(lines(plan, None, compilations))


def test_programs_of_one_text_are_compiled_once(plan, monkeypatch):
    compiled = []
    monkeypatch.setattr("gsae.plan.compiler.Program.compile", lambda *_: compiled.append(1) or Compiled(peak=1))
    _, first = next(plan.lower_steps())
    elsewhere = [dataclasses.replace(point, site="attn_z.0") for point in plan.points]  # where D is the same
    _, second = next(dataclasses.replace(plan, points=elsewhere, widths={"attn_z.0": 128}).lower_steps())
    (_, other), *_ = list(plan.lower_steps())[1:]
    with Compilations(plan.topology) as compilations:
        found = [compilations.start(program)() for program in (first, second, other)]
    assert len(found) == 3 and len(compiled) == 2 and compilations.reused == 0


def test_another_mesh_leaves_the_language_models_programs_as_they_were(bare):
    """What most of the compiler's time goes to is kept for another width, whose mesh is another."""
    machine, keys = topology.find("cpu:4"), []
    turned = dataclasses.replace(machine, devices=machine.devices[::-1])  # TPUs come in an order that suits the mesh
    for there, sizes in ((machine, (4, 1, 1)), (turned, (1, 2, 2))):
        plan = make_plan(configuration(bare), there, sizes)
        lowered = dict(plan.evaluation.lower(plan.chosen.sizes))
        keys.append({name: (one.devices, one.mesh_shape, one.lowered.as_text()) for name, one in lowered.items()})
    same = {name for name in keys[0] if keys[0][name] == keys[1][name]}
    assert same >= {"prefix", "suffix"} and "reconstruct" not in same


class Refusing:
    """A compiler that has no room for any step."""

    def __init__(self, rest):
        self.quick, self.reused, self.started, self._rest = False, 0, 0, rest

    def start(self, program):
        self.started += 1
        is_step = "sweep" in program.mesh_shape and self._rest > 0
        self._rest -= is_step
        return lambda: Compiled(refused="Ran out of memory") if is_step else Compiled(peak=1, arguments=1)


def test_a_mesh_that_the_compiler_refuses_gives_way_to_the_next(bare):
    plan = make_plan(configuration(bare), topology.find("cpu:4"), (0, 0, 0))
    first, second = (attempt.chosen.sizes for attempt in list(plan.candidates())[:2])
    found = list(lines(plan, None, Refusing(2)))  # both groups' steps on the first mesh
    assert f"  the compiler refuses {first}" in found and found[-1] == "  it fits, as compiled"
    assert [line.split(": ")[1] for line in found if line.startswith("mesh: ")] == [str(first), str(second)]
    found = list(lines(plan, None, Refusing(99)))
    assert sum("the compiler refuses" in line for line in found) == len(list(plan.candidates())) > 1
    assert found[-1] == "  IT DOES NOT FIT, as compiled"


def test_by_arithmetic_alone(bare, plan):
    places = {"activations__store": "gs://bucket/store", "training__checkpoints": "gs://bucket/run"}  # not asked
    estimated = make_plan(configuration(bare, **places), topology.find("h100:4"), (0, 0, 2))
    assert estimated.settings.compute_dtype == "bfloat16"
    assert estimated.harvest.flops == plan.harvest.flops and estimated.evaluation.flops == plan.evaluation.flops
    text = "\n".join(lines(estimated, None))
    assert "arithmetic, no compiler" in text and "compiled" not in text and "chip hours," not in text


def test_rows_made_live_belong_to_the_training(bare, plan):
    live = make_plan(configuration(bare, activations__source="live"), topology.find("h100:4"), (0, 0, 2))
    stored = make_plan(configuration(bare), topology.find("h100:4"), (0, 0, 2))
    assert live.harvest is None and live.live.seconds == pytest.approx(stored.harvest.seconds)
    assert live.seconds(live.roofline()) == pytest.approx(stored.seconds(stored.roofline()))  # one pass over the rows
    assert "on disk" not in "\n".join(lines(live, None))


def test_a_model_that_several_devices_share_takes_its_part_of_each(bare):
    model, devices = AbstractModel.of(str(bare), "main", "float32"), topology.find("cpu:2").devices
    sites = (Site.parse("attn_z.1"),)
    shared, whole = (
        lower_harvest(model, model.placed(devices, parts), sites, (2, 64), "bfloat16", False).compile()
        for parts in (2, 1)
    )
    assert shared.arguments < 0.6 * whole.arguments
    assert shared.collectives and not whole.collectives


def test_settings_that_no_plan_can_have(bare):
    with pytest.raises(SettingError, match=r"config\.activations\.devices = 1"):
        make_plan(configuration(bare, activations__devices=1), topology.find("h100:4"), (0, 0, 0))
    with pytest.raises(SettingError, match=r"config\.text\.context_length"):
        make_plan(configuration(bare, text__context_length=4096), topology.find("h100:4"), (0, 0, 0))
    with pytest.raises(SettingError, match=r"config\.activations\.store = 'gs://BUCKET/x': must be a dir"):
        make_plan(configuration(bare, activations__store="gs://BUCKET/x"), topology.find("h100:4"), (0, 0, 0))
    with pytest.raises(SettingError, match=r"config\.training\.checkpoints = 's3://bucket/x': .*beside"):
        make_plan(configuration(bare, training__checkpoints="s3://bucket/x"), topology.find("h100:4"), (0, 0, 0))
    with pytest.raises(SettingError, match="no mesh of 4 devices"):
        make_plan(configuration(bare), topology.find("h100:4"), (1, 1, 1))


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--topology=h100:8", "--price=2"], 0, "chip hours"),
        (["--topology=h100:8", "--price=-1"], 2, "--price = -1.0: must be a number from 0"),
        (["--topology=v5e:16x32"], 2, "--topology = 'v5e:16x32': a pod of v5e has at most 16x16 chips"),
    ],
)
def test_the_command_line(flags, code, said, bare):
    command = [sys.executable, "-m", "gsae.plan", "--config=experiments/pareto_sweep.py", *flags]
    found = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert found.returncode == code, found.stderr
    assert said in found.stdout + found.stderr and "Traceback" not in found.stderr
    if code == 2:
        assert found.stdout == "" and found.stderr.count("\n") == 1
