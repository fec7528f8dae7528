"""The Gated SAE paper's study (Rajamanoharan et al. 2024, 2404.16014) on the language model that ships with gsae.

    python -m experiments.paper.on_bundled_model --workdir=runs/paper              # five seeds, two hours on 2 cores
    python -m experiments.paper.on_bundled_model --workdir=runs/paper --seeds=0    # one seed
    python -m experiments.paper.on_bundled_model --workdir=runs/paper --seeds=0 --parts=ablations    # one figure

The same command goes on where it was stopped; finished parts cost seconds. After every part the report of all that is
there is written again: `<workdir>/report.html`, results.csv, pursuit.csv. A part is a run of its own, also by

    python -m gsae.main --config=experiments/paper/on_bundled_model.py:ablations --workdir=...

The parts, each with what the report shows of it:

    sites           gated and standard at resid_post and mlp_out of layers 1 and 2, attn_z of 2, neurons (mlp_act) of 1:
                    the ratio of L0 and the nats saved at every site, shrinkage
    ablations       gated, standard, and gated unfrozen, without r_mag, untied, at attn_z.1; pursuit on the plain ones:
                    the same, variants, inference-time optimisation
    no_resampling   gated, standard, gated with RI-L1 at attn_z.1, dead features left alone: dead features, RI-L1
                    beside unit norm
    equal_width     standard as wide as gated at attn_z.1: equal width instead of equal compute
    rescaled        those, frozen, magnitudes learnt anew: rescale & shift

The seed is that of the initialisation and of the order of the data. Learning rates were tuned for each kind and site,
at attn_z.1 as experiments/pareto_sweep.py says, at the others by the two further parts `tuning` and `tuning_neurons`
(8 and 5 CPU minutes), whose results are in docs/paper_on_bundled_model.md: gated takes 4e-3 everywhere, standard 8e-3
but at mlp_out.1 and the neurons, where it comes apart at 8e-3 and takes 4e-3.
Standard is 1.5 times as wide (the paper's compute matching) but in `equal_width`. 10,240 steps of 256 rows are half
of the front door's. Seed 0 took 19 min 38 s in one piece on 2 cores: `sites` 698 s, `ablations` 251, `no_resampling`
135, `equal_width` 49, `rescaled` 24, so each part alone takes minutes. The sparsity coefficients
of attn_z.1 serve the other sites too: in the trials their ends gave losses recovered of .58 (mlp_out.1) to .93
(resid_post.2) and of .96 to .9999. The neurons have their own.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments import pareto_sweep

NEURONS = "mlp_act.1"
GATED, STANDARD = (0.04, 0.3, 0.55, 1.05), (0.035, 0.14, 0.3, 0.6)  # sparsity coefficients, the front door's
HIGH, LOW = {"gated": 4e-3, "standard": 8e-3}, {"gated": 4e-3, "standard": 4e-3}  # learning rates


class Trained(NamedTuple):
    """How both kinds are trained at a site: sparsity coefficients, features of the gated ones, learning rates."""

    gated: tuple[float, ...] = GATED
    standard: tuple[float, ...] = STANDARD
    width: int = 256
    rates: dict[str, float] = HIGH


SITES = {
    "resid_post.1": Trained(),
    "resid_post.2": Trained(),
    "mlp_out.1": Trained(rates=LOW),
    "mlp_out.2": Trained(),
    "attn_z.2": Trained(),
    NEURONS: Trained((0.05, 0.2, 0.8), (0.035, 0.13, 0.5), 512, LOW),
}
ABLATIONS = {"unfrozen": {"frozen_decoder": False}, "no_r_mag": {"r_mag": False}, "untied": {"tied": False}}
PARTS = ("sites", "ablations", "no_resampling", "equal_width", "rescaled")
CALLED = {"no_resampling": "no resampling", "equal_width": "equal width"}  # a variant, by the part
TARGETS = (1, 2, 4, 8, 16, 32)  # L0 of pursuit
TRIALS = {"tuning": 5120, "tuning_neurons": 2560}  # what the learning rates of `sites` were chosen by: steps
TRIED = (2e-3, 4e-3, 8e-3)  # learning rates
TRIAL_SEED = 100


def get_config(part: str = "ablations") -> ConfigDict:
    """One part of the study."""
    if part not in (*PARTS, *TRIALS):
        raise ValueError(f"on_bundled_model.py:{part}: must be one of {', '.join((*PARTS, *TRIALS))}")
    config = pareto_sweep.get_config()
    config.training.steps = 10_240
    config.training.sparsity_warmup = "1000 steps"
    config.evaluation.tokens = 51_200
    config.evaluation.every = 0
    config.training.checkpoint_every = 2000
    gated, standard = config.sweep.gated, config.sweep.standard
    {
        "sites": _sites,
        "ablations": _ablations,
        "no_resampling": _no_resampling,
        "equal_width": _equal_width,
        "rescaled": _rescaled,
        "tuning": _tuning,
        "tuning_neurons": _tuning_neurons,
    }[part](config, gated, standard)
    return config


def _sites(config: ConfigDict, gated: ConfigDict, standard: ConfigDict) -> None:
    del config.sweep.gated, config.sweep.standard
    for site, how in SITES.items():
        for name, entry, coefficients in (("gated", gated, how.gated), ("standard", standard, how.standard)):
            own = entry.copy_and_resolve_references()
            own.sites, own.sparsity_coefficients, own.learning_rates = (site,), coefficients, (how.rates[name],)
            own.width_factor = entry.width_factor * how.width / config.sae.width
            config.sweep[f"{name}_{site.replace('.', '_')}"] = own


def _tuning(config: ConfigDict, gated: ConfigDict, standard: ConfigDict) -> None:
    """Three learning rates at the ends of each site's coefficients, judged on tokens that no result is measured on."""
    _trials(config, gated, standard, [site for site in SITES if site != NEURONS], TRIALS["tuning"])


