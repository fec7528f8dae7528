import pytest

from gsae.durations import duration_in_steps
from gsae.errors import SettingError


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("200 steps", 200),
        ("1 step", 1),
        ("0 steps", 0),
        ("1_000_000 tokens", 977),  # of 1024: rounded up
        ("1024 tokens", 1),
        ("5%", 50),
        ("12.5 %", 125),
        ("0.05%", 1),
        ("100%", 1000),
        ("7%", 70),  # 1000 * 7 / 100 is 70.00000000000001 in floats elsewhere
    ],
)
def test_durations(duration, steps):
    assert duration_in_steps(duration, total_steps=1000, batch_size=1024, setting="config.x") == steps


@pytest.mark.parametrize(
    "duration", ["200", "steps", "-3 steps", "1.5 steps", "5 percent", "101%", 200, None, "1e3 steps", ""]
)
def test_wrong_durations_name_the_setting(duration):
    with pytest.raises(SettingError) as error:
        duration_in_steps(duration, total_steps=1000, batch_size=1024, setting="config.training.warmup")
    assert error.value.setting == "config.training.warmup"
    assert repr(duration) in str(error.value)
    assert "\n" not in str(error.value)
