"""The pass itself: what it computes, what it leaves out, its gradients, and the same on several devices."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rows_of_steps import MESHES_OF_TWO, PROVENANCE, STEPS, flattened, with_provenance
from tiny_harvest import CONTEXT, HARVEST, SITES, VOCABULARY, make_language_model

from gsae.activations.batches import Batches
from gsae.activations.capture import DTYPES, program, traced
from gsae.activations.gradients import site_gradients, summed_cross_entropy
from gsae.activations.harvest import harvest
from gsae.activations.live import Live
from gsae.activations.store import ActivationStore
from gsae.activations.superblocks import GRADIENT
from gsae.errors import SettingError
from gsae.language_models.placement import place
from gsae.language_models.sites import Site
from gsae.mesh import make_mesh
from gsae.throughput import count_flops

ALL_SITES = (Site(0, "attn_z"), Site(0, "mlp_act"), Site(1, "resid_pre"), Site(1, "attn_out"), Site(2, "resid_post"))


def tokens(sequences=3):
    return jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (sequences, CONTEXT)), jnp.int32)


def test_layers_after_the_last_site_are_not_multiplied(language_model):
    def flops(*sites):
        return count_flops(traced(language_model, sites, (2, CONTEXT), "float32").jaxpr)

    settings = language_model.model.settings
    one = flops(Site(1, "resid_post")) - flops(Site(0, "resid_post"))
    assert flops(Site(2, "resid_post")) == 3 * flops(Site(0, "resid_post")) == 3 * one
    # Nor what the last layer computes after the site: its MLP, and what attention adds.
    rest = 2 * 2 * CONTEXT * (settings.width**2 + 2 * settings.width * settings.mlp.width)
    assert flops(Site(1, "attn_z")) == 2 * one - rest
    assert flops(Site(2, "mlp_act"), Site(0, "attn_z")) == flops(Site(2, "mlp_act"))


def float64(model):
    graph, parameters = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), parameters))


def loss(model, tokens_BT, scored_BT, **spliced):
    """The sum over the scored targets, written down plainly."""
    stream, _ = model.blocks(model.embed(tokens_BT), 0, model.settings.num_layers, **spliced)
    log_p = jax.nn.log_softmax(model.unembed(stream)[:, :-1])
    return -jnp.where(scored_BT, jnp.take_along_axis(log_p, tokens_BT[:, 1:, None], -1)[..., 0], 0).sum()


def test_gradients_are_the_differences_of_the_loss(language_model):
    with jax.enable_x64(True):
        model, ids = float64(language_model.model), tokens()
        scored = jnp.asarray(np.random.default_rng(1).random(ids.shape) < 0.7)
        captured, gradients = jax.jit(lambda: site_gradients(model, ids, scored, ALL_SITES))()
        along = {site: np.random.default_rng(2).standard_normal(captured[site].shape) for site in ALL_SITES}

        @jax.jit
        def losses(step):
            spliced = ({site: captured[site] + step * along[site]} for site in ALL_SITES)
            return jnp.stack([loss(model, ids, scored[:, 1:], replace=replace) for replace in spliced])

        found = [(np.asarray(gradients[site]) * along[site]).sum() for site in ALL_SITES]
        np.testing.assert_allclose(found, (losses(1e-4) - losses(-1e-4)) / 2e-4, rtol=1e-6)
        stream, _ = model.blocks(model.embed(ids), 0, 3)
        np.testing.assert_allclose(summed_cross_entropy(model, stream, ids, scored), losses(0.0)[0], rtol=1e-12)


def test_gradients_are_stored_beside_the_rows_and_reach_the_batches(tmp_path, finished, language_model, token_store):
    path, settings = tmp_path / "store", {**HARVEST, "dtype": "float32"}
    harvest(language_model, token_store, SITES, path, **settings, gradients=True)
    store, without = ActivationStore.open(path), ActivationStore.open(finished)
    assert store.sites == without.sites and store.gradients and not without.gradients
    model, ids = language_model.model, jnp.asarray(token_store.tokens[:].astype(np.int32))
    _, expected = jax.jit(lambda: site_gradients(model, ids, jnp.ones(ids.shape, bool), SITES))()
    for k in (0, store.num_superblocks - 1):
        found = store.provenance(k)
        for site in SITES:
            of_rows = np.asarray(expected[site])[found["sequence_id"], found["position"]]
            bound = 1e-4 * np.abs(of_rows).max()
            np.testing.assert_allclose(store.read(str(site) + GRADIENT, k), of_rows, rtol=0, atol=bound)
    sites = [str(site) for site in SITES[:2]]
    batch = Batches(store, sites, 64, seed=0, gradients=True).at(5)
    plain = Batches(store, sites, 64, seed=0).at(5)
    assert list(batch[sites[0]]) == ["x", "gradient"] and list(plain[sites[0]]) == ["x"]
    np.testing.assert_array_equal(batch[sites[1]]["x"], plain[sites[1]]["x"])
    x, gradient = (np.concatenate([store.read(name, k) for k in range(9)]) for name in (sites[1], sites[1] + GRADIENT))
    row = np.flatnonzero((x == np.asarray(batch[sites[1]]["x"])[7]).all(1))
    np.testing.assert_array_equal(gradient[row[0]], np.asarray(batch[sites[1]]["gradient"])[7])
    live = Live.of(language_model, token_store, SITES, tmp_path / "s", **settings, gradients=True)
    try:
        assert live.sites == store.sites
        np.testing.assert_array_equal(live.read(sites[0] + GRADIENT, 1), store.read(sites[0] + GRADIENT, 1))
    finally:
        live.close()
    with pytest.raises(SettingError, match=r"config\.activations\.gradients = False: .*made without"):
        Batches(without, sites, 64, seed=0, gradients=True)
    with pytest.raises(SettingError, match=r"config\.activations\.gradients"):
        harvest(language_model, token_store, SITES, path, **settings)


def split_over_features(language_model, mesh):
    """The same model with its heads and neurons split over `feature`, as a loader of large models places them."""
    graph, parameters = nnx.split(language_model.model)

    def put(path, leaf):
        name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        outputs = any(f"{part}/kernel" in name for part in ("q", "k", "v", "up", "gate"))
        inputs = any(f"{part}/kernel" in name for part in ("out", "down"))
        spec = PartitionSpec(None, "feature") if outputs else PartitionSpec("feature") if inputs else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(put, parameters))


@pytest.mark.parametrize("gradients", [False, True])
def test_split_over_data_and_features_it_computes_the_same(language_model, gradients):
    graph, parameters = nnx.split(language_model.model)
    capture = program(graph, SITES, DTYPES["float32"], gradients)
    ids, scored = tokens(8), np.ones((8, CONTEXT), bool)
    expected = capture(parameters, ids, scored)
    mesh = jax.make_mesh((1, 4, 2), ("sweep", "data", "feature"), axis_types=(AxisType.Explicit,) * 3)
    for model, devices, parts in (
        (language_model.model, jax.devices(), 8),
        (split_over_features(language_model, mesh), None, 4),
    ):
        placement = place(model, devices)
        assert placement.parts == parts
        inputs = jax.device_put((ids, scored), placement.batch)
        compiled = capture.lower(placement.parameters, *inputs).compile()
        split = parts == 4
        assert ("all-reduce" in compiled.as_text()) == split  # copies of the parameters need no word to each other
        for found, wanted in zip(compiled(placement.parameters, *inputs), expected, strict=True):
            assert {len(shard.data) for shard in found.addressable_shards} == {8 // parts}
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def assert_same_rows(expected, found):
    """The same rows in the same order, up to bfloat16's rounding."""
    one, other = ActivationStore.open(expected), ActivationStore.open(found)
    assert one.identity == other.identity
    for k in range(one.num_superblocks):
        np.testing.assert_equal(one.provenance(k), other.provenance(k))
        for site in one.sites:
            rows, wanted = (store.read(site, k).astype(np.float32) for store in (other, one))
            np.testing.assert_allclose(rows, wanted, rtol=0, atol=2**-7 * np.abs(wanted).max())


