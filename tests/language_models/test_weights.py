"""Weights on their way from files to devices: in whose memory, in which dtype, and how much is read."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file, save_file
from tiny_directories import make_directory

from gsae.errors import SettingError
from gsae.language_models import weights
from gsae.language_models.loading import load_language_model
from gsae.mesh import make_mesh

HERE = Path(__file__).parent
TOKENS = np.arange(24).reshape(3, 8)


@pytest.fixture
def directory(tmp_path):
    return make_directory(tmp_path, hidden_size=32, num_attention_heads=4, intermediate_size=64, vocab_size=272)


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the handles of files: (tensor, bytes) of every slice."""
    slices = []

    class Slice:
        def __init__(self, name, inner):
            self.name, self.inner = name, inner

        def __getitem__(self, index):
            array = self.inner[index]
            slices.append((self.name, array.nbytes))
            return array

        def __getattr__(self, attribute):
            return getattr(self.inner, attribute)

    class Handle:
        def __init__(self, inner):
            self.inner = inner

        def __enter__(self):
            self.inner.__enter__()
            return self

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

        def keys(self):
            return self.inner.keys()

        def get_slice(self, name):
            return Slice(name, self.inner.get_slice(name))

    opened = weights.safe_open
    monkeypatch.setattr(weights, "safe_open", lambda *args, **kwargs: Handle(opened(*args, **kwargs)))
    return slices


@nnx.jit
def forward(model, tokens):
    return model(tokens)


def parameters(loaded):
    return dict(nnx.to_flat_state(nnx.state(loaded.model)))


@pytest.mark.parametrize(("data", "feature"), [(2, 4), (8, 1)])
def test_over_a_mesh_the_model_is_the_same_and_each_byte_is_read_once(directory, asked, data, feature):
    single = load_language_model(str(directory))
    size = sum(array.nbytes for array in load_file(directory / "model.safetensors").values())
    assert sum(count for _, count in asked) == size
    asked.clear()
    mesh = make_mesh(1, data, feature)
    spread = load_language_model(str(directory), mesh=mesh)
    assert sum(count for _, count in asked) == size
    assert spread.fingerprint == single.fingerprint
    for path, parameter in parameters(spread).items():
        assert len(parameter[...].sharding.device_set) == mesh.size, path
    expected = forward(single.model, TOKENS)
    np.testing.assert_allclose(forward(spread.model, TOKENS), expected, atol=1e-5 * float(abs(expected).max()))


def test_heads_neurons_and_vocabulary_are_shared_out(directory):
    spread = parameters(load_language_model(str(directory), mesh=make_mesh(1, 1, 4)))
    specs = {path: parameter[...].sharding.spec for path, parameter in spread.items()}
    assert specs["embedding",] == PartitionSpec("feature", None)
    assert specs["layers", 0, "attention", "k", "kernel"] == PartitionSpec(None, "feature")
    assert specs["layers", 0, "attention", "out", "kernel"] == PartitionSpec("feature", None)
    assert specs["layers", 0, "mlp", "up", "bias"] == PartitionSpec("feature")
    assert specs["layers", 0, "mlp", "down", "bias"] == PartitionSpec(None)
    wider = parameters(load_language_model(str(directory), mesh=make_mesh(1, 1, 8)))
    whole = wider["layers", 0, "attention", "q", "kernel"][...].sharding  # four heads cannot be cut for eight devices
    assert whole.spec == PartitionSpec(None, None)


def test_the_files_dtype_is_kept_where_it_is_asked_for(directory):
    tensors = load_file(directory / "model.safetensors")
    for name in tensors:
        tensors[name] = tensors[name].astype(np.float16 if "norm" in name else ml_dtypes.bfloat16)
    save_file(tensors, directory / "model.safetensors")
    kept = parameters(load_language_model(str(directory), "file"))
    assert {str(kept[path].dtype) for path in kept if "norm" in str(path)} == {"float16"}
    assert {str(kept[path].dtype) for path in kept if "norm" not in str(path)} == {"bfloat16"}
    wide = parameters(load_language_model(str(directory), "float32"))
    for path, parameter in kept.items():
        assert wide[path].dtype == np.float32
        np.testing.assert_array_equal(wide[path][...], parameter[...].astype(np.float32))


