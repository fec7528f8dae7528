"""The size of a pass, chosen."""

import jax
import pytest

from gsae.activations import fitting
from gsae.activations.fitting import fit
from gsae.errors import SettingError
from gsae.language_models.placement import place
from gsae.language_models.sites import Site

SITE = [Site(1, "mlp_out")]
T = 16


def chosen(language_model, devices=1, most=10**6, **options):
    placement = place(language_model.model, jax.devices()[:devices])
    return fit(language_model.model, SITE, placement, T, most, "float32", **options).sequences


def test_on_a_cpu_the_widest_array_stays_in_the_cache(language_model, monkeypatch):
    widest = 24  # neurons
    monkeypatch.setattr(fitting, "CPU_BYTES", 100 * 4 * T * widest)
    assert chosen(language_model) == 100
    assert chosen(language_model, devices=8) == 800
    assert chosen(language_model, most=30) == 30
    assert chosen(language_model, most=30, devices=8) == 32
    monkeypatch.setattr(fitting, "CPU_BYTES", 1)
    assert chosen(language_model) == 1


def test_what_the_compiled_pass_needs_fits_into_the_memory(language_model, monkeypatch):
    monkeypatch.setattr(fitting, "CPU_BYTES", 1 << 40)
    monkeypatch.setattr(fitting, "host_memory", lambda: 4 << 20)
    plain = chosen(language_model, most=4096)
    assert 8 <= plain < 4096
    placement = place(language_model.model, jax.devices()[:1])
    capture = fitting.program(fitting.nnx.split(language_model.model)[0], tuple(SITE), fitting.DTYPES["float32"], False)
    assert fitting._bytes(capture, placement, (plain, T)) <= 0.75 * (4 << 20)
    assert fitting._bytes(capture, placement, (4 * plain, T)) > 0.75 * (4 << 20)  # not needlessly few
    assert chosen(language_model, most=4096, gradients=True) < plain
    monkeypatch.setattr(fitting, "host_memory", lambda: 10_000)
    with pytest.raises(SettingError, match=r"config\.activations\.sequences_at_once = 0: not even one sequence"):
        chosen(language_model)
