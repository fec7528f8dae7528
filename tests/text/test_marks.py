import pytest

from gsae.errors import SettingError
from gsae.text.marks import Marks, marks

LLAMA = {"bos_id": 1, "eos_id": 2, "begins_with_bos": True, "special_ids": [0, 1, 2], "vocabulary": 100}
PYTHIA = {"bos_id": 0, "eos_id": 0, "begins_with_bos": False, "special_ids": [0], "vocabulary": 100}
BARE = {"bos_id": None, "eos_id": None, "begins_with_bos": False, "special_ids": [], "vocabulary": 100}
AUTO = {
    "packing": "across_documents",
    "separator": "auto",
    "prepend_bos": "auto",
    "mask_special_tokens": True,
    "mask_tokens": (),
}


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        (LLAMA, {}, Marks(2, 1, (0, 1, 2))),
        (PYTHIA, {}, Marks(0, None, (0,))),
        (BARE, {}, Marks(None, None, ())),
        (LLAMA | {"eos_id": None}, {}, Marks(1, 1, (0, 1, 2))),
        (LLAMA, {"separator": "bos"}, Marks(1, 1, (0, 1, 2))),
        (LLAMA, {"separator": "none", "prepend_bos": "never"}, Marks(None, None, (0, 1, 2))),
        (PYTHIA, {"prepend_bos": "always"}, Marks(0, 0, (0,))),
        (PYTHIA, {"mask_special_tokens": False}, Marks(0, None, ())),
        (PYTHIA, {"mask_special_tokens": False, "mask_tokens": (7, 5, 7)}, Marks(0, None, (5, 7))),
        (LLAMA, {"mask_tokens": (99,)}, Marks(2, 1, (0, 1, 2, 99))),
        (LLAMA | {"special_ids": []}, {}, Marks(2, 1, (1, 2))),
        (LLAMA, {"packing": "one_document"}, Marks(None, 1, (0, 1, 2))),
    ],
)
def test_what_the_settings_mean_for_a_model(model, settings, expected):
    assert marks(**{**AUTO, **settings}, **model) == expected


@pytest.mark.parametrize(
    ("settings", "setting", "reason"),
    [
        ({"separator": "eos"}, "separator", "no EOS token"),
        ({"separator": "bos"}, "separator", "no BOS token"),
        ({"separator": "bos", "packing": "one_document"}, "separator", "nothing to separate"),
        ({"prepend_bos": "always"}, "prepend_bos", "no BOS token"),
        ({"mask_tokens": (100,)}, "mask_tokens", "from 0 to 99"),
        ({"mask_tokens": (3, -1)}, "mask_tokens", "from 0 to 99"),
    ],
)
def test_what_a_model_does_not_have_is_refused(settings, setting, reason):
    with pytest.raises(SettingError, match=reason) as raised:
        marks(**{**AUTO, **settings}, **BARE)
    assert raised.value.setting == f"config.text.{setting}"
