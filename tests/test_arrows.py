"""The arrows between the rooms of gsae, read off every import statement, those inside functions included.

A room is a directory of `gsae/`, or a module that stands in `gsae/` itself. WORKSPACE.md draws the same arrows.
"""

import ast
import graphlib
from pathlib import Path

import pytest

from gsae.autoencoders.registry import ARCHITECTURES

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "gsae").rglob("*.py"))

# room -> what it may import: rooms, or single modules of a room
ARROWS = {
    "errors": set(),
    "places": {"errors"},
    "artifacts": {"errors", "places"},
    "durations": {"errors"},
    "mesh": {"errors"},
    "chips": set(),
    "collectives": set(),
    "throughput": {"chips"},
    "capacity": set(),
    "cpu_devices": set(),
    "processes": {"errors"},
    "text": {"artifacts", "errors"},
    "language_models": {"artifacts", "errors", "mesh"},
    "activations": {
        "artifacts", "capacity", "errors", "language_models", "mesh", "places", "processes.waiting", "text",
        "throughput",
    },
    "autoencoders": {"artifacts", "errors", "mesh"},
    "interop": {"artifacts", "autoencoders", "errors"},
    "interventions": {"autoencoders", "errors", "evaluation.splice", "language_models"},
    "equivalence": {
        "artifacts", "autoencoders", "evaluation", "interop.equivalence", "job", "language_models.sites", "mesh",
        "training.groups",
    },
    "export": {"artifacts", "autoencoders.base", "errors", "interop"},
    "training": {
        "activations.batches", "artifacts", "autoencoders", "collectives", "durations", "errors", "mesh", "places",
        "processes", "throughput",
    },
    "evaluation": {"activations.superblocks", "autoencoders", "errors", "language_models", "mesh", "text"},
    "reports": {"artifacts", "errors", "evaluation.frontier", "evaluation.quality"},
    "schema": {"durations", "errors"},
    "config": {"errors", "schema"},
    "recipe": {"autoencoders", "config", "durations", "errors", "language_models.sites", "mesh", "schema", "training"},
    "memory": {
        "activations.capture", "activations.exchange", "activations.live", "capacity", "errors",
        "evaluation.members", "language_models.loading", "language_models.sites", "training",
    },
    "roofline": {"autoencoders.registry", "capacity", "chips", "errors", "memory", "mesh", "throughput", "training"},
    "rounds": {"artifacts", "autoencoders.registry", "autoencoders.saving", "errors", "training.groups"},
    "job": {
        "activations.capture", "activations.fitting", "activations.live", "activations.live_together",
        "activations.row_import", "activations.rows", "activations.store", "artifacts", "autoencoders.registry",
        "config", "errors", "language_models", "memory", "mesh", "places", "processes", "recipe", "roofline", "rounds",
        "schema",
        "text.tokens", "training",
    },
    "pilot": {"activations.batches", "artifacts", "job", "mesh", "processes", "recipe", "states", "training"},
    "tokenise": {
        "artifacts", "errors", "evaluation.batches", "job", "judge", "language_models.chat", "processes", "schema",
        "text",
    },
    "preparation": {
        "artifacts", "errors", "job", "language_models.pinned", "memory", "places", "processes", "recipe", "rounds",
        "schema", "training",
    },
    "states": {"autoencoders.registry", "job", "mesh", "recipe", "rounds", "training"},
    "judge": {
        "artifacts", "autoencoders.saving", "equivalence", "errors", "evaluation", "job", "recipe", "training.groups",
    },
    "show": {
        "artifacts", "autoencoders.saving", "dashboards", "equivalence", "errors", "job", "judge", "processes.waiting",
        "reports", "rounds", "schema", "training.sinks",
    },
    "aiming": {"job", "judge", "mesh", "states", "training"},
    "pipeline": {
        "activations", "aiming", "artifacts", "autoencoders.saving", "config", "errors", "evaluation", "job", "judge",
        "pilot", "preparation", "processes", "recipe", "reports", "rounds", "schema", "show", "states", "tokenise",
        "training",
    },
    "command_line": {"errors"},
    "finished": {"autoencoders.saving", "errors", "language_models", "text.tokens"},
    "dashboards": {
        "artifacts", "autoencoders.saving", "command_line", "evaluation", "finished", "language_models.token_texts",
        "mesh", "reports",
    },
    "study": {
        "artifacts", "command_line", "dashboards", "errors", "evaluation", "finished", "language_models.token_texts",
        "reports",
    },
    "pretrain": {"artifacts", "config", "errors", "language_models", "mesh", "schema", "text"},
    "run_flags": {"errors", "processes"},
    "plan": {
        "activations.capture", "activations.rows", "artifacts", "autoencoders", "chips", "collectives", "config",
        "errors", "evaluation", "language_models", "mesh", "places", "recipe", "roofline", "run_flags",
        "throughput", "training",
    },
    "main": {"config", "cpu_devices", "errors", "pipeline", "processes", "run_flags"},
    "": {"activations.row_stream", "interop.hub", "interventions"},  # gsae/__init__.py: what stands there by name
}  # fmt: skip
NAME_ARCHITECTURES = {"autoencoders", "interop"}  # other tools' formats say by name which one they hold
KNOW_THE_CONFIGURATION = {
    "job", "judge", "main", "pipeline", "preparation", "pretrain", "plan", "recipe", "run_flags", "show", "states",
    "tokenise",
}  # fmt: skip


