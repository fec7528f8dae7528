"""A run of normalised autoencoders: the mean norm is the rows', noise follows from the step, so resuming is exact."""

import jax
import numpy as np
import pytest
from tiny_sweep import SITE, run

from gsae.autoencoders import normalized
from gsae.autoencoders.registry import make_options
from gsae.training.groups import Point


def points(noise):
    options = make_options("normalized", {"noise": noise})
    return [Point("normalized", SITE, 32, alpha, 1e-2, 0, options) for alpha in (0.01, 0.1)]


def test_a_run_that_goes_on_has_the_noise_of_one_that_was_never_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(normalized, "CALIBRATION_ROWS", 100)

    def stop(step, states):
        if step == 12:
            raise KeyError

    how = {"points": points(0.5), "steps": 20, "resampling": None}
    whole = run(tmp_path / "whole", **how)
    with pytest.raises(KeyError):
        run(tmp_path / "stopped", on_step=stop, **how)
    assert "calibrated on 128 rows" in capsys.readouterr().out
    resumed = run(tmp_path / "stopped", **how)
    assert "resumes at step 10" in capsys.readouterr().out
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), whole, resumed)
    (state,) = whole.values()
    norms = np.asarray(state.autoencoder.mean_norm)
    assert norms[0] == norms[1] and norms[0] > 1 and not np.any(np.asarray(state.autoencoder.b_dec))
    assert np.ptp(np.linalg.norm(np.asarray(state.autoencoder.W_dec), axis=-1)) > 1e-3  # free
