"""What SAELens and dictionary_learning load of ours, and we of theirs: encode and decode equal to 1e-5, D != F."""

import json

import numpy as np
import pytest
from random_autoencoders import ABOUT, CASES, D, F, inputs, random_autoencoder

import gsae
from gsae.interop.conversion import with_unit_norm_decoder
from gsae.interop.formats import export

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def dictionary_learning():
    pytest.importorskip("dictionary_learning")
    import dictionary_learning.dictionary
    import dictionary_learning.utils

    return dictionary_learning


def assert_same(ours, theirs):
    """Features and reconstructions of raw activations."""
    x = inputs()
    with torch.no_grad():
        f = theirs.encode(torch.tensor(np.asarray(x)))
        np.testing.assert_allclose(ours.encode(x), f.numpy(), atol=1e-5, rtol=1e-5)
        x_hat = theirs.decode(f).numpy()
    np.testing.assert_allclose(ours.decode(ours.encode(x)), x_hat, atol=1e-5, rtol=1e-5)
    assert 0.02 < (f.numpy() > 0).mean() < 0.98


@pytest.mark.parametrize("as_jumprelu", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_saelens_loads_ours(case, as_jumprelu, tmp_path, sae_lens):
    sae = random_autoencoder(*CASES[case])
    export(sae, tmp_path / "x", "saelens", convert_to="jumprelu" if as_jumprelu else None)
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "x")
    assert_same(sae, theirs)
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_mlp_out" and theirs.cfg.metadata.context_size == 64
    theirs.save_model(tmp_path / "again")  # and back, by way of their own saving
    assert_same(gsae.load(tmp_path / "again"), theirs)
    assert gsae.load(tmp_path / "again").metadata == ABOUT


