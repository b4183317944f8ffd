"""docs/architecture.md is true: which folder may import which, and which files there are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.structure import imported_modules as imports_of
from benchmarks.structure import module_files, modules_in_cycles
from tests.project_files import project_files

ANY = ("*",)  # third parties without restriction
PAGE = (Path(__file__).resolve().parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")


def table(heading: str) -> dict[str, list[tuple[str, ...]]]:
    """Return a table of the page by its first column: the names in backticks of each further cell, or ANY."""
    lines = PAGE.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names = {
        row[0].strip("`"): [ANY if cell == "any" else tuple(re.findall("`([^`]+)`", cell)) for cell in row[1:]]
        for row in rows
    }
    assert len(names) == len(rows)
    return names


# layer: (own layers or modules it may import beside itself, third parties it may import)
LAYERS = {layer: (ours, others) for layer, (_, ours, others) in table("folder").items()}
ALSO = {place: names for place, (names,) in table("file or folder").items()}
# room of data_prep: rooms, and modules beside them, that it may import beside itself and SHARED
ROOMS = {room.removeprefix("data_prep/"): names for room, (_, names) in table("room").items()}
SHARED = {"failures", "progress"}
ABOVE = {"init", "inputs"}  # rooms that stand on the modules beside them
FREE = {"__init__", "__main__", "agent", "api", "cli"}  # of ple_rec itself: they tie the layers together
FOLDERS = ("ple_rec", "data_prep", "launch")


def layer_of(module: str) -> str:
    """`ple_rec.data.batch` -> `data`; `data_prep.datasets.census` -> `data_prep`."""
    parts = module.split(".")
    return parts[0] if parts[0] != "ple_rec" else parts[1] if len(parts) > 1 else "__init__"


def imports(source: str) -> list[tuple[int, str]]:
    """Line and full dotted name of every import, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def violations(module: str, source: str, place: str) -> list[str]:
    """Every import of `module` that its layer does not permit, with file, line, import and the permitted ones."""
    layer = layer_of(module)
    if layer in FREE:
        return []
    if layer not in LAYERS:
        return [f"{place}: layer {layer!r} is not in the table of LAYERS"]
    own, third = LAYERS[layer]
    third += tuple(name for folder, names in ALSO.items() if f"{module}.".startswith(f"{folder}.") for name in names)
    here = layer if layer in FOLDERS else f"ple_rec.{layer}"
    common = ["ple_rec.errors", "ple_rec.__version__", *(["ple_rec.storage"] if layer != "launch" else [])]
    permitted = [here, *common, *(f"ple_rec.{name}" for name in own), *third]

    def fits(name: str) -> bool:
        if name.split(".")[0] in sys.stdlib_module_names:
            return True
        free = "*" in third and name.split(".")[0] not in (*FOLDERS, "")
        return free or any(f"{name}.".startswith(f"{prefix}.") for prefix in permitted)

    rule = f"{layer} may import the standard library and {', '.join(permitted)}"
    return [f"{place}:{line}: imports {name}; {rule}" for line, name in imports(source) if not fits(name)]


def test_every_file_keeps_to_its_layer(repository: Path) -> None:
    files = project_files(FOLDERS, ".py")
    assert len(files) > 20
    broken = []
    for file in files:
        path = file.relative_to(repository)
        module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        broken += violations(module, file.read_text(encoding="utf-8"), str(path))
    assert not broken, "\n".join(broken)


def strays(module: str, source: str) -> list[str]:
    """Return every import of a module of `data_prep` that its room does not permit."""
    room = module.split(".")[1] if module.count(".") else ""
    names = [name.split(".")[1] for _, name in imports(source) if name.startswith("data_prep.")]
    if room in ROOMS:
        permitted = {room, *SHARED, *ROOMS[room]}
        return [f"{module} imports {name}" for name in names if name not in permitted]
    refused = set(ROOMS) if room in SHARED else ABOVE
    return [f"{module} imports {name}" for name in names if name in refused]


def test_rooms_of_data_prep_import_those_below_them(repository: Path) -> None:
    folder = repository / "data_prep"
    assert set(ROOMS) == {file.parent.name for file in folder.glob("*/__init__.py")}
    assert modules_in_cycles({room: set(ROOMS).intersection(names) for room, names in ROOMS.items()}) == []
    beside = SHARED.union(*ROOMS.values()).difference(ROOMS)
    assert [name for name in beside if not (folder / f"{name}.py").exists()] == []
    found = []
    for file in project_files(["data_prep"], ".py"):
        module = ".".join(file.relative_to(repository).with_suffix("").parts).removesuffix(".__init__")
        found += strays(module, file.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize(
    ("module", "name", "permitted"),
    [
        ("data_prep.engines.duck", "output.parts", False),
        ("data_prep.engines.duck", "sources.files", True),
        ("data_prep.sources.csv_files", "failures", True),
        ("data_prep.output.dataset_diff", "pipeline", False),
        ("data_prep.stats.page.view", "stats.cells", True),
        ("data_prep.inputs.read", "diagnose", True),
        ("data_prep.pipeline", "stats", True),
        ("data_prep.run", "inputs.read", False),
        ("data_prep.progress", "sources.files", False),
    ],
)
def test_a_room_permits_what_stands_in_its_row(module: str, name: str, permitted: bool) -> None:
    room = name.split(".")[0]
    expected = [] if permitted else [f"{module} imports {room}"]
    assert strays(module, f"from data_prep.{name} import X") == expected
    assert strays(module, f"def f():\n    import data_prep.{name}") == expected


def test_pages_name_files_and_folders_that_there_are(repository: Path) -> None:
    pages = [repository / "README.md", repository / "CONTRIBUTING.md", *(repository / "docs").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"`((?:ple_rec|data_prep|launch|tests|benchmarks)/[\w./]+)`", text))
    assert len(named) > 100
    assert [name for name in sorted(named) if not (repository / name).exists()] == []


