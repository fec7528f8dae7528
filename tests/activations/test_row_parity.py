"""Rows that other libraries have made, by these libraries themselves: SAELens' cached activations, torch's tensors."""

import numpy as np
import pytest

import gsae
from gsae.activations.row_import import import_tables
from gsae.activations.rows import Rows
from gsae.activations.store import ActivationStore

pytestmark = pytest.mark.parity
HOOK, CONTEXT, SEQUENCES = "blocks.1.hook_resid_post", 12, 64


@pytest.fixture(scope="module")
def model():
    torch = pytest.importorskip("torch")
    lens = pytest.importorskip("transformer_lens")
    torch.manual_seed(0)
    return lens.HookedTransformer(
        lens.HookedTransformerConfig(
            n_layers=2, d_model=20, n_ctx=CONTEXT, d_head=5, n_heads=4, d_vocab=50, act_fn="gelu", device="cpu"
        )
    )


@pytest.fixture(scope="module")
def cached(model, tmp_path_factory):
    """What the real CacheActivationsRunner writes of a random model and random tokens."""
    datasets = pytest.importorskip("datasets")
    runner_module = pytest.importorskip("sae_lens.cache_activations_runner")
    from sae_lens.config import CacheActivationsRunnerConfig

    path = tmp_path_factory.mktemp("cached") / "activations"
    tokens = np.random.default_rng(0).integers(1, 50, (SEQUENCES, CONTEXT))
    config = CacheActivationsRunnerConfig(
        dataset_path="none",
        model_name="random",
        model_batch_size=8,
        hook_name=HOOK,
        d_in=20,
        training_tokens=SEQUENCES * CONTEXT,
        context_size=CONTEXT,
        prepend_bos=False,
        new_cached_activations_path=str(path),
        buffer_size_gb=3.2e-5,  # several shards
        shuffle=False,
        streaming=False,
        device="cpu",
        dtype="float32",
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runner_module, "load_model", lambda **_: model)
        data_set = datasets.Dataset.from_dict({"tokens": tokens.tolist()})
        runner_module.CacheActivationsRunner(config, override_dataset=data_set).run()
    return path


def test_cached_activations_of_saelens_are_read_and_imported(model, cached, tmp_path):
    torch = pytest.importorskip("torch")
    rows = Rows.open([str(cached)])
    assert rows.sites == (HOOK,) and rows.sequence_length == CONTEXT and rows.width(HOOK) == 20
    tokens = rows.token_ids(0, rows.rows).reshape(-1, CONTEXT)
    with torch.no_grad():
        _, captured = model.run_with_cache(torch.tensor(tokens), names_filter=[HOOK])
    expected = captured[HOOK].reshape(-1, 20).numpy()
    np.testing.assert_allclose(rows.read(HOOK, 0, rows.rows), expected, atol=1e-5)
    settings = {"superblock_rows": 64, "held_out_fraction": 0.2, "dtype": "float32", "progress": False}
    import_tables(rows, tmp_path / "store", **settings)
    store = ActivationStore.open(tmp_path / "store" / "train")
    for k in range(store.num_superblocks):
        found = store.provenance(k)
        number = found["sequence_id"] * CONTEXT + found["position"]
        np.testing.assert_array_equal(found["token_id"], tokens.reshape(-1)[number])
        np.testing.assert_array_equal(store.read(HOOK, k), rows.read(HOOK, 0, rows.rows)[number])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_of_torch_are_taken_with_gradients_and_strides(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    x = torch.arange(2400, dtype=torch.float32).reshape(4, 600).to(getattr(torch, dtype))
    batches = [x.T[:300].requires_grad_(), x.T[300:]]  # not contiguous
    gsae.import_rows(batches, tmp_path / "rows", superblock_rows=64, dtype="float32", progress=False)
    found = []
    for part in ("train", "held_out"):
        store = ActivationStore.open(tmp_path / "rows" / part)
        found += [store.read("rows", k) for k in range(store.num_superblocks)]
    known = {row.tobytes() for row in x.detach().float().T.contiguous().numpy()}
    rows = np.concatenate(found)
    assert {row.tobytes() for row in rows} <= known and len(rows) > 600 - 64