def test_devices_and_processes_change_neither_rows_nor_order(tmp_path, finished, token_store):
    language_model = make_language_model()
    mesh = jax.make_mesh((4, 2), ("data", "feature"), axis_types=(AxisType.Explicit,) * 2)
    language_model.model = split_over_features(language_model, mesh)
    for index in (1, 0):
        harvest(language_model, token_store, SITES, tmp_path / "store", **HARVEST, process_index=index, process_count=2)
    assert_same_rows(finished, tmp_path / "store")


@pytest.mark.slow
def test_two_processes_write_one_store(tmp_path, finished, token_store):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": ":".join([str(here), *sys.path])}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    command = [sys.executable, str(here / "two_harvests.py"), str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(index), str(token_store.path), str(tmp_path / "store")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=900)[0] for process in processes]
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text
    assert_same_rows(finished, tmp_path / "store")
    # A stop before step 15 and a resume on other meshes and processes: the same rows in the same order.
    store = ActivationStore.open(finished)
    expected = flattened(with_provenance(store, make_mesh(2, 2, 2)).stream(*STEPS))
    seen = [expected[f"{t} {PROVENANCE}"].view(np.int32) for t in range(*STEPS)]
    assert STEPS[1] > store.rows // 128 > STEPS[0] and all(len(np.unique(rows, axis=0)) > 100 for rows in seen)
    for sizes in MESHES_OF_TWO:
        with np.load(tmp_path / f"rows{sizes}.npz") as found:
            assert set(found) == set(expected)
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, err_msg=f"{sizes} {name}")
    assert "missed" in said[0].splitlines()[-1], said[0]  # the other one, while rows were exchanged
