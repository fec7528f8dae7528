"""The pass over held-out text against the plainest computation in numpy, whatever the batches."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gsae.autoencoders.registry import ARCHITECTURES
from gsae.collectives import compiled
from gsae.evaluation import feature_programs as programs
from gsae.evaluation.feature_programs import BINS
from gsae.evaluation.features import observe
from gsae.evaluation.members import Member
from gsae.evaluation.observed import NONE, Shape
from gsae.evaluation.places import Places
from gsae.language_models.families import family_of
from gsae.language_models.sites import Site
from gsae.language_models.transformer import Transformer
from gsae.mesh import make_mesh

VOCABULARY, POSITIONS, WIDTH, SEQUENCES = 31, 9, 8, 11
SHAPE = Shape(strongest=3, drawn=4, before=3, after=2)


class Held:
    """Eleven rows of tokens; special tokens, position 0 and all of one row do not count."""

    num_sequences, context_length, num_documents = SEQUENCES, POSITIONS, 5
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (SEQUENCES, POSITIONS)).astype(np.uint16)

    def documents_of(self, ids):
        return np.zeros((len(ids), POSITIONS), np.int32)

    def mask(self, ids):
        mask = self.tokens[ids] > 3
        mask[:, 0] = False
        mask[np.asarray(ids) == 5] = False
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


def autoencoder(seed, features=20):
    """Of one of three architectures, with feature 0 dead and the others' biases below zero so that most are sparse."""
    kind = ARCHITECTURES[("gated", "standard", "abstopk")[seed]]
    made = kind.initialise(jax.random.key(seed), WIDTH, features, kind.Options())
    bias = next(name for name in ("b_gate", "b_enc") if name in made.feature_axes)
    return made.replace(**{bias: jnp.linspace(0.3, -0.6, features).at[0].set(-1e6)})


ORDER = np.random.default_rng(1).permutation(SEQUENCES)


def activations(language_model, site, member):
    """f [sequences of the store, T, A], zero where a position does not count, and what counts."""
    model, held = language_model.model, Held()
    place = Site.parse(site)
    _, captured = model.blocks(model.embed(jnp.asarray(held.tokens, jnp.int32)), 0, 2, capture=[place])
    keep = held.mask(np.arange(SEQUENCES))
    return np.where(keep[..., None], np.asarray(member.autoencoder.encode(captured[place])), 0), keep


def look(language_model, members, features, **changes):
    settings = {"batch_size": 4, "shape": SHAPE, "progress": False} | changes
    return observe(language_model, Held(), members, ORDER, features=features, **settings)


MEMBERS = [
    Member(name, site, autoencoder(i))
    for i, (name, site) in enumerate({"a": "mlp_out.1", "b": "resid_pre.1", "c": "resid_pre.1"}.items())
]
FEATURES = {"a": np.arange(20), "b": np.array([3, 0, 17, 8]), "c": np.arange(1, 9)}


def windows_of(f_NT, sequence, position):
    padded = np.pad(f_NT[sequence], (SHAPE.before, SHAPE.after))
    return padded[position : position + SHAPE.window]