def change_one(directory, change):
    tensors = load_file(directory / "model.safetensors")
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.bias"
    save_file(tensors | {name: change(tensors[name])}, directory / "model.safetensors")
    return name


def test_double_precision_needs_a_choice_and_integers_are_refused(directory):
    name = change_one(directory, lambda array: array.astype(np.float64))
    assert parameters(load_language_model(str(directory)))["embedding",].dtype == np.float32
    with pytest.raises(SettingError, match=rf"config\.language_model\.dtype = 'file': tensor {name} is stored as F64"):
        load_language_model(str(directory), "file")
    name = change_one(directory, lambda array: array.astype(np.int8))
    with pytest.raises(SettingError, match=rf"tensor {name} = I8': is a dtype that is not supported.*BF16"):
        load_language_model(str(directory))


def test_a_truncated_file_and_a_tensor_in_two_files_are_named(directory):
    path = directory / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1000])
    with pytest.raises(SettingError, match=r"model\.safetensors': is no readable safetensors file") as caught:
        load_language_model(str(directory))
    assert "\n" not in str(caught.value)
    (directory / "a.safetensors").write_bytes(data)
    (directory / "b.safetensors").write_bytes(data)
    path.unlink()
    listed = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(listed))
    with pytest.raises(SettingError, match=r"is twice in the files, the last time in .*b\.safetensors"):
        load_language_model(str(directory))


def test_bytes_rate_and_time_left_are_shown_for_large_models(directory, monkeypatch, capsys):
    load_language_model(str(directory))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(weights, "BAR_FROM", 0)
    load_language_model(str(directory))
    shown = capsys.readouterr().err
    assert "loading: 100%" in shown
    assert "B/s" in shown


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_host_holds_the_parameters_and_one_tensor_at_most(tmp_path, dtype):
    sizes = {"hidden_size": 1024, "num_hidden_layers": 5, "num_attention_heads": 16, "intermediate_size": 4096}
    make_directory(tmp_path, dtype=dtype, vocab_size=12000, **sizes)
    largest = 12000 * 1024 * np.dtype(dtype).itemsize
    program = [sys.executable, str(HERE / "measure_loading.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    measured = json.loads(subprocess.run(program, env=environment, check=True, stdout=subprocess.PIPE).stdout)
    assert measured["kept"] > 300e6
    assert measured["peak"] < measured["kept"] + largest + 20e6, measured


@pytest.mark.slow
def test_two_processes_read_what_they_hold(tmp_path):
    make_directory(tmp_path, hidden_size=32, num_attention_heads=4, intermediate_size=64, vocab_size=272)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    program = [sys.executable, str(HERE / "two_loaders.py"), port]
    environment = os.environ | {
        "PYTHONPATH": str(HERE.parents[1]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    processes = [
        subprocess.Popen([*program, str(i), str(tmp_path)], env=environment, stdout=subprocess.PIPE) for i in range(2)
    ]
    said = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    single = load_language_model(str(tmp_path))
    expected = np.asarray(forward(single.model, TOKENS))
    size = sum(array.nbytes for array in load_file(tmp_path / "model.safetensors").values())
    for i, one in enumerate(said):
        assert one["fingerprint"] == single.fingerprint
        np.testing.assert_allclose(np.load(tmp_path / f"logits{i}.npy"), expected, atol=1e-5 * abs(expected).max())
        assert one["read"] < 0.55 * size  # half, and all of what every device has: norms and some biases
    assert sum(one["read"] for one in said) >= size
    assert sorted(name for one in said for name in one["digested"]) == sorted(
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    )
