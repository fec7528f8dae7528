"""The schema and the config file agree; every mistake is one line that names the setting."""

import dataclasses
import typing
from pathlib import Path

import pytest

from experiments import pareto_sweep
from gsae import config, recipe, schema
from gsae.errors import SettingError


def change(path: str, value):
    values = pareto_sweep.get_config()
    with values.unlocked():
        *groups, last = path.split(".")
        group = values
        for name in groups:
            group = group[name]
        with group.ignore_type():
            group[last] = value
    return values


def test_the_front_door_is_valid_and_survives_json():
    parsed = config.parse(pareto_sweep.get_config())
    assert config.parse(schema.plain(parsed)) == parsed


def test_every_setting_of_the_config_file_has_a_comment():
    """The entries of the sweep share their settings: one comment serves them all."""
    lines = [line for line in Path(pareto_sweep.__file__).read_text().splitlines() if line.startswith("    config.")]
    settings = {line: line.split("=")[0].strip().split(".")[-1] for line in lines if "ConfigDict()" not in line}
    described = {name for line, name in settings.items() if "#" in line}
    assert set(settings.values()) <= described


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("sae.width", 0, "must be a positive number"),
        ("sae.width", -4, "must be a positive number"),
        ("sae.width", 2.5, "must be of type int, is float"),
        ("sae.width", True, "must be of type int, is bool"),
        ("training.steps", "many", "must be of type int, is str"),
        ("training.warmup", "soon", "must be a duration"),
        ("training.resampling.at", ("never",), "must be a tuple of durations"),
        ("text.source", "web", "must be one of python_standard_library, files, hugging_face"),
        ("text.held_out_fraction", 1.0, "must be between 0 and 1"),
        ("sweep.gated.learning_rates", (), "must be a tuple of positive numbers"),
        ("sweep.gated.learning_rates", 1e-3, "must be a tuple of float"),
        ("sweep.gated.seeds", (0, -1), "must be a tuple of whole numbers"),
        ("mesh.data", -2, "must be a positive number of devices, 0 (chosen for you) or -1 (all that are left)"),
        ("activations.superblock_rows", 1000, "must be a multiple of config.training.batch_size"),
        ("activations.rows", 1024, "must be 0 or at least config.activations.superblock_rows"),
        ("sweep", {}, "must hold at least one entry"),
        ("evaluation.dashboards", -1, "must be zero or a positive number"),
    ],
)
def test_a_wrong_value_is_named(path, value, allowed):
    with pytest.raises(SettingError, match=r"\A[^\n]*\Z") as caught:
        config.parse(change(path, value))
    assert f"config.{path}" in str(caught.value)
    assert allowed in str(caught.value)


def test_unknown_and_missing_settings_are_named():
    values = schema.plain(config.parse(pareto_sweep.get_config()))
    values["sae"]["widht"] = 3
    with pytest.raises(SettingError, match=r"config\.sae\.widht = 3: unknown setting; known: width"):
        config.parse(values)
    del values["sae"]["widht"], values["sae"]["width"]
    with pytest.raises(SettingError, match=r"config\.sae\.width = '\(absent\)'"):
        config.parse(values)


def test_only_operational_settings_may_change():
    old = schema.plain(config.parse(pareto_sweep.get_config()))
    schema.refuse_changes(old, config.parse(change("logging.every", 7)))
    schema.refuse_changes(old, config.parse(change("mesh.data", 2)))
    schema.refuse_changes(old, config.parse(change("evaluation.tokens", 1000)))
    with pytest.raises(SettingError, match=r"config\.sae\.width = 2048: this workdir was made with 256"):
        schema.refuse_changes(old, config.parse(change("sae.width", 2048)))
    older = schema.plain(config.parse(pareto_sweep.get_config()))
    del older["text"]["packing"]
    with pytest.raises(SettingError, match=r"config\.text\.packing = .*: this workdir was made without it;"):
        schema.refuse_changes(older, config.parse(pareto_sweep.get_config()))
    with pytest.raises(SettingError, match=r"config\.training\.resampling\.inputs"):
        schema.refuse_changes(old, config.parse(change("training.resampling.inputs", 5)))


def test_the_schema_has_no_default_values():
    """A setting that has a default in two places has two defaults sooner or later."""
    for group in vars(config).values():
        if dataclasses.is_dataclass(group):
            for field in dataclasses.fields(group):
                assert field.default is dataclasses.MISSING, field.name
    assert typing.get_type_hints(config.Config)


def test_rows_from_elsewhere_have_no_text_to_show_features_on():
    values = change("language_model.name", "")
    values.activations.update(source="rows", store="rows")
    config.parse(values)
    values.evaluation.dashboards = 5
    with pytest.raises(SettingError, match=r"config\.evaluation\.dashboards = 5: must be 0: rows from elsewhere"):
        config.parse(values)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"target_l0": (20.0,)}, r"config\.sweep\.gated\.target_l0 = \(20\.0,\): must be \(\) where .*coefficients"),
        ({"sparsity_coefficients": ()}, r"gated\.sparsity_coefficients = \(\): must be a tuple of positive numbers"),
        ({"sparsity_coefficients": (), "target_l0": (256.0,)}, r"gated\.target_l0 = 256\.0: must be below the 256"),
        (
            {"sparsity_coefficients": (), "target_l0": (8.0,), "architecture": "topk", "options": {}},
            r"gated\.target_l0 = \(8\.0,\): must be \(\) for topk: no coefficient decides its L0",
        ),
        (
            {"sparsity_coefficients": (), "target_l0": (8.0,), "architecture": "jumprelu_tanh", "options": {}},
            r"gated\.target_l0 = \(8\.0,\): must be \(\) for jumprelu_tanh: its coefficient rises until the last step",
        ),
    ],
)
def test_an_entry_gives_coefficients_or_targets_that_they_can_reach(changes, complaint):
    values = schema.plain(config.parse(pareto_sweep.get_config()))
    values["sweep"]["gated"].update(changes)
    with pytest.raises(SettingError, match=complaint):
        recipe.points(config.parse(values), lambda site: site)


def test_the_sweep_and_more_steps_may_change_between_runs_and_an_entry_need_not_name_what_it_does_not_use():
    old = schema.plain(config.parse(pareto_sweep.get_config()))
    values = schema.plain(config.parse(pareto_sweep.get_config()))
    values["sweep"]["more"] = values["sweep"].pop("gated")
    del values["sweep"]["more"]["steps"], values["sweep"]["more"]["target_l0"]
    values["training"]["steps"] = 30_000
    schema.refuse_changes(old, config.parse(values))
    assert {point.steps for point in recipe.points(config.parse(values), lambda site: site)} == {30_000}
