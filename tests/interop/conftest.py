import pytest


@pytest.fixture(scope="session")
def sae_lens():
    return pytest.importorskip("sae_lens")
