import shutil

import pytest
from tiny_harvest import HARVEST, SITES, make_language_model, make_token_store

from gsae.activations.harvest import harvest


@pytest.fixture(scope="session")
def token_store(tmp_path_factory):
    return make_token_store(tmp_path_factory.mktemp("text") / "tokens", 36)


@pytest.fixture(scope="session")
def language_model():
    return make_language_model()


@pytest.fixture(scope="session")
def finished(tmp_path_factory, language_model, token_store):
    """The directory of a finished store. Not to be changed: damage a `copy`."""
    path = tmp_path_factory.mktemp("activations") / "store"
    harvest(language_model, token_store, SITES, path, **HARVEST)
    return path


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "store")
