"""Judged on rows alone: the numbers of a literal computation, whatever the superblocks, batches and companions."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gsae.autoencoders.registry import ARCHITECTURES
from gsae.errors import SettingError
from gsae.evaluation import held_out_rows
from gsae.evaluation.evaluate import Member
from gsae.evaluation.held_out_rows import NEEDS_A_LANGUAGE_MODEL, evaluate_rows

D, F, R, K = 6, 10, 40, 5
ROWS = np.random.default_rng(0).normal(size=(R * K, D)).astype(np.float32) + 0.7
SITES = {"here": ROWS, "there": 3 - 2 * ROWS}


def held_out(superblock_rows=R):
    return SimpleNamespace(
        sites=tuple(SITES),
        rows=len(ROWS),
        superblock_rows=superblock_rows,
        width=lambda site: D,
        read=lambda site, k: SITES[site][k * superblock_rows : (k + 1) * superblock_rows],
    )


def member(name, site, seed, width=D):
    kind = ARCHITECTURES["gated"]
    return Member(name, site, kind.initialise(jax.random.key(seed), width, F, kind.Options()))


MEMBERS = [member("a", "here", 0), member("b", "there", 1), member("c", "here", 2)]


def test_the_numbers_are_those_of_a_literal_computation():
    for judged, result in zip(MEMBERS, evaluate_rows(held_out(), MEMBERS, rows=0, progress=False), strict=True):
        x = SITES[judged.site].astype(np.float64)
        f = np.asarray(judged.autoencoder.encode(SITES[judged.site]))
        x_hat = np.asarray(judged.autoencoder.decode(f), np.float64)
        expected = {
            "l0": (f > 0).sum(1).mean(),
            "l1": np.abs(f).sum(1).mean(),
            "fvu": np.square(x - x_hat).sum() / np.square(x - x.mean(0)).sum(),
            "gamma": np.square(x_hat).sum() / (x * x_hat).sum(),
            "norm_ratio": np.linalg.norm(x_hat, axis=1).mean() / np.linalg.norm(x, axis=1).mean(),
            "alive": (f > 0).any(0).mean(),
            "tokens": len(x),
        }
        for name, value in expected.items():
            assert result.metrics[name] == pytest.approx(value, rel=1e-4), name
        np.testing.assert_allclose(result.density, (f > 0).mean(0))
        assert all(np.isnan(result.metrics[name]) for name in NEEDS_A_LANGUAGE_MODEL)
        assert (result.name, result.site) == (judged.name, judged.site)


@pytest.mark.parametrize("at_once", [7, 64])
@pytest.mark.parametrize(("rows", "skip"), [(90, 0), (33, 45), (0, 150)])
def test_batches_and_superblocks_change_nothing(monkeypatch, at_once, rows, skip):
    stop = skip + rows if rows else len(ROWS)
    chosen = SimpleNamespace(**{**vars(held_out(stop - skip)), "rows": stop - skip})
    chosen.read = lambda site, k: SITES[site][skip:stop]
    [expected] = evaluate_rows(chosen, MEMBERS[:1], rows=0, progress=False)
    monkeypatch.setattr(held_out_rows, "ROWS_AT_ONCE", at_once)
    found = evaluate_rows(held_out(), MEMBERS[:1], rows=rows, skip_rows=skip, progress=False)[0]
    np.testing.assert_array_equal(found.density, expected.density)
    for name, value in expected.metrics.items():
        np.testing.assert_allclose(found.metrics[name], value, rtol=1e-4, err_msg=name)


def test_what_cannot_be_judged_is_named():
    with pytest.raises(SettingError, match=r"config\.evaluation\.skip_tokens = 200: passes over all of the 200"):
        evaluate_rows(held_out(), MEMBERS, rows=0, skip_rows=200, progress=False)
    with pytest.raises(ValueError, match="the rows have the sites here, there, not nowhere"):
        evaluate_rows(held_out(), [member("a", "nowhere", 0)], rows=0, progress=False)
    with pytest.raises(ValueError, match="takes activations of width 5; site here has width 6"):
        evaluate_rows(held_out(), [member("a", "here", 0, width=5)], rows=0, progress=False)
    with pytest.raises(ValueError, match="different names"):
        evaluate_rows(held_out(), [MEMBERS[0], MEMBERS[0]], rows=0, progress=False)
