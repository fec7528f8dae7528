"""On the bundled model with random autoencoders, against plain passes with arrays put in place."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gsae
from gsae.autoencoders.gated import Gated
from gsae.autoencoders.standard import Standard
from gsae.interventions.edits import ablate, clamp, combined, steer
from gsae.interventions.programs import write
from gsae.language_models.sites import Site

F = 64
TEXT = "def mean(values):\n    return sum(values) / len(values)\n"


@pytest.fixture(scope="module")
def lm():
    return gsae.load_language_model()


def random_sae(lm, site, kind=Standard, seed=0):
    """An autoencoder that reconstructs badly, of activations at their own scale."""
    name, layer = site.split(".")
    x = lm.activations(lm.encode(TEXT), [site])[site]
    sae = kind.initialise(jax.random.key(seed), lm.model.site_width(name), F, kind.Options())
    scale = float(1 / jnp.sqrt((x**2).sum(-1).mean()))
    return sae.rescaled(scale).with_metadata({"site": name, "layer": int(layer)})


@pytest.fixture(scope="module", params=["mlp_out.1", "attn_z.2"])
def sae(request, lm):
    return random_sae(lm, request.param)


def site_of(sae):
    return Site(sae.metadata["layer"], sae.metadata["site"])


def by_hand(lm, tokens, site, value_of, where):
    """Logits with `value_of(x)` in place of a site's activation x, where `where`."""
    h = lm.model.embed(tokens)
    _, captured = lm.model.blocks(h, 0, lm.settings.num_layers, capture=[site])
    value = jnp.where(where[..., None], value_of(captured[site]), captured[site])
    h, _ = lm.model.blocks(h, 0, lm.settings.num_layers, replace={site: value})
    return lm.model.unembed(h)


def test_with_the_error_kept_nothing_changes_at_all(lm, sae):
    run = lm.run_with(sae, lm.encode(TEXT))
    np.testing.assert_array_equal(run.loss_BP, run.clean_loss_BP)
    assert run.loss == run.clean_loss and float(jnp.abs(run.kl_BP).max()) == 0
    np.testing.assert_allclose(run.logits_BTV, lm.model(lm.encode(TEXT)), atol=2e-5)
    assert float(jnp.abs(run.x_BTW - run.x_hat_BTW).max()) > 0.01  # though the reconstruction is bad


def test_without_it_the_model_sees_the_reconstruction(lm, sae):
    tokens = lm.encode(TEXT)
    run = lm.run_with(sae, tokens, keep_error=False)
    expected = by_hand(lm, tokens, site_of(sae), lambda x: sae.decode(sae.encode(x)), run.replaced_BT)
    np.testing.assert_allclose(run.logits_BTV, expected, atol=1e-4)
    log_p = jax.nn.log_softmax(expected[0, :-1])
    np.testing.assert_allclose(run.loss_BP[0], -log_p[jnp.arange(len(log_p)), tokens[0, 1:]], atol=1e-4)
    np.testing.assert_allclose(run.x_hat_BTW, sae.decode(sae.encode(run.x_BTW)), atol=1e-5)
    np.testing.assert_array_equal(run.x_BTW, lm.activations(tokens, [run.site])[run.site])
    assert run.loss != run.clean_loss


def test_edits_move_the_activation_along_decoder_vectors(lm, sae):
    tokens = lm.encode(TEXT)
    f = sae.encode(lm.activations(tokens, [str(site_of(sae))])[str(site_of(sae))])
    fires = int(jnp.argmax(f[0, 1:].max(0)))
    edits = [ablate(fires), clamp((fires + 1) % F, 3.0), steer((fires + 2) % F, 2.0)]
    moved = -f[..., fires, None] * sae.W_dec[fires]
    moved += (3.0 - f[..., (fires + 1) % F, None]) * sae.W_dec[(fires + 1) % F] + 2.0 * sae.W_dec[(fires + 2) % F]
    run = lm.run_with(sae, tokens, edits=edits)
    expected = by_hand(lm, tokens, site_of(sae), lambda x: x + moved, run.replaced_BT)
    np.testing.assert_allclose(run.logits_BTV, expected, atol=1e-4)
    alone = lm.run_with(sae, tokens, edits=edits, keep_error=False)
    np.testing.assert_allclose(alone.x_hat_BTW, sae.decode(f) + moved, atol=1e-4)
    np.testing.assert_array_equal(alone.f_BTF, run.f_BTF)  # what it was before the edits
    assert run.kl_BP.mean() > 0


def test_later_edits_see_what_earlier_ones_made():
    times, plus = combined([steer(1, 2.0), steer(1, 3.0), clamp(2, 5.0), steer(2, 1.0), steer(3, 9.0), ablate(3)], 5)
    np.testing.assert_array_equal(times, [1, 1, 0, 0, 1])
    np.testing.assert_array_equal(plus, [0, 5, 6, 0, 0])


def test_the_first_position_and_special_tokens_stay(lm, sae):
    tokens = np.concatenate([lm.encode("x = 1"), lm.encode("y = 2")], axis=1)
    run = lm.run_with(sae, tokens, keep_error=False)
    expected = ~np.isin(tokens, lm.special_ids)
    expected[:, 0] = False
    np.testing.assert_array_equal(run.replaced_BT, expected)
    assert not expected[0, tokens[0] == lm.separator_id].any() and (tokens[0] == lm.separator_id).sum() == 2
    nowhere = lm.run_with(sae, tokens, keep_error=False, where_BT=np.zeros_like(tokens, bool))
    np.testing.assert_array_equal(nowhere.loss_BP, nowhere.clean_loss_BP)


