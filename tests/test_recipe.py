import pytest

from gsae import recipe
from gsae.language_models.families import family_of
from gsae.language_models.sites import NAMES, names_of

LENS = {"d_model": 4, "d_head": 2, "n_heads": 2, "n_ctx": 4, "d_vocab": 9, "n_layers": 2, "attn_only": True}


def test_a_site_must_be_in_a_layer_of_the_model_and_of_a_kind_that_it_has():
    names = names_of(family_of(LENS).settings(LENS))
    assert set(NAMES) - set(names) == {"mlp_act", "mlp_out"}
    assert recipe.site_of_layers(2, names, "attn_z.1") == "attn_z.1"
    with pytest.raises(ValueError, match="layers 0 to 1"):
        recipe.site_of_layers(2, names, "attn_z.2")
    with pytest.raises(ValueError, match="no such site, but resid_pre"):
        recipe.site_of_layers(2, names, "mlp_out.1")
