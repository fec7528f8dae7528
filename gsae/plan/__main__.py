"""What a run would need on a machine that one does not have.

    python -m gsae.plan --config=experiments/pareto_sweep.py [--config.sae.width=4096 ...] --topology=v5e:4x4
        [--mesh=sweep,data,feature] [--price=1.2] [--thorough] [--cache=DIRECTORY]

What is arithmetic is printed at once: whether it fits, on which mesh, how long it takes. What is compiled follows as it
comes. `paper/pythia_2_8b.py` on v5e:4x4, in CPU seconds of two busy cores: arithmetic after 4, the compiled steps after
10, the language model's three passes, most of what is left, after 52; from the cache all of it after 9 to 11,
and after 18 on another mesh (docs/scale.md).

Exit codes: 0; 2 when a setting is wrong; 1 when the hub cannot be reached.
"""

import contextlib
import gc
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from gsae.errors import RunError, SettingError
from gsae.run_flags import CONFIG, fail, parse_flags

_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "The machine: v5e:4x4, v5p:4x4x4 (v4, v5e, v5p, v6e, tpu7x) and cpu:8 are compiled for; h100:8, h200:8, a100:8 and "
    "tpuv3:8 are estimated.",
)
_MESH = flags.DEFINE_string(
    "mesh", None, "Sizes of sweep, data and feature such as 8,1,2; 0: chosen. Default: config.mesh."
)
_THOROUGH = flags.DEFINE_bool(
    "thorough",
    False,
    "Compile for TPUs as a run would: three to four times as long. Without, their compiler searches less for fast "
    "code; FLOPs, arguments and collectives are the same, temporaries about the same (docs/scale.md).",
)
_CACHE = flags.DEFINE_string(
    "cache",
    None,
    "Directory that keeps what programs compiled to, so that the same ones are not compiled again; empty: none. "
    "Default: gsae/plan in $XDG_CACHE_HOME or ~/.cache.",
)
_PRICE = flags.DEFINE_float("price", None, "Of one chip and hour, in any currency.")


def plan(arguments: Sequence[str]) -> None:
    """Prints the plan of the command line."""
    try:
        name = _TOPOLOGY.value
        if name is None:
            raise SettingError("--topology", name, "must name a machine, for example v5e:4x4")
        if _PRICE.value is not None and not 0 <= _PRICE.value < float("inf"):
            raise SettingError("--price", _PRICE.value, "must be a number from 0")
        gc.disable()  # tracing makes millions of objects, hardly one of which is garbage before the end
        _before_jax(name)
        from gsae import config
        from gsae.plan import topology
        from gsae.plan.compilations import Compilations, default_directory
        from gsae.plan.plan import make_plan, named_sizes
        from gsae.plan.report import lines

        logging.set_verbosity(logging.WARNING)
        settings = config.parse(CONFIG.value)
        sizes = settings.mesh
        given = named_sizes(_MESH.value) if _MESH.value else (sizes.sweep, sizes.data, sizes.feature)
        machine = topology.find(name)
        made = make_plan(settings, machine, given)
        cache = default_directory() if _CACHE.value is None else Path(_CACHE.value) if _CACHE.value else None
        with contextlib.ExitStack() as stack:
            compilations = None
            if machine.devices is not None:
                compilations = stack.enter_context(Compilations(machine, _THOROUGH.value, cache))
            for line in lines(made, _PRICE.value, compilations):
                print(line, flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left for the end to flush into it
        sys.exit(1)
    except (SettingError, RunError) as error:
        fail(str(error), error.exit_code)


def _before_jax(name: str) -> None:
    """Nothing here looks for an accelerator; `cpu:N` needs N devices, which must be asked for before jax starts."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    # jax's cache keeps programs for machines that are not here, and then warns that it cannot read them.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if asked := re.fullmatch(r"cpu:(\d+)", name):
        flags_before = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags_before} --xla_force_host_platform_device_count={asked[1]}"


if __name__ == "__main__":
    app.run(plan, flags_parser=parse_flags)
