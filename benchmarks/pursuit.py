"""Non-negative gradient pursuit beside dictionary_learning's, in turn, each in a process of its own.

    python benchmarks/pursuit.py        # 4096 tokens, D = 768, F = 16384, 32 steps; needs the extra `parity`

Both get the same tokens and the same dictionary of unit vectors, in float32, and find the same codes, but where two
features are equally good to within rounding: the share of tokens with other codes is printed. Theirs makes three
products over all features a step, ours one.
"""

import argparse
import importlib.util
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

REPEATS = 3


def inputs(tokens: int, width: int, features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, D], each a sum of some vectors and noise, and a dictionary of unit vectors [F, D]; float32."""
    draws = np.random.default_rng(seed)
    W_FD = draws.standard_normal((features, width), np.float32)
    W_FD /= np.linalg.norm(W_FD, axis=1, keepdims=True)
    y_BD = draws.standard_normal((tokens, width), np.float32) * np.float32(0.3 / width**0.5)
    for _ in range(20):
        y_BD += draws.exponential(0.5, (tokens, 1)).astype(np.float32) * W_FD[draws.integers(features, size=tokens)]
    return y_BD, W_FD


def ours(y_BD: np.ndarray, W_FD: np.ndarray, l0: int) -> Any:
    """A function that makes the codes [B, F], on the device."""
    import jax
    import jax.numpy as jnp

    from gsae.evaluation.pursuit import pursue

    y, W = jnp.asarray(y_BD), jnp.asarray(W_FD)
    return lambda: jax.block_until_ready(pursue(y, W, places=l0).dense(W.shape[0]))


def theirs(y_BD: np.ndarray, W_FD: np.ndarray, l0: int) -> Any:
    """The same with dictionary_learning."""
    import torch
    from dictionary_learning.grad_pursuit import grad_pursuit

    y, W = torch.from_numpy(y_BD), torch.from_numpy(np.ascontiguousarray(W_FD.T))
    return lambda: grad_pursuit(y, W, target_l0=l0).numpy()


def _serve(connection: Connection, contender: str, sizes: tuple[int, int, int, int]) -> None:
    tokens, width, features, l0 = sizes
    run = {"ours": ours, "theirs": theirs}[contender](*inputs(tokens, width, features), l0)
    codes_BF = np.asarray(run())  # once to compile, and to compare
    rows, columns = np.nonzero(codes_BF)
    connection.send((rows, columns, codes_BF[rows, columns]))
    while connection.recv():
        start = time.perf_counter()
        run()
        connection.send(time.perf_counter() - start)


def measure(sizes: tuple[int, int, int, int], repeats: int = REPEATS) -> tuple[dict[str, list[float]], float]:
    """Seconds of each contender, in turn, and the share of tokens whose codes differ by more than 1e-3."""
    spawn = multiprocessing.get_context("spawn")
    known = importlib.util.find_spec("torch") and importlib.util.find_spec("dictionary_learning")
    names = ["ours", "theirs"] if known else ["ours"]
    pipes, codes = {}, []
    for name in names:  # one after the other, so that none is made while another runs
        pipes[name], other = spawn.Pipe()
        spawn.Process(target=_serve, args=(other, name, sizes), daemon=True).start()
        rows, columns, weights = pipes[name].recv()
        dense_BF = np.zeros((sizes[0], sizes[2]), np.float32)
        dense_BF[rows, columns] = weights
        codes.append(dense_BF)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            pipes[name].send(True)
            seconds[name].append(pipes[name].recv())
    for pipe in pipes.values():
        pipe.send(False)
    return seconds, float(np.mean(np.abs(codes[0] - codes[-1]).max(1) > 1e-3))


def main() -> None:
    """Prints both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 4096), ("width", 768), ("features", 16384), ("l0", 32), ("repeats", REPEATS)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    seconds, difference = measure((args.tokens, args.width, args.features, args.l0), args.repeats)
    medians = {name: float(np.median(of)) for name, of in seconds.items()}
    flops = 2.0 * args.tokens * args.width * args.features * args.l0
    print(f"{args.tokens} tokens, D = {args.width}, F = {args.features}, {args.l0} steps, float32")
    rate = flops / medians["ours"] / 1e9
    print(f"gsae                 {medians['ours']:8.2f} s   {rate:.0f} GFLOP/s of its one product a step")
    if "theirs" in medians:
        ratio = medians["theirs"] / medians["ours"]
        print(f"dictionary_learning  {medians['theirs']:8.2f} s   gsae is {ratio:.1f} times as fast")
        print(f"tokens with other codes: {difference:.2%}")


if __name__ == "__main__":
    main()
