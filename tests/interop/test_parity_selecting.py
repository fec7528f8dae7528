"""Autoencoders that select features, and other recipes: SAELens' and dictionary_learning's classes compute the same."""

import json

import numpy as np
import pytest
from random_autoencoders import ABOUT, RECIPES, SELECTING, D, F, K, inputs, random_of, selecting

import gsae
from gsae.autoencoders.jumprelu import JumpReLU
from gsae.errors import RunError, SettingError
from gsae.interop.formats import export

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def load_dictionary():
    pytest.importorskip("dictionary_learning")
    from dictionary_learning.utils import load_dictionary

    return lambda path: load_dictionary(str(path), device="cpu")[0]


def assert_same(ours, theirs, order=slice(None)):
    """Features, ours in the given order, and reconstructions of raw activations."""
    x = inputs()
    with torch.no_grad():
        f = theirs.encode(torch.tensor(np.asarray(x)))
        x_hat = theirs.decode(f).numpy()
    np.testing.assert_allclose(ours.encode(x)[:, order], f.numpy(), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(ours.decode(ours.encode(x)), x_hat, atol=1e-5, rtol=1e-5)
    assert 0.02 < (f.numpy() != 0).mean() < 0.98


def order_of(sae):
    return sae.prefix_order() if hasattr(sae, "prefix_order") else slice(None)


@pytest.mark.parametrize("name", [*SELECTING, *RECIPES])
def test_saelens_loads_ours(name, tmp_path, sae_lens):
    sae = selecting(name) if name in SELECTING else random_of(*RECIPES[name])
    export(sae, tmp_path / "x", "saelens")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "x")
    assert_same(sae, theirs, order_of(sae))
    back = gsae.load(tmp_path / "x")
    assert_same(back, theirs)
    assert back.metadata == ABOUT
    if name in ("topk", "abstopk"):
        assert type(back) is type(sae) and back.k == theirs.cfg.k == K


@pytest.mark.parametrize("name", ["TopK", "AbsTopK"])
@pytest.mark.parametrize("rescale", [False, True])
def test_we_load_saelens_own(name, rescale, tmp_path, sae_lens):
    from sae_lens.saes import abstopk_sae, topk_sae

    module = {"TopK": topk_sae, "AbsTopK": abstopk_sae}[name]
    config = getattr(module, f"{name}SAEConfig")(
        d_in=D, d_sae=F, k=K, rescale_acts_by_decoder_norm=rescale, apply_b_dec_to_input=rescale
    )
    theirs = getattr(module, f"{name}SAE")(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for array in theirs.parameters():
            array.copy_(0.3 * torch.randn_like(array))
    theirs.save_model(tmp_path / "x")
    assert_same(gsae.load(tmp_path / "x"), theirs)


@pytest.mark.parametrize("name", [*SELECTING, *RECIPES])
def test_dictionary_learning_loads_ours(name, tmp_path, load_dictionary):
    sae = selecting(name) if name in SELECTING else random_of(*RECIPES[name])
    if name in ("abstopk", "p_anneal ri_l1"):
        with pytest.raises(SettingError, match="both signs" if name == "abstopk" else "norm one"):
            export(sae, tmp_path / "x", "dictionary_learning")
        return
    export(sae, tmp_path / "x", "dictionary_learning")
    theirs = load_dictionary(tmp_path / "x")
    assert_same(sae, theirs, order_of(sae))
    back = gsae.load(tmp_path / "x")
    assert_same(back, theirs)
    assert back.metadata == ABOUT
    if name == "matryoshka":
        assert theirs.group_sizes.tolist() == [4, 6, 10] and back.prefixes == sae.prefixes == (4, 10, 20)
        theirs.active_groups = 1  # their own way to encode by a prefix alone: the first features of our order
        x = inputs()
        with torch.no_grad():
            f = theirs.encode(torch.tensor(np.asarray(x))).numpy()
        np.testing.assert_allclose(np.asarray(sae.encode(x))[:, sae.prefix_order()[:4]], f[:, :4], atol=1e-5)
        assert not f[:, 4:].any()


@pytest.mark.parametrize("name", ["AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_we_load_dictionary_learnings_own(name, tmp_path, load_dictionary):
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    sizes = ([4, 6, 10],) if name.startswith("Matryoshka") else ()
    module = {"A": top_k, "B": batch_top_k, "M": matryoshka_batch_top_k}[name[0]]
    theirs = getattr(module, name)(D, F, K, *sizes)
    torch.manual_seed(0)
    with torch.no_grad():
        for array in theirs.parameters():
            array.copy_(0.3 * torch.randn_like(array))
        theirs.threshold.fill_(0.4)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, "k": K}}))
    loaded = gsae.load(tmp_path)
    assert_same(loaded, load_dictionary(tmp_path))
    assert loaded.k == K
    if sizes:
        assert loaded.prefixes == (4, 10, 20)
        state = theirs.state_dict() | {"group_sizes": torch.tensor([4, 6, 9])}
        torch.save(state, tmp_path / "ae.pt")
        with pytest.raises(RunError, match="add up to 20"):
            gsae.load(tmp_path)


@pytest.mark.parametrize("name", SELECTING)
def test_as_jumprelu(name):
    from gsae.interop.conversion import as_jumprelu, with_unit_norm_decoder

    sae = selecting(name)
    with pytest.raises(SettingError, match="unit_norm_decoder"):
        with_unit_norm_decoder(sae)
    if name in ("topk", "abstopk"):
        with pytest.raises(SettingError, match="k largest"):
            as_jumprelu(sae)
        return
    made, x = as_jumprelu(sae), inputs()
    assert type(made) is JumpReLU
    np.testing.assert_allclose(made.encode(x), sae.encode(x)[:, order_of(sae)], atol=1e-4)


def test_gradients_of_a_jumprelu_loss_equal_saelens_in_float64(sae_lens):
    """The tanh recipe's estimator passes gradients to pre-activations too; both options are SAELens' own."""
    import jax
    import jax.numpy as jnp
    from sae_lens.saes.jumprelu_sae import JumpReLU as Theirs
    from sae_lens.saes.jumprelu_sae import Step

    from gsae.autoencoders.jumprelu import jump, step
    from gsae.autoencoders.jumprelu_tanh import jump_through

    random = np.random.default_rng(0)
    z, theta, g = random.normal(size=(50, F)), random.uniform(0.1, 0.5, F), random.normal(size=(50, F))
    with jax.enable_x64(True):
        for ours, theirs, to_input in ((jump, Theirs, False), (jump_through, Theirs, True), (step, Step, False)):
            _, back = jax.vjp(lambda z, t, ours=ours: ours(z, t, 0.4), jnp.asarray(z), jnp.asarray(theta))
            zt, tt = torch.tensor(z, requires_grad=True), torch.tensor(theta, requires_grad=True)
            theirs.apply(zt, tt, 0.4, to_input).backward(torch.tensor(g))
            for found, expected in zip(back(jnp.asarray(g)), (zt.grad, tt.grad), strict=True):
                expected = np.zeros_like(found) if expected is None else expected.numpy()
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
