"""Several processes wait for each other, and agree, through jax's coordination service: no device takes part.

So it works while devices are busy or not started, and a peer that died ends the wait. With one process nothing happens.
"""

import collections
import itertools
import json
from collections.abc import Iterator
from typing import Any

from gsae.errors import RunError

LONGEST = 7 * 24 * 3600.0  # seconds that one process may work while the others wait; a dead one is noticed long before
_numbers: collections.defaultdict[str, Iterator[int]] = collections.defaultdict(itertools.count)


def client() -> Any:
    """jax's client of the coordination service; None in a process of its own."""
    from jax._src import distributed  # jax makes it public nowhere, Orbax takes it from here too

    return distributed.global_state.client


def together() -> bool:
    """Whether there are several processes."""
    return client() is not None


def wait_for_all(name: str, timeout: float = LONGEST) -> None:
    """Until every process is here; all call it in the same order.

    Args:
        name: of the place, for the error.
        timeout: seconds.

    Raises:
        RunError: when some have not come by then.
    """
    if not together():
        return
    try:
        client().wait_at_barrier(f"gsae/{name}/{next(_numbers[name])}", int(timeout * 1000))
    except Exception as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        raise RunError(f"{name}: another process did not come within {timeout:.0f} s") from error


def dissenter(name: str, text: str) -> tuple[int, str, str] | None:
    """The first process that says another text than process 0, if any: its index, its text, and that of process 0.

    All call it in the same order, and all get the same.
    """
    if not together():
        return None
    from jax._src import distributed

    state, key = distributed.global_state, f"gsae/{name}/{next(_numbers['said ' + name])}/"
    wait = int(LONGEST * 1000)
    if state.process_id != 0:
        client().key_value_set(f"{key}{state.process_id}", text)
        verdict = json.loads(client().blocking_key_value_get(f"{key}verdict", wait))
        return tuple(verdict) if verdict else None
    said = (client().blocking_key_value_get(f"{key}{index}", wait) for index in range(1, state.num_processes))
    found = next(((index, other, text) for index, other in enumerate(said, start=1) if other != text), None)
    client().key_value_set(f"{key}verdict", json.dumps(found))
    return found
