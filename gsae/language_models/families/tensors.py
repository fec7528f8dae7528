"""From the tensors of a file to the parameters of the transformer, as a table and not as code.

A family says for every parameter of the model, under its path with `*` for the layer, the `Source`: the tensor's name
in the file and the axes it has there, in the words of `parameters.py`. `table` turns that into one `Tensor` for each
parameter, with all sizes filled in, whose `Layout` reads any part of the parameter from the file.

A fused tensor (queries, keys and values in one) is the source of several parameters, each its own `part` of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gsae.language_models.layout import Layout
from gsae.language_models.parameters import SHARED, Axes, Path, parameters, sizes
from gsae.language_models.settings import Settings


@dataclass(frozen=True)
class Source:
    """Where a parameter stands in a file.

    Attributes:
        name: of the tensor, with `*` for the layer.
        axes: of the tensor, each a product of named parts, the outermost first; None: those of the parameter.
        part: which one of the axis part `part` belongs to this parameter: 0 queries, 1 keys, 2 values.
    """

    name: str
    axes: Axes | None = None
    part: int = 0


@dataclass(frozen=True)
class Tensor:
    """One parameter, and the tensor of a file that holds it.

    Attributes:
        name: of the tensor in the file. Fused tensors stand in several entries.
        path: of the parameter in the module.
        layout: how the tensor's axes become the parameter's; reads any part of it.
    """

    name: str
    path: Path
    layout: Layout

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in the file."""
        return self.layout.file_shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""
        return self.layout.parameter_shape

    @property
    def partition(self) -> tuple[str | None, ...]:
        """What devices can share of each axis of the parameter: `heads`, `mlp`, `vocabulary`, or None."""
        return tuple(SHARED.get(axis.split()[0]) for axis in self.layout.parameter)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Into how many equal parts each axis of the parameter may be cut: heads are not cut through."""
        outermost = [axis.split()[0] for axis in self.layout.parameter]
        return tuple(self.layout.sizes[part] if part in SHARED else 1 for part in outermost)


def linear(path: str, name: str, fused: str | None = None, part: int = 0) -> dict[str, Source]:
    """A `torch.nn.Linear`, whose weight is [outputs, inputs] in the file and [inputs, outputs] here.

    Args:
        path: of the module here.
        name: of the module in the file.
        fused: the outputs' axis in the file where queries, keys and values are one tensor, with `head` for the heads.
        part: which part of the fused outputs this is.
    """
    inputs, outputs = OF_LINEAR[path.rpartition(".")[2]]
    outputs = fused.replace("head", outputs.split()[0]) if fused else outputs
    return {
        f"{path}.kernel": Source(f"{name}.weight", (outputs, inputs), part),
        f"{path}.bias": Source(f"{name}.bias", (outputs,), part),
    }


def conv1d(path: str, name: str, fused: str | None = None, part: int = 0) -> dict[str, Source]:
    """A linear map of GPT-2, whose weight is [inputs, outputs] in the file; arguments as for `linear`."""
    found = linear(path, name, fused, part)
    kernel = found[f"{path}.kernel"]
    return found | {f"{path}.kernel": Source(kernel.name, (kernel.axes or ())[::-1], part)}


# The axes of each linear map of the transformer.
OF_LINEAR = {
    "q": ("width", "head number"),
    "k": ("width", "key_head number"),
    "v": ("width", "key_head number"),
    "out": ("head number", "width"),
    "gate": ("width", "neuron"),
    "up": ("width", "neuron"),
    "down": ("neuron", "width"),
    "unembedding": ("width", "token"),
}


def norm(path: str, name: str) -> dict[str, Source]:
    """A LayerNorm or RMSNorm of torch."""
    return {f"{path}.scale": Source(f"{name}.weight"), f"{path}.bias": Source(f"{name}.bias")}


def table(settings: Settings, sources: Mapping[str, Source]) -> list[Tensor]:
    """One entry for each parameter of a model with these settings."""
    found, size = [], sizes(settings)
    for path, axes in parameters(settings).items():
        source = sources[".".join("*" if isinstance(key, int) else key for key in path)]
        layer = next((str(key) for key in path if isinstance(key, int)), "*")
        file = source.axes or axes
        found.append(
            Tensor(
                name=source.name.replace("*", layer),
                path=path,
                layout=Layout(file, axes, size, {"part": source.part} if "part" in " ".join(file).split() else {}),
            )
        )
    return found
