"""What the report says of the JumpReLU form, and that it would see a wrong one."""

import numpy as np
import pytest
from random_autoencoders import CASES, RECIPES, RESCALED, UNTIED, D, F, inputs, random_autoencoder, random_of, selecting

from gsae.interop import equivalence
from gsae.interop.conversion import as_jumprelu
from gsae.interop.equivalence import ENCODER, agreement, encoder_of_form, has_form
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


OTHERS = {
    "rescaled": lambda: random_autoencoder(*RESCALED),
    "matryoshka": lambda: selecting("matryoshka"),  # compared as it is stored; as others know it, in another order
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_whatever_has_a_form_agrees_with_it(make):
    found = agreement(make(), inputs(200))
    assert found.differ <= 1 and found.largest < 3e-6 and found.reconstruction < 3e-6 and found.pairs[0]


def test_converted_part_by_part_it_is_what_is_exported(monkeypatch):
    sae = random_autoencoder(*CASES["gated"])
    whole = as_jumprelu(sae)
    monkeypatch.setattr(equivalence, "AT_ONCE", 3 * D)  # three features at a time
    parts = [encoder_of_form(sae, slice(*ends)) for ends in ((0, 8), (8, F))]
    for name in ENCODER:
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], -1), getattr(whole, name))


def test_a_wrong_conversion_is_seen(monkeypatch):
    right = equivalence.thresholded_encoder
    monkeypatch.setattr(
        equivalence, "thresholded_encoder", lambda sae: right(sae) | {"threshold": right(sae)["threshold"] + 0.3}
    )
    found = agreement(random_autoencoder(*CASES["gated"]), inputs(2000))
    assert found.differ > 100
    assert f"{found.differ:,} are zero in one and not in the other" in sentence({"a": found.plain()})


def test_nothing_to_say():
    assert agreement(random_autoencoder(*UNTIED), inputs()) is None
    assert agreement(random_autoencoder(*CASES["jumprelu"]), inputs()) is None
    assert not any(map(has_form, (random_of(*RECIPES["jumprelu_tanh"]), selecting("topk"), selecting("abstopk"))))
    assert sentence({}) == ""
