import json

import jax
import numpy as np
import pytest

import gsae
from gsae import artifacts
from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.autoencoders.registry import ARCHITECTURES
from gsae.autoencoders.saving import read_config, read_metadata, save
from gsae.autoencoders.standard import Standard
from gsae.errors import RunError

D, F = 6, 10
CASES = [
    Gated.initialise(jax.random.key(0), D, F, GatedOptions(reconstruction_scale="width")),
    Gated.initialise(jax.random.key(1), D, F, GatedOptions(tied=False)),
    Gated.initialise(jax.random.key(2), D, F, GatedOptions(r_mag=False, frozen_decoder=False)),
    Standard.initialise(jax.random.key(3), D, F, Standard.Options(ri_l1=True)),
    JumpReLU.initialise(jax.random.key(4), D, F, JumpReLUOptions(bandwidth=0.01)),
    JumpReLU.initialise(jax.random.key(5), D, F, JumpReLUOptions(log_threshold=False)),
]


@pytest.mark.parametrize("sae", CASES, ids=lambda sae: type(sae).__name__ + str(sae.trained_fields()[-1]))
def test_round_trip_is_bitwise(sae, tmp_path):
    save(sae, tmp_path / "sae", {"site": "mlp_out.2", "steps": 3})
    loaded = gsae.load(tmp_path / "sae")
    assert type(loaded) is type(sae) and loaded.options == sae.options
    assert loaded.trained_fields() == sae.trained_fields()
    for name in sae.feature_axes:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(sae, name))
        assert getattr(loaded, name).dtype == getattr(sae, name).dtype
    x = np.ones((2, D), np.float32)
    np.testing.assert_array_equal(loaded.decode(loaded.encode(x)), sae.decode(sae.encode(x)))
    assert read_metadata(tmp_path / "sae") == loaded.metadata == {"site": "mlp_out.2", "steps": 3}
    assert not sae.metadata and not loaded.replace(b_dec=loaded.b_dec).metadata
    assert read_config(tmp_path / "sae")["features"] == F


@pytest.fixture
def saved(tmp_path):
    save(CASES[0], tmp_path / "sae", {})
    return tmp_path / "sae"


@pytest.mark.parametrize("position", [200, -1])
def test_a_flipped_bit_is_named(saved, position):
    data = bytearray((saved / "weights.safetensors").read_bytes())
    data[position] ^= 1
    (saved / "weights.safetensors").write_bytes(data)
    with pytest.raises(RunError, match=r"weights\.safetensors.*SHA-256"):
        gsae.load(saved)


def test_missing_files_are_named(saved):
    with pytest.raises(RunError, match="nowhere"):
        gsae.load(saved.parent / "nowhere")
    (saved / "config.json").unlink()
    with pytest.raises(RunError, match=r"config\.json: is missing"):
        gsae.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "topp"}, "'topp': must be one of " + ", ".join(sorted(ARCHITECTURES))),
        ({"options": {"colour": "red"}}, "config.sae.colour"),
        ({"options": {"reconstruction_scale": "mean"}}, "reconstruction_scale"),
        ({"options": {"tied": False}}, "W_mag"),
        ({"features": F + 1}, "weights.safetensors: holds"),
        ({"format": 2}, "format 1"),
    ],
)
def test_what_is_not_understood_is_said(saved, change, message):
    """Written by another version: whole, but not for us."""
    config = json.loads((saved / "config.json").read_text()) | change
    weights = (saved / "weights.safetensors").read_bytes()
    with artifacts.publish(saved, {}) as directory:
        artifacts.write_json(directory / "config.json", config)
        (directory / "weights.safetensors").write_bytes(weights)
    with pytest.raises(RunError, match=message):
        gsae.load(saved)
