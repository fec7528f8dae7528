import pytest

from gsae.language_models.sites import NAMES, Site, last_layer


@pytest.mark.parametrize("name", NAMES)
def test_a_site_is_written_and_read_back(name):
    site = Site(11, name)
    assert str(site) == f"{name}.11"
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    "text", ["", "mlp_out", "mlp_out.", "mlp_out.-1", "mlp.2", "mlp_out.x", "2.mlp_out", "mlp_out.²"]
)
def test_anything_else_is_refused_with_what_is_allowed(text):
    with pytest.raises(ValueError, match=r"resid_pre.*mlp_out"):
        Site.parse(text)


def test_sites_sort_by_layer_and_the_last_layer_is_found():
    sites = [Site(2, "attn_z"), Site(0, "mlp_out"), Site(1, "resid_mid")]
    assert [site.layer for site in sorted(sites)] == [0, 1, 2]
    assert last_layer(sites) == 2
    assert last_layer([]) == -1