def _tuning_neurons(config: ConfigDict, gated: ConfigDict, standard: ConfigDict) -> None:
    """The same for the neurons, with fewer steps: each costs eight times as much."""
    _trials(config, gated, standard, [NEURONS], TRIALS["tuning_neurons"])


def _trials(config: ConfigDict, gated: ConfigDict, standard: ConfigDict, sites: Sequence[str], steps: int) -> None:
    _sites(config, gated, standard)
    for name, entry in list(config.sweep.items()):
        entry.sparsity_coefficients = (entry.sparsity_coefficients[0], entry.sparsity_coefficients[-1])
        entry.learning_rates, entry.seeds = TRIED, (TRIAL_SEED,)
        if entry.sites[0] not in sites:
            del config.sweep[name]
    config.seed, config.training.steps = TRIAL_SEED, steps
    config.training.sparsity_warmup, config.training.resampling.rewarmup = "10%", "200 steps"
    config.evaluation.skip_tokens, config.evaluation.tokens = 102_400, 25_600


def _ablations(config: ConfigDict, gated: ConfigDict, standard: ConfigDict) -> None:
    for name, options in ABLATIONS.items():
        config.sweep[name] = gated.copy_and_resolve_references()
        config.sweep[name].options.update(options)
    config.evaluation.pursuit = TARGETS


def _no_resampling(config: ConfigDict, gated: ConfigDict, standard: ConfigDict) -> None:
    config.training.resampling.at = ()
    config.sweep.ri_l1 = gated.copy_and_resolve_references()
    config.sweep.ri_l1.options.ri_l1 = True


def _equal_width(config: ConfigDict, gated: ConfigDict, standard: ConfigDict) -> None:
    del config.sweep.gated
    standard.width_factor = 1.0


