"""Directories that load, and the one line that refuses each kind that does not."""

import hashlib
import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from gsae import artifacts
from gsae.errors import SettingError
from gsae.language_models import fingerprint, hub
from gsae.language_models.directory import identifying_files
from gsae.language_models.families import family_of
from gsae.language_models.loading import load_language_model
from gsae.language_models.saving import save_language_model
from gsae.language_models.tokenizing import SEPARATOR, joined_tokens, train_tokenizer
from gsae.language_models.transformer import Transformer

CONFIG = {
    "model_type": "gpt_neox",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 270,
    "max_position_embeddings": 12,
    "rotary_pct": 0.25,
}
SETTINGS = family_of(CONFIG).settings(CONFIG)
TEXTS = ["the cat sat on the mat, the cat\n", "naïve \U0001f600 text\n"] * 5
QKV = "gpt_neox.layers.1.attention.query_key_value.weight"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 270)


@pytest.fixture
def directory(tmp_path, tokenizer):
    model = Transformer(SETTINGS, nnx.Rngs(0))
    save_language_model(tmp_path, model, tokenizer, config=CONFIG, dtype="float32", separator=SEPARATOR)
    return tmp_path


def change_config(directory, **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "remove"}))


def change_tensors(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(directory):
    with pytest.raises(SettingError) as caught:
        load_language_model(str(directory))
    assert "\n" not in str(caught.value)
    assert caught.value.setting == "config.language_model.name"
    return str(caught.value)


def test_what_is_saved_is_loaded(directory, tokenizer):
    loaded = load_language_model(str(directory))
    assert loaded.settings == SETTINGS
    before = nnx.to_flat_state(nnx.state(Transformer(SETTINGS, nnx.Rngs(0))))
    after = dict(nnx.to_flat_state(nnx.state(loaded.model)))
    assert len(before) == len(after)
    for path, leaf in before:
        np.testing.assert_array_equal(leaf[...], after[path][...])
    assert loaded.special_ids == (0,)
    assert loaded.separator_id == 0
    for text in TEXTS[:2]:
        assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text
    assert loaded.tokenizer.encode_batch(TEXTS[:2]) == [loaded.tokenizer.encode(text) for text in TEXTS[:2]]
    joined = joined_tokens(tokenizer, TEXTS[:2])
    assert joined.tolist() == [0, *loaded.tokenizer.encode(TEXTS[0]), 0, *loaded.tokenizer.encode(TEXTS[1])]


def test_bos_and_eos_are_those_of_the_configuration_and_the_tokenizer_says_whether_bos_begins_a_text(directory):
    loaded = load_language_model(str(directory))
    assert (loaded.bos_id, loaded.eos_id, loaded.begins_with_bos, loaded.directory) == (0, 0, False, directory)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(train_tokenizer(TEXTS, 269).to_str())
    tokenizer["added_tokens"] += [{**tokenizer["added_tokens"][0], "id": 269, "content": "<s>"}]
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": template,
        "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [269], "tokens": ["<s>"]}},
    }
    path.write_text(json.dumps(tokenizer))
    change_config(directory, bos_token_id="remove", eos_token_id=[0, 3])
    loaded = load_language_model(str(directory))
    assert (loaded.bos_id, loaded.eos_id, loaded.begins_with_bos) == (269, 0, True)
    assert loaded.separator_id == 0 and loaded.special_ids == (0, 3, 269)
    change_config(directory, bos_token_id=0, eos_token_id="remove")
    loaded = load_language_model(str(directory))
    assert (loaded.bos_id, loaded.eos_id, loaded.begins_with_bos, loaded.separator_id) == (0, None, False, 0)


def test_the_dtype_asked_for_is_given_and_another_refused(directory):
    loaded = load_language_model(str(directory), dtype="bfloat16")
    assert {str(leaf.dtype) for _, leaf in nnx.to_flat_state(nnx.state(loaded.model))} == {"bfloat16"}
    with pytest.raises(SettingError, match=r"config\.language_model\.dtype = 'int8': must be one of float32"):
        load_language_model(str(directory), dtype="int8")


def test_a_sharded_directory_loads_the_same(directory):
    whole = load_language_model(str(directory))
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = load_language_model(str(directory))
    np.testing.assert_array_equal(whole.model(np.array([[1, 2, 3]])), sharded.model(np.array([[1, 2, 3]])))
    (directory / "b.safetensors").unlink()
    assert "b.safetensors': is missing" in refusal(directory)