def test_everything_is_what_a_literal_computation_gives(language_model):
    for member, seen in zip(MEMBERS, look(language_model, MEMBERS, FEATURES), strict=True):
        f_NTA, keep_NT = activations(language_model, member.site, member)
        l0_NT = (f_NTA != 0).sum(-1)
        assert seen.tokens == keep_NT.sum() and seen.l0 == pytest.approx(l0_NT.sum() / keep_NT.sum())
        assert (seen.name, seen.site) == (member.name, member.site)
        dense = signed = 0
        for row, feature in enumerate(FEATURES[member.name]):
            f_NT = f_NTA[..., feature]
            fires_NT, values = f_NT != 0, np.abs(f_NT[f_NT != 0])
            signed += f_NT.min() < 0
            dense += len(values) > 20
            assert seen.fired_F[row] == fires_NT.sum()
            assert seen.total_F[row] == pytest.approx(values.sum(), rel=1e-5)
            best = sorted((n for n in ORDER if fires_NT[n].any()), key=lambda n: -np.abs(f_NT[n]).max())[
                : SHAPE.strongest
            ]
            check_examples(seen.strongest, row, f_NT, best, [np.abs(f_NT[n]).argmax() for n in best])
            check_drawn(seen.drawn, row, f_NT)
            if not len(values):
                assert np.isnan(seen.l0_with_F[row]) and seen.max_F[row] == 0 and not seen.histogram_FH[row].any()
                continue
            assert seen.l0_with_F[row] == pytest.approx(l0_NT[fires_NT].mean())
            assert seen.max_F[row] == pytest.approx(values.max())
            reach = seen.bin_width_F[row] * BINS
            assert reach / 2 <= values.max() < reach and np.log2(reach) % 1 == 0
            edges = np.arange(BINS + 1) * seen.bin_width_F[row]
            np.testing.assert_array_equal(seen.histogram_FH[row], np.histogram(values, edges)[0])
        assert dense, "no feature fires often enough to test its histogram"
        assert (signed > 0) == (member.name == "c")
        density = dict(zip(FEATURES[member.name], seen.density_F, strict=True))
        assert density.pop(0, 0) == 0 and sum(value > 0 for value in density.values()) >= 2


