"""The arrays of a checkpoint by name, and back from the disk onto the shardings that are wanted now, verified."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from gsae.errors import RunError
from gsae.places import Place
from gsae.training.digests import verify


def named_arrays(tree: Any) -> dict[str, Any]:
    """Leaves by their path, in the tree's order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="|"): leaf for path, leaf in leaves}


def read_arrays(path: Place, targets: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The arrays onto the targets' shardings, as they are; `verify_arrays` compares them with their digests."""
    import orbax.checkpoint as ocp

    wanted = {name: _as_saved(name, leaf, saved) for name, leaf in targets.items()}
    how = ocp.checkpoint_utils.construct_restore_args(wanted)
    # Each process for itself: Orbax would have them meet afterwards, where one that found a shard damaged never comes.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(), multiprocessing_options=alone) as reader:
        return reader.restore(str(path), args=ocp.args.PyTreeRestore(item=wanted, restore_args=how))


def verify_arrays(arrays: Mapping[str, jax.Array], saved: Mapping[str, Any]) -> None:
    """Compares every array with its digests.

    Raises:
        RunError: naming the first one that differs, after all were compared: it may take all processes to compare one.
    """
    problems = []
    for name, array in arrays.items():
        try:
            verify(name, array, saved[name])
        except RunError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def _as_saved(name: str, leaf: Any, saved: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """The target of one array, with the leading length that was saved."""
    entry = saved.get(name)
    shape, sharding = tuple(leaf.shape), leaf.sharding
    if entry is None or entry["dtype"] != str(leaf.dtype) or tuple(entry["shape"][1:]) != shape[1:]:
        raise RunError(f"it holds {entry and entry['dtype'] + str(entry['shape'])} for {name}, not {leaf.dtype}{shape}")
    if tuple(entry["shape"]) != shape:
        sharding = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec[1:]))
    return jax.ShapeDtypeStruct(tuple(entry["shape"]), leaf.dtype, sharding=sharding)
