import dataclasses

import pytest

from gsae.autoencoders.registry import ARCHITECTURES
from gsae.errors import SettingError
from gsae.training.groups import Group, Point, group_points


def point(**changes):
    options = ARCHITECTURES[changes.get("architecture", "gated")].Options()
    plain = Point("gated", "mlp_out.2", 1024, 0.1, 1e-3, 0, options)
    return dataclasses.replace(plain, **changes)


def test_names_are_readable_and_unique():
    assert point().name == "gated-mlp_out.2-1024-l0.1-lr0.001-s0"
    options = point().options
    field = next(f.name for f in dataclasses.fields(options) if f.default is False)
    others = [
        point(site="resid_post.2"),
        point(width=1025),
        point(sparsity_coefficient=0.1 + 1e-12),
        point(learning_rate=3e-5),
        point(seed=1),
        point(options=dataclasses.replace(options, **{field: True})),
    ]
    names = {p.name for p in [point(), *others]}
    assert len(names) == len(others) + 1
    assert all("/" not in name and " " not in name for name in names)
    assert point(options=dataclasses.replace(options, **{field: True})).name.endswith(f"-{field}_True")


def test_groups_share_a_program_and_keep_order():
    points = [point(seed=s, architecture=a) for s in (0, 1) for a in ("standard", "gated")]
    points = [dataclasses.replace(p, options=ARCHITECTURES[p.architecture].Options()) for p in points]
    groups = group_points(points)
    assert [group.architecture for group in groups] == ["standard", "gated"]
    assert [[p.seed for p in group.points] for group in groups] == [[0, 1], [0, 1]]
    assert all(group.padding == 0 for group in groups)


def test_padding_fills_the_sweep_axis_and_is_told():
    (group,) = group_points([point(seed=s) for s in range(5)], sweep=4)
    assert (group.size, group.padding, len(group.members)) == (8, 3, 8)
    assert group.members[5] == group.points[0]
    assert list(group.values("seed", int)) == [0, 1, 2, 3, 4, 0, 0, 0]
    assert "3 inactive" in group.describe()
    assert "38%" in group.describe()
    assert "inactive" not in group_points([point()])[0].describe()


def test_wrong_points():
    with pytest.raises(SettingError, match="only once"):
        group_points([point(), point(seed=1), point()])
    with pytest.raises(SettingError, match="at least one"):
        group_points([])
    for wrong in (
        {"width": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"sparsity_coefficient": -1.0},
    ):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            point(**wrong)
    with pytest.raises(SettingError, match="seed"):
        point(seed=-1)
    with pytest.raises(ValueError, match="share"):
        Group((point(), point(width=8)))
