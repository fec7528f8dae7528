"""The experiment with every architecture names each that trains from a fresh start, with all of its options."""

import dataclasses

from experiments import architectures, target_l0
from gsae import config, recipe
from gsae.autoencoders.registry import ARCHITECTURES


def test_every_architecture_is_there_with_all_its_options():
    values = architectures.get_config()
    parsed = config.parse(values)
    fresh = {name for name, kind in ARCHITECTURES.items() if not kind.STARTS_FROM}
    assert {entry.architecture for entry in parsed.sweep.values()} == fresh
    for entry in parsed.sweep.values():
        options = ARCHITECTURES[entry.architecture].Options
        assert set(entry.options) == {field.name for field in dataclasses.fields(options)}
    points = recipe.points(parsed, lambda site: site)
    assert len(points) == 4 * len(fresh) and len({point.name for point in points}) == len(points)


def test_every_architecture_whose_coefficient_decides_l0_has_targets():
    values = target_l0.get_config()
    points = recipe.points(config.parse(values), lambda site: site)
    defaults = {name: kind.no_target_l0(kind.Options()) for name, kind in ARCHITECTURES.items()}
    assert {point.architecture for point in points} == {name for name, reason in defaults.items() if not reason}
    assert {point.target_l0 for point in points} == set(target_l0.TARGETS)
