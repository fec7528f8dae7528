"""The step of a published size, compiled by the TPU's own compiler for pods that are not here.

Gemma 7B's activations (D = 3072), 131,072 features, eight gated members. Needs libtpu (the extra `tpu`).
"""

import jax
import pytest

from gsae.collectives import totals
from gsae.language_models import attention_blocks
from gsae.mesh import DATA, FEATURE, SWEEP
from gsae.plan import topology
from gsae.plan.programs import lower_step
from gsae.roofline.choice import rank
from gsae.roofline.work import MemberWork, Share
from gsae.training.collectives import step_collectives
from gsae.training.groups import Point, group_points

pytest.importorskip("libtpu")
pytestmark = pytest.mark.slow

B, D, F, MEMBERS = 4096, 3072, 131_072, 8


@pytest.fixture(scope="module")
def compiled():
    """For each pod: the mesh that is chosen, the group, its compiled step, what one member was estimated to be."""
    from gsae.autoencoders.registry import architecture
    from gsae.training.schedules import Schedules
    from gsae.training.step import StepSettings

    settings = StepSettings(
        batch_size=B, schedules=Schedules(total_steps=100, warmup_steps=5), compute_dtype="bfloat16"
    )
    options = architecture("gated").Options()
    points = [Point("gated", "mlp_out.14", F, 0.1 * (i + 1), 3e-4, 0, options) for i in range(MEMBERS)]
    (group,) = group_points(points)
    work = MemberWork.of(group, D, settings)
    found = {}
    for name, given in (("v5e:4x4", (4, 1, 4)), ("v5e:16x16", (4, 4, 16)), ("v5p:4x4x4", (0, 0, 0))):
        machine = topology.find(name)
        how = {"batch_size": B, "row_itemsize": 2, "compute_dtype": "bfloat16", "fixed": given}
        best = rank([work], machine.chip, machine.count, memory=machine.chip.memory, **how)[0]
        (own,) = group_points(points, best.sizes.sweep)
        step = lower_step(own, D, settings, machine.mesh(best.sizes), "bfloat16").compile()
        found[name] = machine, best, own, step, settings, work
    return found


def test_it_fits_where_it_was_said_to(compiled):
    for name, (machine, best, _, step, _, _) in compiled.items():
        assert best.fits and not step.refused, name
        assert 0 < step.peak < machine.chip.memory, name
        assert step.arguments == pytest.approx(best.demand.arguments, rel=0.05), name
        assert step.temporaries < 1.2 * best.demand.temporaries, name


def test_compiled_quickly_it_is_the_same_program_but_for_temporaries(compiled):
    machine, best, group, step, settings, _ = compiled["v5e:16x16"]
    quick = lower_step(group, D, settings, machine.mesh(best.sizes), "bfloat16").compile(quickly=True)
    assert (quick.arguments, quick.results) == (step.arguments, step.results)
    assert quick.flops == pytest.approx(step.flops, rel=1e-3)
    assert by_axes(quick.collectives) == by_axes(step.collectives) and quick.sent == step.sent
    assert 0.9 * step.peak < quick.peak < 1.25 * step.peak


def test_blocks_of_attention_suit_the_devices_of_the_plan(compiled):
    assert jax.default_backend() == "cpu"
    queries = attention_blocks._queries_at_once(64 * 32, 2048)
    with jax.set_mesh(compiled["v5e:4x4"][0].mesh((1, 1, 16))):
        assert attention_blocks._queries_at_once(64 * 32, 2048) == 2 * queries == 128


def by_axes(found):
    sizes = {}
    for (_, axes), size in totals(found).items():
        sizes[axes] = sizes.get(axes, 0) + size
    return sizes


def test_the_collectives_are_those_of_the_formula(compiled):
    for name, (_, best, group, step, settings, _) in compiled.items():
        sizes = dict(zip((SWEEP, DATA, FEATURE), best.sizes, strict=True))
        formula = step_collectives(group, D, settings, sizes, "bfloat16")
        expected, found = by_axes(formula), by_axes(step.collectives)
        for axes, size in expected.items():
            assert found[axes] == pytest.approx(size, rel=0.01), (name, axes)
        extra = sum(size for axes, size in found.items() if axes not in expected)
        assert extra < 1e-3 * sum(expected.values()), name
        # For v5p the compiler writes the batch's gathering as a sum over zeros, which sends twice as much.
        assert {one.kind for one in step.collectives} <= {"all-gather", "all-reduce"}, name
        assert 0.99 < step.sent / best.demand.collective_bytes < 1.15, name


def test_flops_a_chip_fall_as_one_over_chips(compiled):
    flops = {}
    for name, (machine, best, group, step, _, work) in compiled.items():
        local = group.size // best.sizes.sweep  # the compiler counts a loop over members once
        share = Share(B / best.sizes.data, F / best.sizes.feature)
        assert step.flops == pytest.approx(work.flops(share), rel=0.02), name
        flops[machine.count] = local * step.flops
    assert sorted(flops) == [16, 64, 256]
    assert flops[16] == pytest.approx(4 * flops[64], rel=0.02)
    assert flops[16] == pytest.approx(16 * flops[256], rel=0.02)
