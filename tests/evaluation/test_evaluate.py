import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gsae.autoencoders.registry import architecture
from gsae.errors import SettingError
from gsae.evaluation.batches import batches, choose_sequences, counted_tokens
from gsae.evaluation.evaluate import Member, evaluate
from gsae.language_models.families import family_of
from gsae.language_models.sites import Site
from gsae.language_models.transformer import Transformer

VOCABULARY, SPECIAL, POSITIONS, WIDTH = 31, 0, 9, 8


class Held:
    """Eleven rows of tokens of five documents; special tokens, position 0 and the end of the last row do not count."""

    num_sequences, context_length, num_documents = 11, POSITIONS, 5
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (11, POSITIONS)).astype(np.uint16)

    def documents_of(self, ids):
        positions = np.asarray(ids)[:, None] * POSITIONS + np.arange(POSITIONS)
        return np.where(positions >= 95, -1, positions // 20).astype(np.int32)

    def mask(self, ids):
        mask = (self.tokens[ids] > 3) & (self.documents_of(ids) >= 0)
        mask[:, 0] = False
        return mask


@pytest.fixture(scope="module")
def language_model():
    config = {
        "model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": WIDTH, "num_attention_heads": 2,
        "intermediate_size": 12, "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "rotary_pct": 0.5,
        "use_parallel_residual": True,
    }  # fmt: skip
    graph, state = nnx.split(Transformer(family_of(config).settings(config), nnx.Rngs(0)))
    return types.SimpleNamespace(model=nnx.merge(graph, jax.tree.map(lambda leaf: leaf * 4, state)))


def signed(width=WIDTH, scale=1.0):
    made = architecture("standard")
    W_enc = jnp.concatenate([jnp.eye(width), -jnp.eye(width)], axis=1)
    autoencoder = made.initialise(jax.random.key(0), width, 2 * width, made.Options())
    return autoencoder.replace(W_enc=W_enc, W_dec=scale * W_enc.T)


def random_gated(seed=0):
    made = architecture("gated")
    return made.initialise(jax.random.key(seed), WIDTH, 20, made.Options())


def run(language_model, members, **changes):
    settings = {"tokens": 0, "batch_size": 4, "bootstrap_samples": 20, "progress": False} | changes
    return evaluate(language_model, Held(), members, **settings)


@pytest.mark.parametrize("site", ["mlp_out.1", "resid_pre.0", "mlp_act.1"])
def test_identity_gives_exactly_one_and_zero_exactly_zero(language_model, site):
    width = language_model.model.site_width(Site.parse(site).name)
    members = [
        Member(name, site, signed(width, scale)) for name, scale in (("same", 1.0), ("none", 0.0), ("half", 0.5))
    ]
    same, none, half = (evaluation.metrics for evaluation in run(language_model, members))
    assert same["loss_recovered"] == 1 and same["ce_spliced"] == same["ce_clean"] and same["loss_recovered_se"] == 0
    assert same["kl"] == pytest.approx(0, abs=1e-6)
    assert (same["l0"], same["fvu"]) == (width, 0) and same["gamma"] == pytest.approx(1)
    assert none["loss_recovered"] == 0 and none["ce_spliced"] == none["ce_zero"] and none["loss_recovered_se"] == 0
    assert half["gamma"] == pytest.approx(0.5) and half["kl"] > 0 and half["loss_recovered"] not in (0, 1)
    assert half["loss_recovered_se"] > 0


def test_losses_equal_their_definition(language_model):
    model, held, site = language_model.model, Held(), Site(1, "mlp_out")
    autoencoder, ids = random_gated(), np.arange(11)
    tokens, keep, documents = jnp.asarray(held.tokens, jnp.int32), held.mask(ids), held.documents_of(ids)[:, 1:]
    original = model.blocks(model.embed(tokens), 0, 2, capture=[site])[1][site]

    def log_probabilities(value):
        value = jnp.where(keep[..., None], value, original)
        stream, _ = model.blocks(model.embed(tokens), 0, 2, replace={site: value})
        return np.asarray(jax.nn.log_softmax(model.unembed(stream))[:, :-1], np.float64)

    arms = [log_probabilities(x) for x in (original, 0, autoencoder.decode(autoencoder.encode(original)))]
    scored, targets = documents >= 0, np.asarray(tokens)[:, 1:, None]
    clean, zero, spliced = (-np.take_along_axis(arm, targets, -1)[..., 0][scored].mean() for arm in arms)
    expected = {
        "ce_clean": clean,
        "ce_zero": zero,
        "ce_spliced": spliced,
        "ce_difference": spliced - clean,
        "ce_denominator": zero - clean,
        "loss_recovered": 1 - (spliced - clean) / (zero - clean),
        "kl": (np.exp(arms[0]) * (arms[0] - arms[2])).sum(-1)[scored].mean(),
        "targets": scored.sum(),
        "documents": 5,
        "tokens": keep.sum(),
    }
    (result,) = run(language_model, [Member("gated", str(site), autoencoder)])
    for name, value in expected.items():
        np.testing.assert_allclose(result.metrics[name], value, rtol=1e-4, err_msg=name)
    assert result.site == "mlp_out.1" and result.density.shape == (20,)


def test_batch_size_changes_nothing(language_model):
    members = [Member("gated", "mlp_out.1", random_gated()), Member("signed", "mlp_out.1", signed(scale=0.5))]
    whole, four, three = (run(language_model, members, batch_size=size) for size in (11, 4, 3))
    for some in (four, three):
        for expected, got in zip(whole, some, strict=True):
            assert expected.metrics.keys() == got.metrics.keys()
            for name, value in expected.metrics.items():
                np.testing.assert_allclose(got.metrics[name], value, rtol=1e-4, atol=1e-7, err_msg=name)
            np.testing.assert_array_equal(got.density, expected.density)
            np.testing.assert_allclose(got.strength, expected.strength, rtol=1e-5)


def test_zero_at_all_positions_is_another_convention(language_model):
    member = Member("none", "mlp_out.1", signed(scale=0.0))
    masked, everywhere = (
        run(language_model, [member], zero_convention=name)[0].metrics for name in ("masked", "all_positions")
    )
    assert masked["loss_recovered"] == 0 and everywhere["loss_recovered"] != 0
    assert masked["ce_spliced"] == everywhere["ce_spliced"] and masked["ce_zero"] != everywhere["ce_zero"]
    with pytest.raises(ValueError, match="masked, all_positions"):
        run(language_model, [member], zero_convention="none")


def test_several_sites_and_finished_members(language_model, monkeypatch):
    sites = ("mlp_out.1", "attn_out.0", "mlp_out.1", "mlp_out.1")
    members = [Member(f"m{i}", site, random_gated(i)) for i, site in enumerate(sites)]
    monkeypatch.setattr("gsae.evaluation.members.AT_ONCE", 2)
    finished = []
    everything = run(language_model, members, on_result=finished.append)
    assert [e.name for e in everything] == ["m0", "m1", "m2", "m3"]
    assert [e.name for e in finished] == ["m0", "m2", "m3", "m1"]
    rest = run(language_model, members, skip={"m0", "m2"})
    assert [e.name for e in rest] == ["m1", "m3"]
    for expected, got in zip((everything[1], everything[3]), rest, strict=True):
        np.testing.assert_allclose(list(got.metrics.values()), list(expected.metrics.values()), rtol=1e-5, atol=1e-7)
    assert run(language_model, members, skip={member.name for member in members}) == []


def test_a_small_denominator_is_said(language_model, caplog):
    graph, state = nnx.split(language_model.model)
    timid = types.SimpleNamespace(model=nnx.merge(graph, jax.tree.map(lambda leaf: leaf * 0.01, state)))
    run(timid, [Member("gated", "mlp_out.1", random_gated())])
    assert "zero ablation costs only" in caplog.text and "mlp_out.1" in caplog.text


def test_an_autoencoder_that_is_not_finite_spoils_only_itself(language_model):
    broken = random_gated().replace(b_dec=jnp.full(WIDTH, jnp.nan))
    members = [Member("broken", "mlp_out.1", broken), Member("same", "mlp_out.1", signed())]
    bad, good = run(language_model, members)
    assert np.isnan(bad.metrics["loss_recovered"]) and np.isnan(bad.metrics["fvu"])
    assert good.metrics["loss_recovered"] == 1 and good.metrics["l0"] == WIDTH


def test_mistakes_are_named(language_model):
    with pytest.raises(ValueError, match=r"layers are 0 to 1"):
        run(language_model, [Member("a", "mlp_out.3", signed())])
    with pytest.raises(ValueError, match=r"width 8; site mlp_act.1 has width 12"):
        run(language_model, [Member("a", "mlp_act.1", signed())])
    with pytest.raises(ValueError, match="different names"):
        run(language_model, [Member("a", "mlp_out.1", signed())] * 2)


def test_fewer_tokens_are_a_part_of_more():
    held, chosen = Held(), [choose_sequences(Held(), tokens, seed=3) for tokens in (1, 20, 10**9, 0)]
    assert [len(ids) for ids in chosen] == sorted(len(ids) for ids in chosen) and len(chosen[0]) < len(chosen[2]) == 11
    for few, more in itertools.pairwise(chosen):
        np.testing.assert_array_equal(few, more[: len(few)])
    assert held.mask(chosen[1]).sum() >= 20 > held.mask(chosen[1][:-1]).sum()
    assert sorted(chosen[3]) == list(range(11)) != list(chosen[3])


def test_what_is_skipped_is_what_another_run_is_judged_on():
    judged, others = choose_sequences(Held(), 20, seed=3), choose_sequences(Held(), 0, seed=3, skip_tokens=20)
    np.testing.assert_array_equal(np.concatenate([judged, others]), choose_sequences(Held(), 0, seed=3))
    total = counted_tokens(Held(), at_once=4)
    assert total == Held().mask(np.arange(11)).sum()
    last = choose_sequences(Held(), 0, seed=3, skip_tokens=total - 10)
    assert 0 < len(last) < len(others) and Held().mask(last).sum() <= 10
    with pytest.raises(SettingError, match="skip_tokens = 1000000"):
        choose_sequences(Held(), 20, seed=3, skip_tokens=10**6)


def test_the_last_batch_is_filled_with_rows_that_count_nowhere():
    made = list(batches(Held(), np.arange(11), 4))
    assert [batch.tokens_BT.shape for batch in made] == [(4, POSITIONS)] * 3
    assert not made[2].keep_BT[3].any() and (made[2].documents_BT[3] == -1).all()
    assert sum(batch.keep_BT.sum() for batch in made) == Held().mask(np.arange(11)).sum()
