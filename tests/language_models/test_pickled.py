"""Weights as torch saves them: told apart from safetensors by name, refused in one line where torch is missing."""

import pytest

from gsae.errors import SettingError
from gsae.language_models.directory import weight_names
from gsae.language_models.pickled import PickledFile


def test_files_of_torch_are_found_where_there_is_no_safetensors(tmp_path):
    assert weight_names(tmp_path, ["pytorch_model.bin", "model.safetensors"]) == ["model.safetensors"]
    assert weight_names(tmp_path, ["pytorch_model.bin", "checkpoints/a_final.pth"]) == ["pytorch_model.bin"]
    assert weight_names(tmp_path, ["model_final.pth", "checkpoints/a_final.pth"]) == ["model_final.pth"]
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "2.bin", "b": "1.bin"}}')
    files = ["pytorch_model.bin.index.json", "1.bin", "2.bin"]
    assert weight_names(tmp_path, files) == ["1.bin", "2.bin"]
    with pytest.raises(SettingError, match=r"2\.bin'?: is missing, but pytorch_model\.bin\.index\.json lists it"):
        weight_names(tmp_path, files[:2])
    with pytest.raises(SettingError, match="nor weights of torch"):
        weight_names(tmp_path, ["checkpoints/a_final.pth"])


def test_without_torch_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("gsae.language_models.pickled.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"model_final\.pth.*needs torch to be read.*model\.safetensors") as caught:
        PickledFile(tmp_path / "model_final.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parity
@pytest.mark.parametrize("older", [False, True], ids=["zip", "before-1.6"])
def test_any_part_of_a_tensor_is_read(tmp_path, older):
    import ml_dtypes
    import numpy as np
    import torch

    tensors = {"a": torch.arange(24.0).reshape(4, 6), "b": torch.arange(4).to(torch.bfloat16), "c": torch.ones(1) > 0}
    torch.save(tensors, tmp_path / "x.pth", _use_new_zipfile_serialization=not older)
    with PickledFile(tmp_path / "x.pth") as file:
        assert file.keys() == ["a", "b", "c"]
        a, b = file.get_slice("a"), file.get_slice("b")
        assert (a.get_shape(), a.get_dtype(), b.get_dtype(), file.get_slice("c").get_dtype()) == (
            [4, 6],
            "F32",
            "BF16",
            "bool",
        )
        np.testing.assert_array_equal(a[1:3, 2:5], tensors["a"].numpy()[1:3, 2:5])
        assert b[1:].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(b[1:].astype(np.float32), [1, 2, 3])


@pytest.mark.parity
def test_files_that_would_run_code_or_hold_no_tensors_are_refused(tmp_path):
    import torch

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    for name, content in {"evil": {"a": Evil()}, "other": [1, 2]}.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(SettingError, match=f"{name}.pth") as caught:
            PickledFile(tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)
