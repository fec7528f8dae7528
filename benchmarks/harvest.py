"""How fast activations are harvested: beside the same torch model with a hook, and beside SAELens' cache runner.

    python benchmarks/harvest.py                       # the middle layer; needs torch, and SAELens for its line
    python benchmarks/harvest.py --layer=11 --rounds=8

A GPT-NeoX of 97.6 million random parameters, written by transformers, float32, on the CPU. Every contender runs in a
process of its own, on all cores, and they take turns within a round, so that a busy machine slows all of them; a ratio
is the median over the rounds, by the clock and by the time of all cores, which other work on the machine moves less.
torch runs the model either to its end, as a plain forward hook makes it, or stops after the layer by an exception in
the hook. SAELens gets the same model by its own way for models of transformers (`AutoModelForCausalLM`), which runs
every layer. "With writing" is everything from tokens to a finished directory.
"""

import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from absl import app, flags
from harvest_contenders import PRODUCTS, Contender, Shape, describe, installed, write_model

LAYER = flags.DEFINE_integer("layer", 5, "Layer whose output is harvested, from 0 to 11.")
SEQUENCES = flags.DEFINE_integer("sequences", 8, "Sequences in one pass.")
LENGTH = flags.DEFINE_integer("length", 256, "Tokens of a sequence.")
WRITTEN = flags.DEFINE_integer("written", 32, "Sequences in a harvest with writing.")
ROUNDS = flags.DEFINE_integer("rounds", 6, "Turns of every contender.")
Times = dict[tuple[str, str], list[float]]  # contender and task -> seconds, one for each round
PARTS = ("products", "attention", "gelu", "norms")


def main(_: list[str]) -> None:
    """Prints the figures."""
    shape = Shape(LAYER.value, SEQUENCES.value, LENGTH.value, WRITTEN.value)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_model(directory)
        contenders = {name: Contender(name, directory, shape) for name in installed()}
        results = {name: contender.result() for name, contender in contenders.items()}
        times: Times = {}
        used: Times = {}
        for _turn in range(ROUNDS.value):
            for name, contender in contenders.items():
                for task in contender.tasks:
                    seconds, of_cores = contender.seconds(task)
                    times.setdefault((name, task), []).append(seconds)
                    used.setdefault((name, task), []).append(of_cores)
        print(f"{describe(directory)}; layer {shape.layer}; {shape.sequences} x {shape.length} tokens a pass")
        for contender in contenders.values():
            contender.stop()
    for name, result in results.items():
        difference = np.abs(result - results["gsae"]).max() / np.abs(result).max()
        print(f"largest difference from gsae, of the largest activation, {name}: {difference:.1e}")
    _report(shape, times, used)


def _ratio(times: Times, name: str, task: str, ours: str) -> float:
    """How many times as long as gsae it takes."""
    pairs = zip(times[name, task], times["gsae", ours], strict=True)
    return statistics.median(theirs / own for theirs, own in pairs)


def _report(shape: Shape, times: Times, used: Times) -> None:
    print("\n| | best tokens/s | median | gsae is so many times as fast | by cores' time |\n|---|---|---|---|---|")
    for (name, task), seconds in times.items():
        if task.split(",")[0] not in ("forward", "write"):
            continue
        tokens = shape.length * (shape.written if task == "write" else shape.sequences)
        ours = task.split(",")[0]
        faster = [f"{_ratio(clock, name, task, ours):.2f}" if name != "gsae" else "" for clock in (times, used)]
        rates = [f"{tokens / pick(seconds):,.0f}" for pick in (min, statistics.median)]
        print(f"| {name}, {task} | {' | '.join(rates + faster)} |")
    flops = 2 * shape.sequences * shape.length * (shape.layer + 1) * sum(a * b for a, b in PRODUCTS)
    print(f"\nproducts with weights: {flops / 1e9:.0f} GFLOP a pass. Alone, operands in place:")
    for name in ("gsae", "torch"):
        if (name, "products") in times:
            alone, forward = min(times[name, "products"]), min(times[name, "forward"])
            share = statistics.median(
                a / b for a, b in zip(times[name, "products"], times[name, "forward"], strict=True)
            )
            print(
                f"  {name}: {flops / alone / 1e9:.0f} GFLOP/s; in the forward {flops / forward / 1e9:.0f}: "
                f"{share:.0%} of the forward is these products"
            )
    forward = statistics.median(times["gsae", "forward"])
    shares = {part: statistics.median(times["gsae", part]) / forward for part in PARTS}
    rest = 1 - sum(shares.values())
    print(
        "gsae's forward: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items()) + f", rest {rest:.0%}"
    )


if __name__ == "__main__":
    app.run(main)
