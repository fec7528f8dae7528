"""What `harvest.py` times, each contender in a process of its own: gsae, torch with a hook, SAELens' cache runner."""

import importlib.util
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LAYERS, WIDTH, HEADS, MLP, VOCABULARY = 12, 768, 12, 3072, 8192  # 97.6 million parameters, GPT-NeoX
PRODUCTS = ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, MLP), (MLP, WIDTH))  # of one layer
PACKAGES = {"gsae": "gsae", "torch": "torch", "SAELens": "sae_lens"}
Task = Callable[[], Any]


class Shape(NamedTuple):
    """What is harvested."""

    layer: int
    sequences: int  # in one pass
    length: int
    written: int  # sequences in one harvest with writing


class Contender:
    """A process that does one task at a time: `seconds(task)` of a run, best asked for when nothing else runs."""

    def __init__(self, name: str, directory: Path, shape: Shape) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, name, directory, shape), daemon=True)
        self.process.start()
        theirs.close()
        self.tasks: list[str] = self.connection.recv()

    def seconds(self, task: str) -> tuple[float, float]:
        """Does a task once and waits for it: by the clock, and of all cores' time."""
        self.connection.send(task)
        return self.connection.recv()

    def result(self) -> np.ndarray:
        """The activations [B, T, D] of the first pass."""
        self.connection.send("result")
        return self.connection.recv()

    def stop(self) -> None:
        """Ends the process and gives its memory back."""
        self.connection.send(None)
        self.process.join()


def installed() -> list[str]:
    """The contenders that can be imported."""
    return [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]