def test_buffers_of_old_files_are_ignored_by_name(directory):
    def add(tensors):
        tensors["gpt_neox.layers.0.attention.bias"] = np.ones((1, 1, 12, 12), bool)
        tensors["gpt_neox.layers.0.attention.masked_bias"] = np.float32([-1e9])
        tensors["gpt_neox.layers.1.attention.rotary_emb.inv_freq"] = np.ones(1, np.float32)

    tokens = np.array([[1, 2, 3]])
    without = load_language_model(str(directory)).model(tokens)
    change_tensors(directory, add)
    np.testing.assert_array_equal(load_language_model(str(directory)).model(tokens), without)


def test_the_fingerprint_tells_weights_and_tokenizers_apart(directory):
    first = load_language_model(str(directory)).fingerprint
    assert load_language_model(str(directory)).fingerprint == first
    change_tensors(directory, lambda tensors: tensors[QKV].__setitem__((0, 0), 1.0))
    second = load_language_model(str(directory)).fingerprint
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    third = load_language_model(str(directory)).fingerprint
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop(QKV), f"tensor = {QKV}: is missing from"),
        (lambda tensors: tensors.update(extra=np.zeros(2, np.float32)), "tensor = extra: is in"),
        (
            lambda tensors: tensors.update({QKV: tensors[QKV][:-1].copy()}),
            f"tensor {QKV} = [47, 16]: must have the shape",
        ),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_wrong_tensors_are_refused_by_name(directory, change, words):
    change_tensors(directory, change)
    message = refusal(directory)
    assert words.replace("[47", "[47") in message.replace("'", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba"}, ["model_type = mamba", "gpt_neox"]),
        ({"model_type": "remove"}, ["model_type", "gpt_neox"]),
        ({"hidden_act": "quick_gelu"}, ["hidden_act = quick_gelu", "gelu_new"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers = 0"]),
        ({"hidden_size": "remove"}, ["hidden_size"]),
        ({"num_attention_heads": 3}, ["num_attention_heads = 3", "16"]),
        ({"rotary_pct": 0.4}, ["rotary_pct = 0.4", "even"]),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["type = dynamic", "linear"]),
        ({"rope_parameters": {"rope_type": "longrope"}}, ["rope_type = longrope", "default"]),
        ({"rope_parameters": {"rope_type": "linear"}}, ["factor"]),
        ({"use_parallel_residual": "yes"}, ["use_parallel_residual = yes"]),
        ({"sliding_window": 128}, ["sliding_window = 128"]),
        ({"eos_token_id": 300}, ["300", "270"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_are_not_implemented_are_refused_by_name(directory, changes, words):
    change_config(directory, **changes)
    message = refusal(directory)
    for word in words:
        assert word in message


def test_damaged_and_missing_files_are_named(directory, tmp_path, tokenizer):
    assert "is no directory" in refusal(tmp_path / "nowhere" / "at" / "all")
    (directory / "tokenizer.json").write_text("{")
    assert "tokenizer.json" in refusal(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "model.safetensors").write_bytes(b"\0" * 40)
    assert "is no readable safetensors file" in refusal(directory)
    (directory / "model.safetensors").unlink()
    assert "model.safetensors.index.json" in refusal(directory)
    (directory / "config.json").write_text("{")
    assert "is no JSON" in refusal(directory)
    (directory / "config.json").unlink()
    assert "without config.json" in refusal(directory)


def test_large_files_of_the_hubs_cache_are_known_by_their_names(directory, tmp_path, monkeypatch):
    plain = load_language_model(str(directory)).fingerprint
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "0", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in directory.glob("*.*"):
        data = path.read_bytes()
        large = path.suffix == ".safetensors"
        blob = blobs / (hashlib.sha256(data) if large else hashlib.sha1(data)).hexdigest()
        blob.write_bytes(data)
        (snapshot / path.name).symlink_to(blob)
    read = []
    monkeypatch.setattr(fingerprint, "digest_file", lambda path: read.append(path.name) or artifacts.digest_file(path))
    assert load_language_model(str(snapshot)).fingerprint == plain
    assert sorted(read) == ["config.json", "tokenizer.json", "tokenizer_config.json"]


def test_the_bundled_model_is_still_the_one_that_stores_were_made_with():
    files = identifying_files(hub.find("bundled").directory)
    with fingerprint.Digests(files) as digests:
        assert digests.fingerprint() == "0386bf0a53e7280ea9d754487701d43ed8564369d4d25044b62920d67206006d"
    with pytest.raises(SettingError, match=r"config\.language_model\.revision = 'step1': must be 'main'"):
        load_language_model("bundled", revision="step1")
