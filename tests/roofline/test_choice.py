"""Which mesh is chosen: legal, fitting, fastest; and what is said about it."""

import dataclasses
import math

import jax
import pytest
from sweeps import SITE, points, settings

from gsae import chips
from gsae.errors import SettingError
from gsae.roofline.choice import SHARE, choose, explain, rank, scope_rule
from gsae.roofline.work import MemberWork
from gsae.training.groups import group_points

V5E = chips.named("v5e")
D = 3072


@pytest.fixture(scope="module")
def works():
    """Eight gated members of 131,072 features, three standard ones of 98,304."""
    sweep = points("gated", 131_072, 8) + points("standard", 98_304, 3)
    return [MemberWork.of(group, D, settings()) for group in group_points(sweep)]


def ranked(works, devices=16, **changes):
    options = {"batch_size": 4096, "row_itemsize": 2, "compute_dtype": "bfloat16", "memory": V5E.memory} | changes
    return rank(works, V5E, devices, **options)


def test_all_legal_meshes_are_there_and_the_fastest_that_fits_is_first(works):
    found = ranked(works)
    sizes = [tuple(candidate.sizes) for candidate in found]
    legal = {(s, d, 16 // s // d) for s in (1, 2, 4, 8) for d in (1, 2, 4, 8, 16) if 16 % (s * d) == 0}
    assert set(sizes) == legal and len(sizes) == len(legal)  # sweep 16 would leave devices without a member
    fitting = [candidate for candidate in found if candidate.fits]
    assert found[: len(fitting)] == fitting and 0 < len(fitting) < len(found)
    assert found[0].roofline.seconds == min(candidate.roofline.seconds for candidate in fitting)
    for candidate in fitting:
        assert candidate.demand.peak <= SHARE * V5E.memory


def test_less_memory_or_more_of_it_taken_moves_the_choice(works):
    best = ranked(works)[0]
    for less in ({"memory": best.demand.peak}, {"taken": SHARE * V5E.memory - best.demand.peak + 1e6}):
        other = ranked(works, **less)[0]
        assert other.fits and other.sizes != best.sizes and other.demand.peak < best.demand.peak
    assert not ranked(works, memory=1e6)[0].fits


def test_given_sizes_are_kept(works):
    assert {candidate.sizes.data for candidate in ranked(works, fixed=(0, 4, 0))} == {4}
    assert [tuple(candidate.sizes) for candidate in ranked(works, fixed=(2, 2, -1))] == [(2, 2, 4)]


@pytest.mark.parametrize(
    ("devices", "changes"),
    [(6, {}), (16, {"fixed": (3, 0, 0)}), (16, {"fixed": (2, 2, 2)}), (16, {"batch_size": 100})],
)
def test_what_divides_nowhere_is_refused(works, devices, changes):
    with pytest.raises(SettingError, match=rf"config\.mesh = .*no mesh of {devices} devices"):
        ranked(works, devices, **changes)


def test_the_reason_and_the_runners_up_are_said(works):
    found = ranked(works)
    text = "\n".join(explain(found, V5E))
    assert f"mesh: {found[0].sizes}: " in text and "published peaks of v5e" in text
    assert "do not fit" in text and str(found[1].sizes) in text and str(found[3].sizes) in text
    assert "of the work fills the sweep axis" in text  # three members over an axis of two or more
    rule = scope_rule(found)
    assert rule.roofline.host_to_device <= rule.roofline.device
    assert ("the same" in text) == (rule is found[0])


def test_the_rule_takes_more_data_parallelism_where_the_host_is_slow(works):
    found = ranked(works, memory=None)
    fast = scope_rule(found)
    # As if features were split at the expense of the link: only meshes with more parts of the batch hide the transfer.
    slow = [
        dataclasses.replace(
            c, roofline=dataclasses.replace(c.roofline, host_to_device=c.roofline.device * 1.5 / c.sizes.data)
        )
        for c in found
    ]
    assert scope_rule(slow).sizes.data > fast.sizes.data


def chosen(given, devices, capsys, **changes):
    sweep = points("gated", 64, 4)
    options = {"row_itemsize": 2, "taken": 0, "given": given} | changes
    sizes = choose(sweep, {SITE: 16}, settings(32, "float32"), devices=devices, **options)
    return tuple(sizes), capsys.readouterr().out


def test_all_devices_are_used_and_one_needs_no_choice(capsys):
    sizes, said = chosen((0, 0, 0), jax.devices(), capsys)
    assert math.prod(sizes) == len(jax.devices()) == 8
    assert "assumed speeds of cpu" in said
    assert chosen((0, 0, 0), jax.devices()[:1], capsys) == ((1, 1, 1), "")
    assert chosen((0, -1, 2), jax.devices(), capsys)[0][2] == 2


def test_devices_of_several_kinds_are_refused(capsys):
    @dataclasses.dataclass
    class Device:
        device_kind: str
        platform: str = "gpu"

    with pytest.raises(SettingError, match=r"several kinds \(A100, H100\)"):
        chosen((0, 0, 0), [Device("H100"), Device("A100")], capsys)
    with pytest.raises(SettingError, match="all are reserved"):
        chosen((0, 0, 0), [], capsys)