def test_lists_of_files_in_docstrings_name_files_beside_them() -> None:
    listed = 0
    for file in project_files(FOLDERS, ".py"):
        for name in re.findall(r"^ *([a-z_]+\.py)  ", _docstring(file), re.M):
            listed += 1
            assert (file.parent / name).exists(), f"{file}: {name}"
    assert listed > 60


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def test_the_page_names_every_folder(repository: Path) -> None:
    folders = {file.parent.name for file in (repository / "ple_rec").glob("*/__init__.py")}
    assert folders - FREE == set(LAYERS) - {"errors", "data_prep", "launch"}
    inside = [f"data_prep/{file.parent.name}" for file in (repository / "data_prep").glob("*/__init__.py")]
    assert [name for name in inside if name not in PAGE and name.replace("/", ".") not in PAGE] == []


def test_no_module_imports_itself_by_others(repository: Path) -> None:
    known = module_files(repository)
    assert modules_in_cycles({name: imports_of(file, known) for name, file in known.items()}) == []


@pytest.mark.parametrize(
    ("module", "source", "name"),
    [
        ("ple_rec.config.run", "import torch.nn", "torch.nn"),
        ("ple_rec.config.run", "def f():\n    from ple_rec.data import batch", "ple_rec.data.batch"),
        ("ple_rec.data.loader", "from torchrec.distributed import DMP", "torchrec.distributed.DMP"),
        ("ple_rec.models.multitask", "from ple_rec.data.loader import Loader", "ple_rec.data.loader.Loader"),
        ("ple_rec.distributed.sharding", "from ple_rec.models import build", "ple_rec.models.build"),
        ("ple_rec.checkpoint.store", "import ple_rec.training.loop", "ple_rec.training.loop"),
        ("ple_rec.training.loop", "from data_prep import census", "data_prep.census"),
        ("ple_rec.training.loop", "from . import guard", "..guard"),
        ("launch.components", "from ple_rec.config import run", "ple_rec.config.run"),
        ("data_prep.datasets.census", "import torch", "torch"),
        ("data_prep.datasets.census", "import numpy", "numpy"),
        ("data_prep.engines.duck", "from pyspark.sql import functions", "pyspark.sql.functions"),
        ("data_prep.engines.spark", "import fsspec", "fsspec"),
        (
            "ple_rec.reports.page",
            "from ple_rec.runtime.versions import find_spark_problem",
            "ple_rec.runtime.versions.find_spark_problem",
        ),
        ("ple_rec.errors", "import pydantic", "pydantic"),
    ],
)
def test_the_checker_catches(module: str, source: str, name: str) -> None:
    (found,) = violations(module, source, "file.py")
    line = source.count("\n") + 1
    assert found.startswith(f"file.py:{line}: imports {name}; {layer_of(module)} may import the standard library and ")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ple_rec.models.multitask", "from ple_rec.data.batch import Batch"),
        ("ple_rec.models.multitask", "from ple_rec.models import variants"),
        ("ple_rec.data.batch", "from torchrec.sparse.jagged_tensor import KeyedJaggedTensor"),
        ("ple_rec.training.loop", "import tqdm, ple_rec.checkpoint.store"),
        ("launch.components", "import torchx.specs as specs"),
        ("data_prep.datasets.census", "from ple_rec.errors import DataError"),
        ("data_prep.synthetic.laws", "import numpy as np"),
        ("data_prep.engines.duck", "import duckdb"),
        ("data_prep.engines.spark", "from pyspark.sql import functions"),
    ],
)
def test_the_checker_permits(module: str, source: str) -> None:
    assert violations(module, source, "file.py") == []


def test_only_the_model_knows_what_makes_a_cpu_fast(repository: Path) -> None:
    """But for the probe of matrix products, which `doctor` and training ask."""
    known = set[str]()
    for file in project_files(["ple_rec"], ".py"):
        names = [
            name for _, name in imports(file.read_text(encoding="utf-8")) if name.startswith("ple_rec.models.cpu.")
        ]
        if file.parent.name != "cpu" and any(".gemm_probe" not in name for name in names):
            known.add(file.relative_to(repository).as_posix())
    assert known == {"ple_rec/models/multitask.py"}


def test_an_unknown_layer_is_named() -> None:
    assert violations("ple_rec.extra.x", "", "f.py") == ["f.py: layer 'extra' is not in the table of LAYERS"]


LEAVES_TORCH_OUT = """
import runpy, sys
try:
    {action}
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {{"torch", "torchrec", "fbgemm_gpu"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "action",
    [
        "import ple_rec, ple_rec.cli, ple_rec.runtime.doctor, ple_rec.config",
        "sys.argv = ['ple-rec', '--help']; runpy.run_module('ple_rec', run_name='__main__', alter_sys=True)",
    ],
)
def test_torch_is_not_imported_by(action: str, repository: Path) -> None:
    code = LEAVES_TORCH_OUT.format(action=action)
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
