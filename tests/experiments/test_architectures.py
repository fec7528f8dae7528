"""The experiment with every architecture names each that trains from a fresh start, with all of its options."""

import dataclasses
import importlib

import pytest

from experiments import architectures, pareto_sweep, target_l0
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


@pytest.mark.parametrize("name", sorted(set(architectures.get_config().sweep) - {"gated", "standard"}))
def test_each_is_an_experiment_of_its_own_beside_gated(name):
    together, front_door = config.parse(architectures.get_config()), config.parse(pareto_sweep.get_config())
    alone = config.parse(importlib.import_module(f"experiments.each.{name}").get_config())
    assert dict(alone.sweep) == {"gated": front_door.sweep["gated"], name: together.sweep[name]}
    assert alone.evaluation.baseline == name


def test_every_part_has_the_same_kinds_and_trials_see_no_token_of_a_result():
    parts = {part: config.parse(architectures.get_config(part)) for part in architectures.PARTS}
    assert all(list(part.sweep) == list(parts[""].sweep) for part in parts.values())
    trials = parts["tuning"]
    assert trials.evaluation.skip_tokens >= parts[""].evaluation.tokens
    assert {entry.learning_rates for entry in trials.sweep.values()} == {architectures.TRIED}
    assert trials.seed not in parts["seeds"].sweep["gated"].seeds
    with pytest.raises(ValueError, match=r"architectures\.py:all: must be one of seeds, tuning"):
        architectures.get_config("all")


def test_every_architecture_whose_coefficient_decides_l0_has_targets():
    values = target_l0.get_config()
    points = recipe.points(config.parse(values), lambda site: site)
    defaults = {name: kind.no_target_l0(kind.Options()) for name, kind in ARCHITECTURES.items()}
    assert {point.architecture for point in points} == {name for name, reason in defaults.items() if not reason}
    assert {point.target_l0 for point in points} == set(target_l0.TARGETS)