@pytest.mark.slow
def test_greedy_text_is_the_argmax_of_the_whole_pass(lm):
    """What was written token by token, seen at once: each is the likeliest after those before it."""
    sae = random_sae(lm, "attn_z.2", Gated)
    prompt = lm.encode("def mean(values):\n    ")
    start = prompt.shape[1] - 1
    plain = lm.generate(prompt, 8)
    np.testing.assert_array_equal(plain[0, : start + 1], prompt[0])
    np.testing.assert_array_equal(plain[0, start + 1 :], np.argmax(lm.model(plain)[0, start:-1], -1))
    kinds = [[ablate(feature) for feature in range(F // 2)], [clamp(3, 9.0)], [steer(3, 8.0)], []]
    texts = []
    for how in ({"edits": edits, "keep_error": keep} for edits in kinds for keep in (True, False)):
        texts.append(lm.generate(prompt, 8, sae=sae, **how))
        logits = lm.run_with(sae, texts[-1], **how).logits_BTV
        np.testing.assert_array_equal(texts[-1][0, start + 1 :], np.argmax(logits[0, start:-1], -1), err_msg=str(how))
    assert len({tuple(text[0]) for text in texts}) > 3 and not np.any(plain[:, 1:] == lm.eos_id)
    np.testing.assert_array_equal(texts[-2], plain)  # nothing edited, the error kept


@pytest.mark.slow
def test_draws_are_those_of_the_whole_pass_and_lengths_share_a_program(lm):
    sae = random_sae(lm, "mlp_out.1")
    prompt = lm.encode("import ")
    start, how = prompt.shape[1], {"edits": [steer(3, 4.0)], "keep_error": False}
    drawn = lm.generate(prompt, 6, sae=sae, **how, temperature=0.9, samples=3, seed=5)
    logits = lm.run_with(sae, drawn, **how).logits_BTV
    for at in range(start, start + 6):
        noise = jax.random.gumbel(jax.random.fold_in(jax.random.key(5), at), logits[:, at].shape)
        np.testing.assert_array_equal(drawn[:, at], np.argmax(logits[:, at - 1] + 0.9 * noise, -1))
    assert len(np.unique(drawn[:, start:], axis=0)) == 3
    programs_before = write._cache_size()
    longer = lm.generate(prompt, 50, sae=sae, **how, temperature=0.9, samples=3, seed=5)
    assert write._cache_size() == programs_before
    np.testing.assert_array_equal(longer[:, : start + 6], drawn)
    np.testing.assert_array_equal(lm.generate(prompt, 0), prompt)


@pytest.mark.slow
def test_draws_follow_the_temperature(lm):
    prompt = lm.encode("import ")
    p = np.asarray(jax.nn.softmax(lm.model(prompt)[0, -1] / 0.7))
    drawn = lm.generate(prompt, 1, temperature=0.7, samples=4000)[:, -1]
    likely = np.argsort(-p)[:5]
    share = np.asarray([(drawn == token).mean() for token in likely])
    np.testing.assert_allclose(share, p[likely], atol=4 * np.sqrt(0.25 / 4000))
    same = [lm.generate("import ", 3, temperature=1.0, samples=4, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(same[0], same[1])
    assert np.any(same[0] != same[2]) and len(np.unique(same[0][:, -1])) > 1


def test_nothing_comes_after_the_end(lm):
    prompt = "def mean(values):\n    "
    written = lm.generate(prompt, 8)[0]
    third = written[-6]
    ending = dataclasses.replace(lm, eos_id=int(third)).generate(prompt, 8)[0]
    first = len(written) - 8 + list(written[-8:]).index(third)
    np.testing.assert_array_equal(ending[: first + 1], written[: first + 1])
    assert np.all(ending[first:] == third) and np.any(written[first:] != third)


def test_mistakes_say_what_is_allowed(lm, sae):
    unknown = sae.replace(b_dec=sae.b_dec)  # a copy has no metadata
    for call, message in (
        (lambda: lm.run_with(unknown, [[1, 2]]), "do not say where"),
        (lambda: lm.run_with(unknown, [[1, 2]], site="mlp_out.9"), "in layers 0 to 3"),
        (lambda: lm.run_with(unknown, [[1, 2]], site="mlp_act.1"), "has width 512"),
        (lambda: lm.run_with(sae, [[1, 2]], edits=[ablate(F)]), f"features 0 to {F - 1}"),
        (lambda: lm.run_with(sae, [[1, 10**6]]), "token ids must be"),
        (lambda: lm.run_with(sae, np.ones((1, 300))), "256 positions"),
        (lambda: lm.generate("x", 300), "256 positions"),
        (lambda: lm.generate("x", edits=[ablate(0)]), "need an autoencoder"),
        (lambda: lm.generate("x", temperature=-1), "at least 0"),
        (lambda: lm.generate([]), "at least one token"),
        (lambda: lm.generate("x", -1), "new_tokens = -1"),
        (lambda: lm.generate("x", samples=0), "samples = 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
