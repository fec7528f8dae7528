import jax
import pytest

from gsae import mesh
from gsae.errors import SettingError


def test_a_mesh_has_three_explicit_axes():
    made = mesh.make_mesh(2, 2, -1)
    assert dict(made.shape) == {"sweep": 2, "data": 2, "feature": 2}
    assert all(kind == jax.sharding.AxisType.Explicit for kind in made.axis_types)
    assert mesh.make_mesh().size == 1


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ((3, 3, 1), "needs 9 devices"),
        ((0, 1, 1), "config.mesh.sweep = 0"),
        ((-1, -1, 1), "at most one"),
        ((3, -1, 1), "do not divide"),
    ],
)
def test_wrong_sizes_are_named(sizes, complaint):
    with pytest.raises(SettingError, match=complaint):
        mesh.make_mesh(*sizes)
