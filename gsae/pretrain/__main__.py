"""Trains a small language model and writes it as a Hugging Face directory.

    python -m gsae.pretrain --config=experiments/pretrain_bundled.py [--config.training.steps=2000 ...] [--workdir=...]

Killed at any moment and started again, it continues with the last checkpoint and ends with the same weights.
Exit codes: 0 finished; 1 the run failed; 2 a setting is wrong; 75 a signal stopped it, the same command continues.
"""

import sys
from collections.abc import Sequence

from gsae.errors import Interrupted, RunError, SettingError
from gsae.pretrain.run import train
from gsae.pretrain.settings import configuration


def main(arguments: Sequence[str]) -> int:
    """Trains as the command line says; gives the exit code."""
    try:
        train(*configuration(arguments))
    except (SettingError, RunError, Interrupted) as error:
        print(f"gsae.pretrain: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
