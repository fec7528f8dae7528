"""Written in a format and read again, without the tools; what is refused. (With them: test_parity_formats.py.)"""

import json

import numpy as np
import pytest
import safetensors.numpy
from random_autoencoders import (
    ABOUT,
    CASES,
    RESCALED,
    SELECTING,
    UNTIED,
    D,
    F,
    inputs,
    random_autoencoder,
    selecting,
)

import gsae
from gsae.autoencoders.gated import Gated
from gsae.errors import RunError, SettingError
from gsae.interop.conversion import with_unit_norm_decoder
from gsae.interop.formats import FORMATS, export

WITHOUT_TORCH = ["saelens", "gemma_scope"]


def same(loaded, sae):
    x = inputs()
    np.testing.assert_allclose(loaded.encode(x), sae.encode(x), atol=1e-5)
    np.testing.assert_allclose(loaded.decode(loaded.encode(x)), sae.decode(sae.encode(x)), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("format", [*WITHOUT_TORCH, "gsae"])
def test_round_trip(format, case, tmp_path):
    sae = random_autoencoder(*CASES[case])
    how = {"convert_to": "jumprelu", "unit_norm_decoder": True} if format == "gemma_scope" else {}
    export(sae, tmp_path / "x", format, **how)
    loaded = gsae.load(tmp_path / "x")
    if format == "gemma_scope":
        assert {file.name for file in (tmp_path / "x").iterdir()} == {"params.npz"}
        same(loaded, with_unit_norm_decoder(sae))
        same(gsae.load(tmp_path / "x" / "params.npz"), loaded)
        return
    same(loaded, sae)
    assert type(loaded) is type(sae) and loaded.metadata == ABOUT
    if not case.startswith("jumprelu"):
        assert loaded.options.ri_l1 == sae.options.ri_l1


def test_an_architecture_that_no_format_knows_is_refused(tmp_path):
    class Other(Gated):
        """Not in any table."""

    gated = random_autoencoder(*CASES["gated"])
    other = Other(**{name: getattr(gated, name) for name in gated.feature_axes}, options=gated.options)
    for format in WITHOUT_TORCH:
        with pytest.raises(SettingError, match=r"(a|not a) Other"):
            export(other, tmp_path / "x", format)


@pytest.mark.parametrize("format", WITHOUT_TORCH)
def test_magnitudes_learnt_anew_in_a_file(format, tmp_path):
    """A rescaled standard autoencoder is no standard one in any format; it is written as what it equals."""
    sae = random_autoencoder(*RESCALED)
    with pytest.raises(SettingError, match=r"RescaledStandard.* convert it with as = '(gated|jumprelu)'"):
        export(sae, tmp_path / "x", format)
    export(sae, tmp_path / "x", format, convert_to="jumprelu" if format == "gemma_scope" else "gated")
    same(gsae.load(tmp_path / "x"), sae)


def gemma_scope_2(sae, folder, config=None, **arrays):
    """As the second Gemma Scope's files are."""
    found = {name.lower(): np.asarray(getattr(sae, name)) for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
    folder.mkdir(parents=True)
    safetensors.numpy.save_file(found | arrays, folder / "params.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))


def test_the_second_gemma_scope_is_read_and_its_transcoders_are_refused(tmp_path):
    sae = random_autoencoder(*CASES["jumprelu plain"])
    gemma_scope_2(sae, tmp_path / "bare")
    same(gsae.load(tmp_path / "bare"), sae)
    same(gsae.load(tmp_path / "bare" / "params.safetensors"), sae)
    about = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.7.output",
    }
    gemma_scope_2(sae, tmp_path / "told", about)
    assert gsae.load(tmp_path / "told").metadata == {
        "imported_from": "gemma_scope", "language_model": "google/gemma-3-1b-pt", "hook": "model.layers.7.output"
    }  # fmt: skip
    skip, layers = np.ones((D, D), np.float32), np.ones((F, 3, D), np.float32)
    for name, config, arrays, message in (
        ("affine", about, {"affine_skip_connection": skip}, "transcoder with an affine connection"),
        ("layers", about, {"w_dec": layers}, "of several layers"),
        (
            "plain",
            about | {"hf_hook_point_out": "model.layers.7.mlp.output"},
            {},
            "is of a transcoder, from model.layers",
        ),
        ("other", about | {"architecture": "topk"}, {}, "architecture = 'topk'"),
        ("more", about, {"scale": np.ones(F, np.float32)}, "scale, threshold; Gemma Scope's have"),
    ):
        gemma_scope_2(sae, tmp_path / name, config, **arrays)
        with pytest.raises(RunError, match=message):
            gsae.load(tmp_path / name)
    (tmp_path / "bare" / "params.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="cannot be read"):
        gsae.load(tmp_path / "bare")


@pytest.mark.parametrize("format", WITHOUT_TORCH)
def test_gated_as_jumprelu_in_a_file(format, tmp_path):
    sae = random_autoencoder(*CASES["gated"])
    export(sae, tmp_path / "x", format, convert_to="jumprelu")
    same(gsae.load(tmp_path / "x"), sae)


def test_what_saelens_finds(tmp_path):
    sae = random_autoencoder(*CASES["gated"])
    export(sae.with_metadata(ABOUT | {"site": "attn_z", "layer": 2}), tmp_path / "x", "saelens")
    config = json.loads((tmp_path / "x" / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.2.attn.hook_z" and config["reshape_activations"] == "hook_z"
    assert (config["d_in"], config["d_sae"], config["architecture"]) == (D, F, "gated")
    arrays = safetensors.numpy.load_file(tmp_path / "x" / "sae_weights.safetensors")
    assert arrays.keys() == {"W_enc", "W_dec", "b_gate", "b_mag", "r_mag", "b_dec"}


def test_refused_to_write(tmp_path):
    untied, gated = random_autoencoder(*UNTIED), random_autoencoder(*CASES["gated"])
    free = random_autoencoder(*CASES["gated ri_l1"])
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for sae, path, format, how, message in (
        (untied, "x", "saelens", {}, "W_mag"),
        (untied, "x", "saelens", {"convert_to": "jumprelu"}, "untied"),
        (gated, "x", "gemma_scope", {}, "jumprelu autoencoders only, not a Gated"),
        (free, "x", "gemma_scope", {"convert_to": "jumprelu"}, "norm one"),
        (gated, "x", "goodfire", {}, "must be one of saelens, dictionary_learning, gemma_scope, gsae"),
        (gated, "x", "saelens", {"convert_to": "topk"}, "must be one of gated, jumprelu"),
        (gated, "used", "saelens", {}, "is there already"),
    ):
        with pytest.raises(SettingError, match=message) as refused:
            export(sae, tmp_path / path, format, **how)
        assert "\n" not in str(refused.value) and not (tmp_path / "x").exists()
    assert (tmp_path / "used" / "file").exists()


def test_torch_is_needed_for_dictionary_learning_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("gsae.interop.dictionary_learning.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"needs torch.*gsae\[interop\]"):
        export(random_autoencoder(*CASES["gated"]), tmp_path / "x", "dictionary_learning")
    (tmp_path / "y").mkdir()
    for file in FORMATS["dictionary_learning"].files:
        (tmp_path / "y" / file).write_text("{}")
    with pytest.raises(SettingError, match="needs torch"):
        gsae.load(tmp_path / "y")


def changed(path, to, **config):
    """A copy of a SAELens directory with another configuration."""
    to.mkdir()
    (to / "sae_weights.safetensors").write_bytes((path / "sae_weights.safetensors").read_bytes())
    (to / "cfg.json").write_text(json.dumps(json.loads((path / "cfg.json").read_text()) | config))
    return to


def test_refused_to_read(tmp_path):
    export(random_autoencoder(*CASES["gated"]), tmp_path / "x", "saelens")
    for number, (config, message) in enumerate(
        [
            ({"architecture": "temporal"}, "'temporal'; what can be read is gated, standard, jumprelu"),
            ({"architecture": "standard"}, "holds W_dec, W_enc, b_dec, b_gate.*standard has W_enc"),
            ({"normalize_activations": "layer_norm"}, "layer_norm.*cannot be folded.*depends on each"),
            ({"normalize_activations": "whatever"}, "whatever.*unknown"),
            ({"normalize_activations": "expected_average_only_in"}, "activation_scaler.json"),
            ({"activation_fn_str": "topk"}, "activation_fn_str = 'topk'"),
            ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ]
    ):
        with pytest.raises(RunError, match=message) as refused:
            gsae.load(changed(tmp_path / "x", tmp_path / str(number), **config))
        assert "\n" not in str(refused.value)


def test_other_files_are_refused(tmp_path):
    for name, files, message in (
        ("empty", [], "no autoencoder in a known format"),
        ("sparsify", ["sae.safetensors", "cfg.json"], "sparsify"),
        ("npz", ["params.npz"], "is no npz file"),
        ("broken", ["cfg.json", "sae_weights.safetensors"], "cannot be read"),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"nonsense")
        with pytest.raises(RunError, match=message):
            gsae.load(tmp_path / name)
    np.savez(tmp_path / "odd.npz", W_enc=np.ones((3, 4)), w_skip=np.ones(3))
    with pytest.raises(RunError, match="holds W_enc, w_skip"):
        gsae.load(tmp_path / "odd.npz")
    with pytest.raises(RunError, match="nowhere: does not exist"):
        gsae.load(tmp_path / "nowhere")


def test_saelens_scale_and_centring_are_folded(tmp_path):
    """Its scaling factor, and b_dec not subtracted where ours subtracts it, and the reverse."""
    for case in ("gated", "standard", "jumprelu plain"):
        sae = random_autoencoder(*CASES[case])
        path = tmp_path / case
        export(sae, path, "saelens")
        centred = case != "jumprelu plain"
        scaled = changed(path, tmp_path / f"{case} scaled", normalize_activations="expected_average_only_in")
        (scaled / "activation_scaler.json").write_text('{"scaling_factor": 2.5}')
        x = inputs()
        np.testing.assert_allclose(gsae.load(scaled).encode(x), sae.encode(x * 2.5), atol=5e-5)
        np.testing.assert_allclose(
            gsae.load(scaled).decode(sae.encode(x * 2.5)), sae.decode(sae.encode(x * 2.5)) / 2.5, atol=2e-5
        )
        other = gsae.load(changed(path, tmp_path / f"{case} other", apply_b_dec_to_input=not centred))
        shift = sae.b_dec if centred else -sae.b_dec
        np.testing.assert_allclose(other.encode(x), sae.encode(x + shift), atol=5e-5)


def test_sites_of_saelens(tmp_path):
    export(random_autoencoder(*CASES["standard"]), tmp_path / "x", "saelens")
    theirs = {"sae_lens_version": "6.0.0", "hook_name": "blocks.7.hook_resid_pre", "model_name": "gpt2"}
    found = gsae.load(changed(tmp_path / "x", tmp_path / "y", metadata=theirs)).metadata
    assert (found["site"], found["layer"], found["language_model"]) == ("resid_pre", 7, "gpt2")


@pytest.mark.parametrize("name", SELECTING)
def test_selecting_ones_in_saelens_files(name, tmp_path):
    """Without torch; what SAELens itself makes of them is looked at in test_parity_selecting.py."""
    sae, x = selecting(name), inputs()
    export(sae, tmp_path / "x", "saelens")
    back = gsae.load(tmp_path / "x")
    order = sae.prefix_order() if name == "matryoshka" else slice(None)
    np.testing.assert_allclose(back.encode(x), sae.encode(x)[:, order], atol=1e-5)
    np.testing.assert_allclose(back.decode(back.encode(x)), sae.decode(sae.encode(x)), atol=1e-5)
    if name == "topk":
        file = tmp_path / "x" / "cfg.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"k": 0}))
        with pytest.raises(RunError, match="k = 0 must be a whole number from 1"):
            gsae.load(tmp_path / "x")