def write_model(directory: Path) -> None:
    """The model with random weights and a tokenizer of made-up words, written by transformers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=MLP,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPTNeoXForCausalLM(config).save_pretrained(directory)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", bos_token="w0").save_pretrained(directory)


def random_tokens(shape: Shape) -> np.ndarray:
    """The sequences [n, T] that all contenders read, in their order."""
    return np.random.default_rng(0).integers(1, VOCABULARY, (shape.written, shape.length))


def _serve(connection: Connection, name: str, directory: Path, shape: Shape) -> None:
    make = {"gsae": _gsae, "torch": _torch, "SAELens": _sae_lens}[name]
    tasks, result = make(directory, shape)
    for task in tasks.values():
        task()  # compiles, and fills caches
    connection.send(list(tasks))
    while (asked := connection.recv()) is not None:
        if asked == "result":
            connection.send(result())
        else:
            began, used = time.perf_counter(), time.process_time()
            tasks[asked]()
            connection.send((time.perf_counter() - began, time.process_time() - used))


def _gsae(directory: Path, shape: Shape) -> tuple[dict[str, Task], Task]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from gsae.activations.capture import DTYPES, program
    from gsae.activations.harvest import harvest
    from gsae.language_models.attention_blocks import attend_in_blocks
    from gsae.language_models.loading import load_language_model
    from gsae.language_models.placement import place
    from gsae.language_models.sites import Site
    from gsae.training.allocator import keep_freed_memory

    keep_freed_memory()  # as every run on a CPU does
    language_model = load_language_model(str(directory))
    site, store = Site(shape.layer, "resid_post"), _token_store(directory / f"tokens-{shape.layer}", shape)
    rows = shape.written * (shape.length - 1) // 2
    placement = place(language_model.model)
    capture = program(nnx.split(language_model.model)[0], (site,), DTYPES["float32"], False)
    tokens = random_tokens(shape)[: shape.sequences].astype(np.int32)
    batch = jax.device_put((tokens, np.ones(tokens.shape, bool)), placement.batch)

    def one_pass() -> jax.Array:
        return capture(placement.parameters, *batch)[0].block_until_ready()

    def write() -> None:
        path = directory / "store"
        shutil.rmtree(path, ignore_errors=True)
        harvest(
            language_model, store, [site], path, superblock_rows=rows, dtype="float32", batch_size=0, progress=False
        )

    generator = np.random.default_rng(0)

    def random(*sizes: int) -> jax.Array:
        return jnp.asarray(generator.standard_normal(sizes, dtype=np.float32))

    count, each = shape.sequences * shape.length, shape.layer + 1
    operands = [(random(count, inputs), random(inputs, outputs)) for inputs, outputs in PRODUCTS]
    heads = [random(shape.sequences, shape.length, HEADS, WIDTH // HEADS) for _ in range(3)]
    neurons, stream = random(count, MLP), random(count, WIDTH)
    product = jax.jit(lambda x, w: x @ w)
    attention = jax.jit(lambda q, k, v: attend_in_blocks(q, k, v, scale=0.125))
    gelu = jax.jit(lambda x: jax.nn.gelu(x, approximate=False))
    norm = jax.jit(lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5))
    tasks: dict[str, Task] = {
        "forward": one_pass,
        "write": write,
        "products": lambda: [product(x, w).block_until_ready() for _ in range(each) for x, w in operands],
        "attention": lambda: [attention(*heads).block_until_ready() for _ in range(each)],
        "gelu": lambda: [gelu(neurons).block_until_ready() for _ in range(each)],
        "norms": lambda: [norm(stream).block_until_ready() for _ in range(2 * each)],
    }
    return tasks, lambda: np.asarray(one_pass())


def _token_store(path: Path, shape: Shape) -> Any:
    from gsae.text.sources import Document
    from gsae.text.tokens import write_token_store

    tokens = random_tokens(shape)
    return write_token_store(
        path,
        [Document(str(i), str(i)) for i in range(len(tokens))],
        lambda texts: [tokens[int(text)].tolist() for text in texts],
        context_length=shape.length,
        separator_id=None,
        special_ids=[],
        vocabulary=VOCABULARY,
        progress=False,
    )


class _Stop(Exception):
    pass


def _torch(directory: Path, shape: Shape) -> tuple[dict[str, Task], Task]:
    import torch
    from transformers import GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM.from_pretrained(directory).eval()
    tokens = torch.from_numpy(random_tokens(shape)[: shape.sequences])
    kept: list[torch.Tensor] = []

    def hook(stop: bool) -> Callable:
        def keep(module: Any, inputs: Any, output: Any) -> None:
            kept[:] = [output if isinstance(output, torch.Tensor) else output[0]]
            if stop:
                raise _Stop

        return keep

    @torch.no_grad()
    def one_pass(stop: bool) -> None:
        handle = model.gpt_neox.layers[shape.layer].register_forward_hook(hook(stop))
        try:
            model(tokens)
        except _Stop:
            pass
        finally:
            handle.remove()

    count = shape.sequences * shape.length
    operands = [(torch.randn(count, inputs), torch.randn(outputs, inputs)) for inputs, outputs in PRODUCTS]
    linear = torch.nn.functional.linear
    tasks: dict[str, Task] = {
        "forward, all layers": lambda: one_pass(False),
        "forward": lambda: one_pass(True),
        "products": lambda: [linear(x, w) for _ in range(shape.layer + 1) for x, w in operands],
    }

    def result() -> np.ndarray:
        one_pass(True)
        return kept[0].numpy()

    return tasks, result


def _sae_lens(directory: Path, shape: Shape) -> tuple[dict[str, Task], Task]:
    import datasets
    from sae_lens.cache_activations_runner import CacheActivationsRunner
    from sae_lens.config import CacheActivationsRunnerConfig

    datasets.disable_progress_bars()
    path = directory / "saelens"
    count = shape.written * shape.length
    bytes_at_once = shape.sequences * shape.length * WIDTH * 4
    config = CacheActivationsRunnerConfig(
        dataset_path="random",
        model_name=str(directory),
        model_class_name="AutoModelForCausalLM",
        model_batch_size=shape.sequences,
        hook_name=f"gpt_neox.layers.{shape.layer}",
        d_in=WIDTH,
        training_tokens=count,
        context_size=shape.length,
        new_cached_activations_path=str(path),
        streaming=False,
        prepend_bos=False,
        device="cpu",
        buffer_size_gb=2 * bytes_at_once / 1e9,
    )
    data = datasets.Dataset.from_dict({"input_ids": random_tokens(shape).tolist()})
    runner = CacheActivationsRunner(config, override_dataset=data)

    def write() -> None:
        shutil.rmtree(path, ignore_errors=True)
        runner.run()

    def result() -> np.ndarray:
        write()
        found = datasets.load_from_disk(str(path)).with_format("numpy")[: shape.sequences]
        return found[config.hook_name].reshape(-1, shape.length, WIDTH)

    return {"write": write}, result


def describe(directory: Path) -> str:
    """The model in a few words."""
    config = json.loads((directory / "config.json").read_text())
    return f"{config['model_type']}, {LAYERS} layers of width {WIDTH}, vocabulary {VOCABULARY}"
