"""What the report says of the JumpReLU form, and that it would see a wrong one."""

import numpy as np
import pytest
from random_autoencoders import CASES, UNTIED, F, inputs, random_autoencoder

from gsae.interop import equivalence
from gsae.interop.equivalence import agreement
from gsae.reports.equivalence import equivalence_figure, sentence


@pytest.mark.parametrize("case", ["gated", "gated without r_mag", "standard"])
def test_they_agree(case):
    found = agreement(random_autoencoder(*CASES[case]), inputs(2000))
    assert (found.rows, found.latents) == (2000, 2000 * F) and found.differ <= 1
    assert found.largest < 3e-6 and found.reconstruction < 3e-6
    assert 0 <= found.above_zero <= 1 and (found.above_zero > 0) == (case != "standard")
    assert len(found.pairs[0]) == len(found.pairs[1]) > 100
    np.testing.assert_allclose(*found.pairs, rtol=1e-3)
    said = sentence({"a": found.plain()})
    assert "autoencoders, 1 of these" in said and "40,000 activations" in said
    assert equivalence_figure({"a": found.plain()}).axes[0].get_lines()


def test_a_wrong_conversion_is_seen(monkeypatch):
    right = equivalence.as_jumprelu
    monkeypatch.setattr(
        equivalence, "as_jumprelu", lambda sae: right(sae).replace(threshold=right(sae).threshold + 0.3)
    )
    found = agreement(random_autoencoder(*CASES["gated"]), inputs(2000))
    assert found.differ > 100
    assert f"{found.differ:,} are zero in one and not in the other" in sentence({"a": found.plain()})


def test_nothing_to_say():
    assert agreement(random_autoencoder(*UNTIED), inputs()) is None
    assert agreement(random_autoencoder(*CASES["jumprelu"]), inputs()) is None
    assert sentence({}) == ""