def test_saelens_reshapes_heads_of_ours(tmp_path, sae_lens):
    sae = random_autoencoder(*CASES["gated"])
    export(sae.with_metadata(ABOUT | {"site": "attn_z"}), tmp_path / "x", "saelens")
    theirs, x = sae_lens.SAE.load_from_disk(tmp_path / "x"), inputs()
    with torch.no_grad():
        x_hat = theirs(torch.tensor(np.asarray(x)).reshape(len(x), 3, D // 3))  # [.., heads, head width]
    np.testing.assert_allclose(sae.decode(sae.encode(x)), x_hat.reshape(len(x), D), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["Gated", "Standard", "JumpReLU"])
@pytest.mark.parametrize("centred", [True, False])
def test_we_load_saelens_own(architecture, centred, tmp_path, sae_lens):
    config = getattr(sae_lens, f"{architecture}SAEConfig")(
        d_in=D, d_sae=F, apply_b_dec_to_input=centred, dtype="float32"
    )
    theirs = getattr(sae_lens, f"{architecture}SAE")(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, array in theirs.named_parameters():
            array.copy_(0.3 * torch.randn_like(array) + (0.2 if name == "threshold" else 0.0))
    theirs.save_model(tmp_path / "x")
    assert_same(gsae.load(tmp_path / "x"), theirs)


def test_what_saelens_has_and_we_have_not_is_refused(tmp_path, sae_lens):
    from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig

    MatchingPursuitSAE(MatchingPursuitSAEConfig(d_in=D, d_sae=F)).save_model(tmp_path / "x")
    with pytest.raises(gsae.errors.RunError, match="matching_pursuit"):
        gsae.load(tmp_path / "x")


@pytest.mark.parametrize("as_jumprelu", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_dictionary_learning_loads_ours(case, as_jumprelu, tmp_path, dictionary_learning):
    sae = random_autoencoder(*CASES[case])
    if case == "standard ri_l1" and not as_jumprelu:
        with pytest.raises(gsae.errors.SettingError, match="norm one"):
            export(sae, tmp_path / "x", "dictionary_learning")
        sae = with_unit_norm_decoder(sae)
    export(sae, tmp_path / "x", "dictionary_learning", convert_to="jumprelu" if as_jumprelu else None)
    theirs, config = dictionary_learning.utils.load_dictionary(str(tmp_path / "x"), device="cpu")
    assert_same(sae, theirs)
    assert config["trainer"]["activation_dim"] == D and config["trainer"]["submodule_name"] == "mlp_out_layer_1"
    loaded = gsae.load(tmp_path / "x")
    assert_same(loaded, theirs)
    assert loaded.metadata == ABOUT


@pytest.mark.parametrize("name", ["GatedAutoEncoder", "AutoEncoder", "AutoEncoderNew", "JumpReluAutoEncoder"])
def test_we_load_dictionary_learnings_own(name, tmp_path, dictionary_learning):
    theirs = getattr(dictionary_learning.dictionary, name)(D, F)
    torch.manual_seed(0)
    with torch.no_grad():
        for array in theirs.parameters():
            array.copy_(0.3 * torch.randn_like(array))
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "layer": 2, "lm_name": "gpt2", "lr": 1e-3}
    trainer |= {"submodule_name": "resid_post_layer_2"}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    loaded = gsae.load(tmp_path)
    assert_same(loaded, dictionary_learning.utils.load_dictionary(str(tmp_path), device="cpu")[0])
    about = loaded.metadata
    assert (about["site"], about["layer"], about["language_model"]) == ("resid_post", 2, "gpt2")


def test_saelens_loads_what_we_wrote_for_dictionary_learning(tmp_path, sae_lens, monkeypatch):
    """Its loader of such files asks for keys that dictionary_learning itself does not."""
    from sae_lens.loading import pretrained_sae_loaders

    sae = random_autoencoder(*CASES["gated"])
    export(sae, tmp_path / "x", "dictionary_learning")

    def on_this_machine(repo_id, filename, **_):
        return str(tmp_path / filename)

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", on_this_machine)
    config, arrays, _ = pretrained_sae_loaders.dictionary_learning_sae_huggingface_loader_1("o/n", "x")
    assert config["hook_name"] == "blocks.1.hook_resid_post" and config["context_size"] == 64
    for name in sae.feature_axes:
        np.testing.assert_allclose(arrays[name], np.asarray(getattr(sae, name)), atol=1e-6, err_msg=name)


def test_other_dictionaries_and_other_pickles_are_refused(tmp_path, dictionary_learning):
    theirs = dictionary_learning.dictionary.AutoEncoder(D, F)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    for dict_class, message in (
        ("CrossCoder", "'CrossCoder'; what can be read"),
        ("GatedAutoEncoder", "holds bias"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": dict_class}}))
        with pytest.raises(gsae.errors.RunError, match=message):
            gsae.load(tmp_path)
    (tmp_path / "ae.pt").write_bytes(b"nonsense")
    with pytest.raises(gsae.errors.RunError, match="no state dict"):
        gsae.load(tmp_path)


def test_saelens_reads_our_gemma_scope_file(tmp_path, sae_lens, monkeypatch):
    from sae_lens.loading import pretrained_sae_loaders

    sae = random_autoencoder(*CASES["gated"])
    folder = tmp_path / "layer_1" / "width_16k" / "average_l0_71"
    export(sae, folder, "gemma_scope", convert_to="jumprelu")
    monkeypatch.setattr(
        pretrained_sae_loaders,
        "hf_hub_download",
        lambda repo_id, filename, subfolder="", **_: str(tmp_path / subfolder / filename),
    )
    config, arrays, _ = pretrained_sae_loaders.gemma_2_sae_huggingface_loader(
        "google/gemma-scope-2b-pt-res", "layer_1/width_16k/average_l0_71", cfg_overrides={"d_in": D, "d_sae": F}
    )
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

    theirs = JumpReLUSAE(JumpReLUSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=config["apply_b_dec_to_input"]))
    theirs.load_state_dict(arrays)
    assert_same(sae, theirs)


def test_saelens_and_we_read_the_second_gemma_scope_alike(tmp_path, sae_lens, monkeypatch):
    from sae_lens.loading import pretrained_sae_loaders
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from test_formats import gemma_scope_2

    sae = random_autoencoder(*CASES["jumprelu plain"])
    name = "resid_post/layer_7_width_16k_l0_medium"
    about = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.7.output",
    }
    gemma_scope_2(sae, tmp_path / name, about)
    here = lambda repo_id, filename, subfolder="", **_: str(tmp_path / subfolder / filename)  # noqa: E731
    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", here)
    monkeypatch.setattr(
        pretrained_sae_loaders, "get_safetensors_tensor_shapes", lambda *_: {"w_enc": [D, F], "w_dec": [F, D]}
    )
    config, arrays, _ = pretrained_sae_loaders.gemma_3_sae_huggingface_loader("google/gemma-scope-2-1b-pt", name)
    theirs = JumpReLUSAE(JumpReLUSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=config["apply_b_dec_to_input"]))
    theirs.load_state_dict(arrays)
    assert_same(gsae.load(tmp_path / name), theirs)