def module_of(file):
    parts = file.relative_to(ROOT / "gsae").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module):
    return module.split(".")[0]


def is_module(name):
    path = ROOT / "gsae" / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(source, file):
    """The modules of gsae that a source text imports, without the leading `gsae.`, and the lines."""
    for node in ast.walk(ast.parse(source, str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            names = [node.module]
            if node.module == "gsae" or node.module.startswith("gsae."):
                names = [f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__"]
        else:
            continue
        for name in names:
            if name == "gsae" or name.startswith("gsae."):
                inner = name.removeprefix("gsae").removeprefix(".")
                yield (inner if is_module(inner) else inner.rpartition(".")[0]), node.lineno


def complaints_about_imports(module, source, file):
    room = room_of(module)
    allowed = ARROWS[room]
    for target, line in imports(source, file):
        if room_of(target) == room or target in allowed or room_of(target) in allowed:
            continue
        if any(target.startswith(f"{single}.") for single in allowed):
            continue
        yield f"{file}:{line}: {room or 'gsae'} must not import gsae.{target}"


def test_rooms_import_only_what_their_arrows_allow():
    found = []
    for file in FILES:
        assert room_of(module_of(file)) in ARROWS, f"{file}: a new room; draw its arrows here and in WORKSPACE.md"
        found += complaints_about_imports(module_of(file), file.read_text(encoding="utf-8"), file)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("reports.tables", "from gsae.training import step"),
        ("reports.tables", "def f():\n    import gsae.autoencoders.gated"),
        ("reports.tables", "from gsae.evaluation.splice import evaluate"),
        ("training.loop", "from gsae.activations import store, batches"),
        ("text.tokens", "from gsae import config"),
        ("artifacts", "import gsae"),
    ],
)
def test_a_wrong_import_is_seen(module, source):
    assert list(complaints_about_imports(module, source, "x.py"))


def cycle_in(graph):
    """The nodes of a cycle, None where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_no_cycles_between_rooms_or_modules():
    rooms, modules = {}, {}
    for file in FILES:
        module = module_of(file)
        targets = {target for target, _ in imports(file.read_text(encoding="utf-8"), file)} - {module}
        modules[module] = {target for target in targets if target}
        rooms.setdefault(room_of(module), set()).update({room_of(target) for target in targets} - {room_of(module)})
    assert set(modules) == {module_of(file) for file in FILES} and modules["main"] and rooms["pipeline"]
    for graph in (rooms, modules):
        assert cycle_in(graph) is None
    assert cycle_in(modules | {"errors": {"main"}}), "a cycle would not be seen"


def test_only_the_outermost_rooms_know_the_configuration():
    assert {room for room, targets in ARROWS.items() if "config" in targets} <= KNOW_THE_CONFIGURATION
    for file in FILES:
        if room_of(module_of(file)) not in KNOW_THE_CONFIGURATION:
            assert "ml_collections" not in file.read_text(encoding="utf-8"), f"{file}: takes plain values"


def names_in_code(source, names):
    """Lines on which a string literal that is not a docstring is one of the names."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in names:
            yield node.lineno


def test_nothing_outside_autoencoders_names_an_architecture():
    found = [
        f"{file}:{line}: an architecture is named outside autoencoders/"
        for file in FILES
        if room_of(module_of(file)) not in NAME_ARCHITECTURES
        for line in names_in_code(file.read_text(encoding="utf-8"), set(ARCHITECTURES))
    ]
    assert not found, "\n".join(found)
    assert list(names_in_code(f"x = {next(iter(ARCHITECTURES))!r}", set(ARCHITECTURES)))


def test_each_package_is_installed():
    """A directory without __init__.py would be missing from the wheel."""
    for directory in {file.parent for file in FILES}:
        assert (directory / "__init__.py").is_file(), directory
