r"""Sparsity coefficients of one library's loss in those of another's. `docs/lambdas.md` is the table made from here.

Every loss here is e ||s x - x_hat||^2 + lambda ||f|| for some e and s: the error is summed over the n numbers of an
activation or divided by something, and the inputs are scaled by s before they are trained on. An autoencoder of scaled
inputs with the same directions and biases times s has features and reconstructions times s, so its loss is
e s^2 (||x - x_hat||^2 + lambda / (e s) ||f||_1): lambda / (e s) must be the same for the same optimum. Under an L0
penalty, which does not scale, it is lambda / (e s^2).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from gsae.errors import SettingError


class Activations(NamedTuple):
    """What of the activations the scalings depend on."""

    width: int  # n, numbers in an activation
    mean_norm: float  # E ||x||
    mean_squared_norm: float  # E ||x||^2

    @classmethod
    def of(cls, x_BD: np.ndarray) -> "Activations":
        """Measured on rows."""
        norms_B = np.linalg.norm(np.asarray(x_BD, np.float64), axis=-1)
        return cls(x_BD.shape[-1], float(norms_B.mean()), float((norms_B**2).mean()))


class Scaling(NamedTuple):
    """One convention: e and s of the module's formula, and both in words."""

    error_factor: Callable[[Activations], float]
    input_scale: Callable[[Activations], float]
    error: str
    inputs: str
    factor: str  # lambda = factor * (lambda of raw inputs and sums), L1


def _one(_: Activations) -> float:
    return 1.0


def _unit_mean_square(about: Activations) -> float:
    return about.mean_squared_norm**-0.5


def _mean_norm_root_width(about: Activations) -> float:
    return about.width**0.5 / about.mean_norm


def _over_width(about: Activations) -> float:
    return 1 / about.width


SUM, WIDTH = "summed over n", "divided by n"
SCALINGS: Mapping[str, Scaling] = {
    "gsae": Scaling(_one, _unit_mean_square, SUM, "E‖x‖² = 1 (`mean_squared_norm`)", "1/√E‖x‖²"),
    "gsae width": Scaling(_over_width, _unit_mean_square, WIDTH, "E‖x‖² = 1 (`mean_squared_norm`)", "1/(n √E‖x‖²)"),
    "gsae raw": Scaling(_one, _one, SUM, "as they are (`normalisation = none`)", "1"),
    "gsae raw width": Scaling(_over_width, _one, WIDTH, "as they are (`normalisation = none`)", "1/n"),
    "paper": Scaling(_over_width, _one, WIDTH, "as they are", "1/n"),
    "paper baseline": Scaling(
        lambda about: 1 / (about.width * about.mean_norm), _one, "divided by n E‖x‖", "as they are", "1/(n E‖x‖)"
    ),
    "saelens": Scaling(_one, _one, SUM, "as they are (`none`)", "1"),
    "saelens scaled": Scaling(
        _one, _mean_norm_root_width, SUM, "E‖x‖ = √n, about (`expected_average_only_in`)", "√n/E‖x‖"
    ),
    "dictionary_learning": Scaling(_one, _one, SUM, "as they are", "1"),
    "dictionary_learning scaled": Scaling(
        _one, _unit_mean_square, SUM, "E‖x‖² = 1 (`normalize_activations`)", "1/√E‖x‖²"
    ),
}


def convert(coefficient: float, source: str, target: str, about: Activations, *, penalty: str = "l1") -> float:
    """The sparsity coefficient of `target` that means what `coefficient` means in `source`.

    Args:
        coefficient: lambda.
        source, target: two of `SCALINGS`.
        about: the activations, as they are.
        penalty: "l1", or "l0" for JumpReLU's.

    Raises:
        SettingError: for a name that is not known.
    """
    for setting, name in (("source", source), ("target", target)):
        if name not in SCALINGS:
            raise SettingError(setting, name, f"must be one of {', '.join(SCALINGS)}")
    if penalty not in ("l1", "l0"):
        raise SettingError("penalty", penalty, "must be l1 or l0")
    power = 1 if penalty == "l1" else 2

    def factor(name: str) -> float:
        return SCALINGS[name].error_factor(about) * SCALINGS[name].input_scale(about) ** power

    return coefficient * factor(target) / factor(source)


def table() -> str:
    """The table of docs/lambdas.md."""
    rows = [f"| {name} | {s.error} | {s.inputs} | {s.factor} |" for name, s in SCALINGS.items()]
    head = [
        "| scaling | squared error | inputs | λ, as a multiple of λ for sums and raw inputs |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows])
