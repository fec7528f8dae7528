"""How fast one training step is: against the machine's matmul rate, against other trainers, and as a sweep.

    python benchmarks/train_step.py                          # both shapes; peers where they are installed
    python benchmarks/train_step.py --shapes=2048x512x4096 --rounds=20 --nopeers
    python benchmarks/train_step.py --platform=cuda --precision=bfloat16 --shapes=4096x2304x16384

Every number is wall time. Contenders take turns within a round, so that a busy machine slows all of them; times are the
best of all rounds. On a GPU a turn is `--updates` updates of which only the last is waited for, as in training, and the
inputs lie on the device before it. The matmul rate is the best over the products of the step (seven of them, five
shapes) in the same rounds, at the same precision. The peers (`pip install -e ".[parity]"`, then `pip uninstall
torchvision`) train the same gated autoencoder from the same parameters on the same inputs with their own trainers, each
in its own process with the settings that its users get. `--same_allocator` gives them our settings of the C library's
allocator (`gsae.training.allocator`), which are worth 20 to 25 % of their time on a CPU.

`--precision` is that of the products, for all: float32 as such; tensorfloat32, a GPU's default in JAX but not in
PyTorch; bfloat16, our `config.sae.compute_dtype` and the peers' autocast. Parameters are float32 in all three.
"""

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import train_step_peers as peers
from absl import app, flags

from gsae.autoencoders.registry import architecture
from gsae.mesh import make_mesh
from gsae.training.allocator import keep_freed_memory
from gsae.training.groups import Point, group_points
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings, batch_sharding, initial_state, make_step

SHAPES = flags.DEFINE_list("shapes", ["2048x512x4096", "2048x768x16384"], "B x D x F of the steps to measure.")
ROUNDS = flags.DEFINE_integer("rounds", 10, "Turns of every contender.")
SWEEP = flags.DEFINE_integer("sweep", 8, "Members of the sweep; 0 leaves that part out.")
PEERS = flags.DEFINE_bool("peers", True, "Whether to run SAELens and dictionary_learning where they are installed.")
PLATFORM = flags.DEFINE_enum("platform", "cpu", ["cpu", "cuda"], "Where all run; on a GPU only the first one is used.")
PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "tensorfloat32", "bfloat16"], "Of the products; a CPU has float32 and bfloat16."
)
UPDATES = flags.DEFINE_integer("updates", None, "Updates in a turn; 1 on a CPU and 20 on a GPU where none is given.")
SAME_ALLOCATOR = flags.DEFINE_bool("same_allocator", False, "Whether the peers get our settings of the allocator.")

SPARSITY, LEARNING_RATE, EQUAL_STEPS, INPUTS = 0.1, 1e-3, 10, 4
TOLERANCES = {"float32": 1e-4, "tensorfloat32": 1e-3, "bfloat16": 1e-2}  # of equal losses: what the operands keep
MATMULS = {  # contracted axes of the five shapes that the seven products have, and how often each occurs
    "x @ W_enc": ("BD", "DF", (1, 0), 1),
    "f @ W_dec": ("BF", "FD", (1, 0), 2),
    "x^T @ g": ("BD", "BF", (0, 0), 1),
    "f^T @ g": ("BF", "BD", (0, 0), 1),
    "g @ W_dec^T": ("BD", "FD", (1, 1), 2),
}


@dataclasses.dataclass
class Trainer:
    """Our step with its state: `step(inputs)` makes an update of all members and returns their losses [S]."""

    batch_size: int
    width: int
    features: int
    members: int
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        options = architecture("gated").Options()
        points = [
            Point("gated", "site", self.features, SPARSITY * (i + 1), LEARNING_RATE, 0, options)
            for i in range(self.members)
        ]
        mesh, (group,) = make_mesh(), group_points(points)
        schedules = Schedules(total_steps=10**6)
        settings = StepSettings(batch_size=self.batch_size, schedules=schedules, compute_dtype=self.compute_dtype)
        self.state = initial_state(group, self.width, mesh)
        batch = jax.ShapeDtypeStruct((self.batch_size, self.width), jnp.float32, sharding=batch_sharding(mesh))
        self.program = make_step(group, settings, mesh).lower(self.state, batch, jnp.int32(0)).compile()
        self.sharding, self.steps = batch_sharding(mesh), 0

    def step(self, inputs: list[jax.Array], updates: int = 1) -> np.ndarray:
        """Updates on the inputs in turn; waits for the last."""
        for _ in range(updates):
            batch = inputs[self.steps % len(inputs)]
            self.state, metrics = self.program(self.state, batch, jnp.int32(self.steps))
            self.steps += 1
        return np.asarray(metrics["loss"])

    def memory(self) -> str:
        """The state between steps and the peak within one, beside the arithmetic."""
        parameters = sum(4 * leaf.size for leaf in jax.tree.leaves(self.state.autoencoder))
        between = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))
        memory: Any = self.program.memory_analysis()
        peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak += memory.temp_size_in_bytes
        activations = 4 * self.batch_size * self.features
        return (
            f"{self.members} member(s): state {between / 2**20:.1f} MiB = {between / parameters:.3f} x parameters "
            f"({parameters / 2**20:.1f} MiB); peak {peak / 2**20:.1f} MiB, "
            f"where one [B, F] array takes {activations / 2**20:.1f} MiB"
        )


def matmul_calls(sizes: dict[str, int], dtype: str, updates: int) -> dict[str, Callable[[], object]]:
    """A call for each of the shapes of the step's products."""
    random = np.random.default_rng(1)
    calls: dict[str, Callable[[], object]] = {}
    for name, (left, right, (i, j), _) in MATMULS.items():
        arrays = [
            jnp.asarray(random.normal(size=[sizes[axis] for axis in operand]), dtype) for operand in (left, right)
        ]
        product = jax.jit(
            lambda a, b, i=i, j=j: jax.lax.dot_general(
                a, b, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32
            )
        )

        def call(product: Any = product, arrays: Any = arrays) -> None:
            for _ in range(updates):
                result = product(*arrays)
            result.block_until_ready()

        calls[name] = call
    return calls