def check_examples(examples, row, f_NT, sequences, positions):
    count = len(sequences)
    np.testing.assert_array_equal(examples.sequence_FK[row, :count], sequences)
    np.testing.assert_array_equal(examples.position_FK[row, :count], positions)
    assert (examples.sequence_FK[row, count:] == NONE).all() and not examples.window_FKW[row, count:].any()
    for k, (sequence, position) in enumerate(zip(sequences, positions, strict=True)):
        assert examples.value_FK[row, k] == pytest.approx(f_NT[sequence, position], rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(
            examples.window_FKW[row, k], windows_of(f_NT, sequence, position), rtol=1e-5, atol=1e-5
        )


def check_drawn(drawn, row, f_NT):
    """Firings, one a sequence at most, as many as there can be, strongest first: by size and the tokens' numbers."""
    luck = {n: jax.random.uniform(jax.random.fold_in(jax.random.key(0), n), (POSITIONS,)) for n in range(SEQUENCES)}
    rank_NT = {n: np.abs(f_NT[n]) / -np.log(np.asarray(luck[n])) for n in ORDER}
    places = [(n, max(np.flatnonzero(f_NT[n]), key=lambda t: rank_NT[n][t])) for n in ORDER if f_NT[n].any()]
    chosen = sorted(places, key=lambda place: -rank_NT[place[0]][place[1]])[: SHAPE.drawn]
    chosen = sorted(chosen, key=lambda place: -abs(f_NT[place]))
    check_examples(drawn, row, f_NT, [n for n, _ in chosen], [t for _, t in chosen])


@pytest.mark.parametrize("batch_size", [3, 16])
def test_batch_size_and_companions_change_nothing(language_model, batch_size):
    expected = look(language_model, MEMBERS, FEATURES)[0]
    found = look(language_model, MEMBERS[:1], FEATURES, batch_size=batch_size)[0]
    assert found.tokens == expected.tokens and found.l0 == expected.l0
    for name in ("fired_F", "histogram_FH", "bin_width_F", "l0_with_F"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for kind in ("strongest", "drawn"):
        for name, array in vars(getattr(expected, kind)).items():
            np.testing.assert_allclose(vars(getattr(found, kind))[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_another_seed_draws_others(language_model):
    first, second = (look(language_model, MEMBERS[:1], FEATURES, seed=seed)[0] for seed in (0, 1))
    assert (first.drawn.position_FK != second.drawn.position_FK).any()
    np.testing.assert_array_equal(first.strongest.sequence_FK, second.strongest.sequence_FK)


def test_what_is_not_finite_fires_nowhere(language_model):
    broken = autoencoder(1)
    broken = broken.replace(W_enc=broken.W_enc.at[:, 2].set(jnp.nan))
    [seen] = look(language_model, [Member("a", "mlp_out.1", broken)], FEATURES)
    assert seen.fired_F[2] == 0 and seen.fired_F[1] > 0 and np.isfinite(seen.total_F).all()


def test_drawing_is_uniform_over_the_firings_of_a_feature_that_fires_once_a_sequence():
    """Of a feature with one firing a sequence, every firing is as likely as any other."""
    times = np.zeros(40)
    for seed in range(60):
        kept = programs.nothing_kept(1, 8, 1)
        key = jax.random.key(seed)
        ranks = jnp.stack([jax.random.uniform(jax.random.fold_in(key, n), ()) for n in range(40)])[:, None]
        new = programs.Kept(
            ranks,
            programs.Examples(
                jnp.ones((40, 1)), jnp.arange(40, dtype=jnp.int32)[:, None], jnp.zeros((40, 1), jnp.int32),
                jnp.ones((40, 1, 1)),
            ),
        )  # fmt: skip
        for part in (slice(0, 15), slice(15, 40)):
            kept = programs.merged(kept, jax.tree.map(lambda array, part=part: array[part], new))
        times[np.asarray(kept.examples.sequence_FK[0])] += 1
    assert times.sum() == 60 * 8
    expected = 60 * 8 / 40
    assert ((times - expected) ** 2 / expected).sum() < 39 + 4 * (2 * 39) ** 0.5


def spread(member):
    """The member as NumPy arrays, which come to the devices in parts."""
    return Member(member.name, member.site, lambda: jax.device_get(member.autoencoder))


@pytest.mark.parametrize(
    "shape", [(2, 2, 2), *(pytest.param(s, marks=pytest.mark.slow) for s in [(1, 1, 4), (1, 8, 1)])]
)
def test_on_a_mesh_everything_is_as_on_one_device(language_model, shape):
    members = MEMBERS if shape != (1, 1, 4) else [selecting("topk"), selecting("batchtopk")]
    features = dict(zip([member.name for member in members], FEATURES.values(), strict=False))
    expected = look(language_model, members, features)
    for one, other in zip(
        look(language_model, list(map(spread, members)), features, mesh=make_mesh(*shape)), expected, strict=True
    ):
        assert one.tokens == other.tokens and one.l0 == other.l0
        for name in ("features_F", "fired_F", "histogram_FH", "bin_width_F", "l0_with_F"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        np.testing.assert_allclose(one.total_F, other.total_F, rtol=1e-5)
        for kind in ("strongest", "drawn"):
            for name, array in vars(getattr(other, kind)).items():
                np.testing.assert_allclose(vars(getattr(one, kind))[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def selecting(name):
    kind = ARCHITECTURES[name]
    return Member(name, "mlp_out.1", kind.initialise(jax.random.key(0), WIDTH, 20, kind.Options()))


def test_no_dictionary_and_no_features_of_a_token_are_gathered():
    mesh, chosen_F = make_mesh(1, 2, 4), FEATURES["b"]
    places, (own_F, _) = Places.of(mesh), programs.shares(chosen_F, 20, 4)
    running = jax.tree.map(lambda array: places.put(array, programs.KEPT), programs.nothing_seen(len(own_F), SHAPE))
    x_BTD, keep_BT, ids_B = (
        jax.device_put(array, places.activations)
        for array in (jnp.ones((8, 9, WIDTH)), jnp.ones((8, 9), bool), jnp.arange(8))
    )
    placed = places.autoencoder(autoencoder(0))
    assert placed.W_dec.sharding.shard_shape(placed.W_dec.shape) == (5, WIDTH)
    with jax.set_mesh(places.mesh):
        key = np.zeros(2, np.uint32)
        program = programs.look.lower(running, placed, places.put(own_F, programs.KEPT), x_BTD, keep_BT, ids_B, key,
                                      shape=SHAPE)  # fmt: skip
    found = compiled(program.compile().as_text(), mesh.shape)
    assert {one.kind for one in found} == {"all-gather", "all-reduce"}
    assert not [one for one in found for dims in one.shapes if 20 in dims or dims.count(5)], found