def _rescaled(config: ConfigDict, gated: ConfigDict, standard: ConfigDict) -> None:
    _equal_width(config, gated, standard)
    standard.architecture = config.evaluation.baseline = "rescaled_standard"
    standard.learning_rates = (1e-3,)
    config.training.steps = 2560
    config.sae.start_from = "runs/paper/seed0/equal_width"  # the study names each seed's own
    config.training.resampling.at = ()


def of_seed(part: str, seed: int, workdir: Path, changes: dict[str, Any]) -> ConfigDict:
    """A part with a seed, of the data as well, in the study's directory; `changes` are what `--set` gives."""
    config = get_config(part)
    config.seed = seed
    for entry in config.sweep.values():
        entry.seeds = (seed,)
    if part == "rescaled":
        config.sae.start_from = str(workdir / f"seed{seed}" / "equal_width")
    config.update_from_flattened_dict(changes)
    return config


def finished(workdir: Path) -> list[tuple[str, Path]]:
    """The parts that have results, by name, of all seeds."""
    found = sorted(workdir.glob("seed*/*/results.csv"))
    return [(path.parent.name, path.parent) for path in found if path.parent.name in PARTS]


def write_study(workdir: Path, command: str) -> str:
    """The report of all finished parts; returns what the terminal shows."""
    import numpy as np

    from gsae.reports.curves import read_log
    from gsae.reports.report import write_report
    from gsae.reports.tables import read_results_csv
    from gsae.show import versions

    rows: list[dict[str, Any]] = []
    pursued: list[dict[str, Any]] = []
    densities: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    config: dict[str, Any] = {}
    for part, run in finished(workdir):
        where = str(run.relative_to(workdir))

        def named(row: dict[str, Any], part: str = part, where: str = where) -> dict[str, Any]:
            variant = ", ".join(filter(None, [CALLED.get(part), row.get("variant")]))
            return {**row, "variant": variant, "point": f"{where}/{row['point']}"}

        some = read_results_csv(run / "results.csv")
        rows += [named(row) for row in some]
        if (run / "pursuit.csv").is_file():
            pursued += [named(row) for row in read_results_csv(run / "pursuit.csv")]
        for row in some:
            densities[f"{where}/{row['point']}"] = np.load(run / "evaluation" / row["point"] / "density.npy")
        curves |= {f"{where}/{name}": curve for name, curve in read_log(run / "logs" / "metrics.jsonl").items()}
        seconds[where] = sum(json.loads((run / "seconds.json").read_text()).values())
        config[part] = json.loads((run / "config.json").read_text())
    return write_report(
        workdir, rows=rows, densities=densities, baseline="standard", config=config, command=command,
        versions=versions(), seconds_per_stage=seconds, title="The Gated SAE paper on the bundled model",
        pursued=pursued, curves_of=curves,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The study: every part of every seed that is not finished, then the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/paper"))
    parser.add_argument("--seeds", default="0,1,2,3,4", help="separated by commas")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas; rescaled needs equal_width")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=JSON", help="a setting, in all parts")
    args = parser.parse_args(argv)
    from gsae import config as schema
    from gsae.errors import Interrupted, RunError, SettingError
    from gsae.pipeline import run

    command = " ".join(["python -m experiments.paper.on_bundled_model", *(sys.argv[1:] if argv is None else argv)])
    try:
        changes = {name: json.loads(value) for name, _, value in (text.partition("=") for text in args.set)}
        for seed in map(int, args.seeds.split(",")):
            for part in args.parts.split(","):
                config = schema.parse(of_seed(part, seed, args.workdir, changes))
                print(f"seed {seed}, {part}", flush=True)
                run(config, args.workdir / f"seed{seed}" / part, command=command)
                said = write_study(args.workdir, command)
        print(said)
    except (SettingError, RunError, Interrupted) as error:
        print(f"gsae: {error}", file=sys.stderr)
        return error.exit_code
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # what the flags say
        print(f"gsae: {' '.join(str(error).split())}", file=sys.stderr)
        return SettingError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