def race(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The best wall time of every call, in seconds; they take turns, after one warm-up turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def compare_losses(ours: Trainer, others: dict[str, peers.Peer], inputs: list[jax.Array], tolerance: float) -> None:
    """Ten steps of all from the same parameters: the losses that are defined alike must be equal."""
    losses = {name: peer.step(EQUAL_STEPS) for name, peer in others.items()}
    own = float(ours.step(inputs, EQUAL_STEPS)[0])
    for name, loss in losses.items():
        difference = abs(loss - own) / own
        verdict = f"relative difference {difference:.1e}" if others[name].same_loss else "another loss by definition"
        print(f"  loss at step {EQUAL_STEPS}: ours {own:.6g}, {name} {loss:.6g} ({verdict})")
        if others[name].same_loss and not difference < tolerance:
            raise SystemExit(f"{name}: the losses differ, so the times cannot be compared")


def measure(batch_size: int, width: int, features: int, how: peers.How, updates: int) -> None:
    """One shape: prints a table."""
    print(f"\nB={batch_size}, D={width}, F={features}, {how.precision}, {updates} update(s) a turn")
    random = np.random.default_rng(0)
    arrays = [(random.normal(size=(batch_size, width)) / width**0.5).astype(np.float32) for _ in range(INPUTS)]
    dtype = "bfloat16" if how.precision == "bfloat16" else "float32"
    ours = Trainer(batch_size, width, features, 1, dtype)
    inputs = [jax.device_put(array, ours.sharding) for array in arrays]
    print("  " + ours.memory())
    others = {
        name: peers.Peer(name, ours.state.autoencoder, arrays, how)
        for name in (peers.installed() if PEERS.value else ())
    }
    if others:
        compare_losses(ours, others, inputs, TOLERANCES[how.precision])

    calls = matmul_calls({"B": batch_size, "D": width, "F": features}, dtype, updates)
    calls["gsae"] = lambda: ours.step(inputs, updates)
    calls |= {name: functools.partial(peer.step, updates) for name, peer in others.items()}
    times = {name: seconds / updates for name, seconds in race(calls, ROUNDS.value).items()}
    for peer in others.values():
        peer.stop()
    flops = 2 * batch_size * width * features
    rate = max(flops / times[name] for name in MATMULS)
    for name in MATMULS:
        print(f"  {name:<22}{1e3 * times[name]:9.2f} ms {flops / times[name] / 1e9:8.0f} GFLOP/s")
    same_shapes = sum(count * times[name] for name, (*_, count) in MATMULS.items())
    print(
        f"  {'gsae step':<22}{1e3 * times['gsae']:9.2f} ms {7 * flops / times['gsae'] / 1e9:8.0f} GFLOP/s: "
        f"{7 * flops / rate / times['gsae']:.3f} of the best matmul rate, "
        f"{same_shapes / times['gsae']:.3f} of its own products' time"
    )
    for name in others:
        print(f"  {name:<22}{1e3 * times[name]:9.2f} ms: gsae is {times[name] / times['gsae']:.2f} times as fast")


def measure_sweep(batch_size: int, width: int, features: int, dtype: str, updates: int) -> None:
    """A sweep against as many single steps."""
    x_BD = np.random.default_rng(0).normal(size=(batch_size, width)).astype(np.float32)
    single, sweep = (Trainer(batch_size, width, features, members, dtype) for members in (1, SWEEP.value))
    inputs = [jax.device_put(x_BD, single.sharding)]
    calls: dict[str, Callable[[], object]] = {
        "single": lambda: single.step(inputs, updates),
        "sweep": lambda: sweep.step(inputs, updates),
    }
    times = {name: seconds / updates for name, seconds in race(calls, max(3, ROUNDS.value // 2)).items()}
    print("  " + sweep.memory())
    print(
        f"  sweep of {SWEEP.value}: {1e3 * times['sweep']:.2f} ms = "
        f"{times['sweep'] / times['single'] / SWEEP.value:.3f} x {SWEEP.value} single steps"
    )


def main(argv: list[str]) -> None:
    """Measures all shapes; the sweep at the first."""
    if argv[1:]:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    on_cpu = PLATFORM.value == "cpu"
    if on_cpu and PRECISION.value == "tensorfloat32":
        raise app.UsageError("--precision=tensorfloat32: a CPU has float32 and bfloat16")
    jax.config.update("jax_platforms", PLATFORM.value)
    jax.config.update("jax_default_matmul_precision", "highest" if PRECISION.value == "float32" else "default")
    if on_cpu:
        keep_freed_memory()  # as gsae.main does
    updates = UPDATES.value or (1 if on_cpu else 20)
    how = peers.How(SPARSITY, LEARNING_RATE, PLATFORM.value, PRECISION.value, SAME_ALLOCATOR.value and on_cpu)
    device = f"{os.cpu_count()} cores" if on_cpu else jax.devices()[0].device_kind
    print(f"python {sys.version.split()[0]}, jax {jax.__version__}, {device}; ", end="")
    print(f"peers: {', '.join(peers.installed()) or 'none'}")
    for i, shape in enumerate(SHAPES.value):
        B, D, F = map(int, shape.split("x"))
        measure(B, D, F, how, updates)
        if not i and SWEEP.value:
            measure_sweep(B, D, F, "bfloat16" if how.precision == "bfloat16" else "float32", updates)


if __name__ == "__main__":
    app.run(main)
