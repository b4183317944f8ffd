"""A delta has the scores of a whole export of the same run, holds only what differs, and refuses what it cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ple_rec.analysis.finished import load_finished_run
from ple_rec.cli import main
from ple_rec.config.choices import TablePrecision
from ple_rec.errors import DeltaTooLargeError, UserError
from ple_rec.inference import tables
from ple_rec.inference.delta import write_changed_rows
from ple_rec.inference.delta_export import find_changed_rows
from ple_rec.inference.export import export
from ple_rec.inference.export_options import ExportOptions
from ple_rec.inference.held_out import RawHeldOutRows
from ple_rec.inference.load_version import load_ranker, load_side_tables, sides_of
from ple_rec.inference.manifest import check_version
from ple_rec.inference.model_dir import latest_version, version_names
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.tables import StoredTable, row_bytes, write_table
from ple_rec.storage import location, write_text
from ple_rec.training.trained import single_process_config
from tests.inference.delta_feed import program_writer, train_on, write_days
from tests.inference.exported import export_run, set_latest
from tests.inference.feed import FIRST_USER
from tests.object_store import put_folder

# One pair that changes places is much AUC in a few rows, and nearly all rows of a small table change in a day.
SMALL = ("--auc-loss", "1")
# Share that no delta exceeds.
ANY_SHARE = ("--delta-share", "10")
OF_A_VERSION = {"MODEL_CARD.md", "model.json", "manifest.json"}


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets and runs of two appended days; who changes them copies."""
    return write_days(tmp_path_factory.mktemp("days"), 6)


@pytest.fixture(autouse=True, scope="module")
def _programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("programs")
        patch.setattr("ple_rec.inference.export.write_program", program_writer(folder))
        yield


class Models(NamedTuple):
    """Two models of the same runs: v2 to v<last> are deltas in the first one, and whole in the other one."""

    deltas: Path
    whole: Path
    precision: TablePrecision
    last: int


# Run and checkpoint of each version. A chain of three deltas takes a while, so int4 has one delta.
EXPORTS: dict[TablePrecision, list[tuple[str, str]]] = {
    "int8": [("run", "best"), ("run-5", "best"), ("run-6", "step-2"), ("run-6", "step-4")],
    "int4": [("run", "best"), ("run-6", "step-4")],
}


@pytest.fixture(scope="module", params=list(EXPORTS))
def models(days: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Models:
    """Models of all runs; the version after the last delta is that delta, squashed."""
    root, exports = tmp_path_factory.mktemp("models"), EXPORTS[request.param]
    for number, (run, checkpoint) in enumerate(exports, 1):
        argv = ("--precision", request.param, *SMALL, "--checkpoint", checkpoint)
        export_run(days / run, root / "whole", *argv)
        if number == 1:
            shutil.copytree(root / "whole", root / "deltas")
        else:
            export_run(days / run, root / "deltas", *argv, "--delta", f"v{number - 1}", *ANY_SHARE)
    assert main(["export", "--squash", f"v{len(exports)}", "--out", str(root / "deltas")]) == 0
    return Models(root / "deltas", root / "whole", request.param, len(exports))


def described(version: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((version / "model.json").read_text())
    return found


def answers(ranker: Ranker) -> list[Any]:
    """Scores of held-out users, and of users and videos that some or all versions do not know."""
    bodies = [each["request"] for each in ranker.examples]
    users = [FIRST_USER, FIRST_USER + 101, FIRST_USER + 203, 5]
    videos = ["v1", "v2", "day 5 video 0", "day 5 video 3", "day 6 video 0", "day 6 video 4", "none", None]
    items = [{"video_id": video, "history": videos[:n], "tags": None} for n, video in enumerate(videos)]
    bodies += [{"user": {"user_id": user}, "items": items} for user in users]
    found = ranker.answer([ranker.read_rank(body) for body in bodies])
    return [{key: value for key, value in answer.items() if key != "version"} for answer in found]


def test_scores_are_those_of_a_whole_export(models: Models) -> None:
    before = None
    for number in range(1, models.last + 1):
        delta = load_ranker(models.deltas / f"versions/v{number}", threads=1)
        found = answers(delta)
        assert found == answers(load_ranker(models.whole / f"versions/v{number}", threads=1))
        assert ("delta" in delta.description) is (number > 1)
        assert found != before
        before = found
    squashed = load_ranker(models.deltas / f"versions/v{models.last + 1}", threads=1)
    assert answers(squashed) == before
    assert "delta" not in squashed.description


def files(version: Path) -> dict[str, bytes]:
    found = (path for path in version.rglob("*") if path.is_file())
    return {str(path.relative_to(version)): path.read_bytes() for path in found}


def test_a_squashed_version_has_the_files_of_a_whole_export(models: Models) -> None:
    version, expected_version = models.deltas / f"versions/v{models.last + 1}", latest_version(models.whole)
    squashed, whole = files(version), files(expected_version)
    vocabularies = {name for name in whole if name.startswith("vocab/") and name.endswith(".parquet")}
    for name in vocabularies:
        values, expected_values = (pq.read_table(folder / name)["raw"] for folder in (version, expected_version))
        assert values.to_pylist() == expected_values.to_pylist()
    # The names of the indices have the digests of the vocabularies.
    others = {name for name in whole if not name.startswith("vocab/")}
    assert others == {name for name in squashed if not name.startswith("vocab/")}
    assert {name for name in others if squashed[name] != whole[name]} == OF_A_VERSION
    assert vocabularies < squashed.keys()
    model, expected = described(version), described(expected_version)
    assert model["card"].pop("squashed") == f"v{models.last}"
    assert f"- Whole version of v{models.last}, a delta, with the same scores\n" in squashed["MODEL_CARD.md"].decode()
    for each in (model, expected):
        del each["card"]["created"]
    assert model == expected


def test_a_delta_holds_only_what_differs(models: Models) -> None:
    for number in range(2, models.last + 1):
        version = models.deltas / f"versions/v{number}"
        check_version(version)
        model = described(version)
        for table in model["tables"]:
            width = row_bytes(table["dim"], models.precision)
            size = (version / "tables" / table["file"]).stat().st_size
            assert size == table["bytes"] == table["changed"] * (4 + width)
            assert table["changed"] == expected_changes(models, number, table["name"], width)
        assert model["delta"]["base"] == f"v{number - 1}"
        assert not [*version.glob("vocab/*.index")]
        assert {path.name.split(".", 1)[1] for path in version.glob("vocab/*")} == {"delta.parquet"}


def stored(models: Models, number: int, table: str, width: int) -> np.ndarray:
    """Rows of a table of a whole version, each as its bytes."""
    content = (models.whole / f"versions/v{number}/tables/{table}.{models.precision}").read_bytes()
    return np.frombuffer(content, np.uint8).reshape(-1, width)


def expected_changes(models: Models, number: int, table: str, width: int) -> int:
    new, old = (stored(models, each, table, width) for each in (number, number - 1))
    return int((new != old).any(1).sum())


def changed_rows(models: Models, number: int, table: str, width: int) -> set[int]:
    """Rows that some version since v1 has changed."""
    versions = [stored(models, each, table, width) for each in range(1, number + 1)]
    return {int(row) for old, new in pairwise(versions) for row in (new != old).any(1).nonzero()[0]}


def test_the_card_and_the_summary_say_what_has_changed(
    first: Path, days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(first, tmp_path / "m")
    export_run(days / "run-5", model, "--precision", "int8", *SMALL, "--delta", "v1", *ANY_SHARE)
    said, version = capsys.readouterr().out, latest_version(model)
    card = described(version)["card"]["delta"]
    changes = pq.read_table(version / "vocab/user_id.delta.parquet")
    came = changes.num_rows - changes["raw"].null_count
    assert came > 0
    went = changes.num_rows - changes["previous"].null_count
    assert went > 0
    assert card["values"]["user_id"] == {"came": came, "went": went}
    rows = card["changed_rows"]["user_id"]
    assert f"user_id: {rows} rows changed, {came} values came, {went} went\n" in said
    assert f"delta of v1; {card['bytes']:,} bytes, " in said
    text = (version / "MODEL_CARD.md").read_text()
    assert f"- Delta: of v1; {card['bytes']:,} bytes, " in text
    assert f"| user_id | 40 | {rows} | {came} | {went} |\n" in text
    assert card["bytes"] == _bytes_without_descriptions(version)
    assert card["whole_bytes"] == _bytes_without_descriptions(model / "versions/v1")


def _bytes_without_descriptions(version: Path) -> int:
    files = [path for path in version.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if path.name not in OF_A_VERSION)


def test_the_share_of_a_delta_counts_all_that_a_server_holds(models: Models) -> None:
    whole = load_ranker(models.deltas / "versions/v1", threads=1).arrays
    for number in range(2, models.last + 1):
        version = models.deltas / f"versions/v{number}"
        model, arrays, table_bytes = described(version), load_ranker(version, threads=1).arrays, 0
        for table in model["tables"]:
            width = row_bytes(table["dim"], models.precision)
            table_bytes += len(changed_rows(models, number, table["name"], width)) * (4 + width)
        assert sum(table.overlay_bytes for table in arrays.tables.values()) == table_bytes
        # Arrow stores the nulls of a column that was read in other bytes.
        share = arrays.overlay_bytes / whole.whole_bytes
        assert model["card"]["delta"]["share"] == model["delta"]["share"] == pytest.approx(share, rel=0.01)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("changed", [0, 3, 40])
def test_bytes_grow_with_the_changed_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, changed: int
) -> None:
    monkeypatch.setattr(tables, "_CHUNK_ROWS", 64)
    weight_RD = torch.randn(1000, 8)
    with (tmp_path / "t").open("wb") as file:
        write_table(file, weight_RD, precision)
    before = StoredTable(tmp_path / "t", 1000, 8, precision)
    rows = torch.randperm(1000)[:changed].sort().values
    weight_RD[rows] += 1
    for _ in range(2):  # The base is a delta in the second round.
        changes = find_changed_rows("t", [weight_RD[:300], weight_RD[300:]], before)
        assert changes.rows_E.tolist() == rows.tolist()
        write_changed_rows(tmp_path / "delta", changes)
        assert (tmp_path / "delta").stat().st_size == changed * (4 + row_bytes(8, precision))
        before = before.with_changes(changes)
        assert find_changed_rows("t", [weight_RD], before).rows_E.tolist() == []
        weight_RD[rows] -= 3


def refused(model: Path, capsys: pytest.CaptureFixture[str], run: Path, *argv: str, code: int = 2) -> str:
    """Message of an export that publishes nothing, and leaves the served version as it is."""
    before, latest = version_names(model), (model / "latest").read_text()
    capsys.readouterr()
    export_run(run, model, *argv, code=code)
    assert version_names(model) == before
    assert (model / "latest").read_text() == latest
    assert not [path for path in (model / "versions").iterdir() if path.name.startswith(".")]
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def first(days: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with v1 in int8 and v2 in fp16, both of the first run; who changes it copies."""
    model = tmp_path_factory.mktemp("first") / "m"
    export_run(days / "run", model, "--precision", "int8", *SMALL)
    export_run(days / "run", model, "--precision", "fp16", *SMALL)
    return model


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("--delta", "v1"),
            "--precision: got fp32; a delta has the precision of its base, and v1 is in int8",
        ),
        (("--delta", "v1", "--precision", "int4"), "and v1 is in int8. Fix: give --precision int8"),
        (
            ("--delta", "v2", "--precision", "fp16"),
            "--delta v2: its tables are in fp16; rows of int8 and int4 stand alone with their scales, so only they are "
            "replaced one by one. Fix: export a whole version with --precision int8 first",
        ),
        (("--delta", "v7"), "--delta: got 'v7'; it names a complete version of "),
        (("--delta", "../v1"), "one of v1, v2. Fix: name one of them"),
        (("--delta", "v1", "--precision", "int8", "--delta-share", "-1"), "--delta-share: got '-1'; expected a finite"),
        (
            ("--precision", "int8", "--delta-share", "0.5"),
            "--delta-share: got 0.5 without --delta; it bounds the size of a delta, and a whole version is exported. "
            "Fix: give --delta too, or leave --delta-share out",
        ),
        (
            ("--delta", "v1", "--squash", "v1"),
            "--squash: got it with run ",
        ),
    ],
)
def test_options_that_do_not_fit(
    first: Path, days: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    assert message in refused(first, capsys, days / "run-5", *argv)


def test_too_many_changes_ask_for_a_whole_version(first: Path, days: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(first, capsys, days / "run-5", "--delta", "v1", "--precision", "int8", "--delta-share", "0.01")
    assert "--delta v1: what has changed since v1, the last whole version, takes " in said
    assert (
        "at most 0.01 is allowed. Fix: export a whole version: leave --delta out; or allow it by --delta-share" in said
    )
    assert issubclass(DeltaTooLargeError, UserError)


def test_a_dataset_of_another_lineage(
    first: Path, days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model of a later day is no base for the run of an earlier one."""
    model = shutil.copytree(first, tmp_path / "later")
    export_run(days / "run-6", model, "--precision", "int8", *SMALL)
    said = refused(model, capsys, days / "run-5", "--delta", "v3", "--precision", "int8")
    assert "does not descend from" in said
    assert "in other datasets, rows of tables belong to other values. Fix: export a whole version: leave" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "name: other of the run, small of the base; a delta has the name of its base"),
        (
            {"data": {"drop": ["city"]}},
            "features: none of the run, city of the base; a delta has ",
        ),
        ({"embeddings": {"dim": 8}}, "of 8 columns; in the base it has 12 rows of 4 columns"),
    ],
)
def test_a_run_of_another_model(
    first: Path,
    days: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    message: str,
) -> None:
    run = train_on(days / "data-5", tmp_path / "run", None, change)
    assert message in refused(first, capsys, run, "--delta", "v1", "--precision", "int8")


def test_a_base_that_is_damaged_incomplete_or_gone(
    models: Models, days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, name = shutil.copytree(models.deltas, tmp_path / "m"), f"v{models.last}"
    argv = (days / "run-6", "--precision", models.precision, *SMALL, "--delta", name, *ANY_SHARE)
    file = model / "versions/v1/tables" / f"user_id.{models.precision}"
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert f"{file}: has the SHA-256 " in refused(model, capsys, *argv, code=3)
    file.write_bytes(content)
    manifest = model / "versions" / name / "manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    assert f"--delta: got '{name}'; it names a complete version of" in refused(model, capsys, *argv)
    manifest.write_text(text)
    base = model / "versions" / f"v{models.last - 1}"
    (base / "manifest.json").write_text((base / "manifest.json").read_text() + " ")
    assert f"was made from {base.name} with the manifest" in refused(model, capsys, *argv, code=3)
    shutil.rmtree(base)
    assert f"{base}: is missing; {name} has only what differs from it" in refused(model, capsys, *argv, code=3)


def test_what_is_squashed_is_a_delta(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused_squash(*argv: str) -> str:
        capsys.readouterr()
        assert main(["export", *argv, "--out", str(first)]) == 2
        assert version_names(first) == ["v1", "v2"]
        return " ".join(capsys.readouterr().err.split())

    assert "--squash: v1 is whole already; only a delta is made whole. Fix: name a delta" in refused_squash(
        "--squash", "v1"
    )
    assert "--squash: got 'v9'; it names a complete version of" in refused_squash("--squash", "v9")
    said = refused_squash("--squash", "v1", "--delta", "v1", "--precision", "int8")
    assert "--squash: got it with --precision, --delta; the whole version has the content of the delta" in said
    assert "export: RUN missing; it is the run that is exported. Fix: name it, or give --squash" in refused_squash()


@pytest.mark.parametrize("models", ["int8"], indirect=True)
def test_only_the_served_version_is_squashed(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the scores of an older version would be served, because the whole version becomes the latest."""
    model = shutil.copytree(models.deltas, tmp_path / "m")
    (model / "latest").write_text("v1\n")
    names = version_names(model)
    assert main(["export", "--squash", f"v{models.last}", "--out", str(model)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"--squash: got v{models.last}, but v1 is served; the whole version is served from now on" in said
    assert version_names(model) == names
    assert (model / "latest").read_text() == "v1\n"


@pytest.mark.parametrize("models", ["int8"], indirect=True)
def test_a_delta_in_a_store(models: Models, days: Path, address: str) -> None:
    model = location(address)
    for number in (1, 2):
        put_folder(models.deltas / f"versions/v{number}", f"{address.removeprefix('s3://')}/versions/v{number}")
    write_text(model / "latest", "v2\n")
    argv = ["--precision", models.precision, *SMALL, "--checkpoint", "step-2", "--examples", "24"]
    assert main(["export", str(days / "run-6"), "--out", address, *argv, "--delta", "v2", *ANY_SHARE]) == 0
    expected = answers(load_ranker(models.whole / "versions/v3", threads=1))
    assert answers(load_ranker(latest_version(model), threads=1)) == expected
    assert main(["export", "--squash", "v3", "--out", address]) == 0
    assert latest_version(model).name == "v4"
    assert answers(load_ranker(latest_version(model), threads=1)) == expected


@pytest.fixture
def disk(first: Path, tmp_path: Path) -> Iterator[Path]:
    """A model with v1, on a file system that has room for half of a delta."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may mount nothing")
    shutil.copytree(first / "versions/v1", place / "m/versions/v1")
    set_latest(place / "m", "v1")
    state = os.statvfs(place)
    used = (state.f_blocks - state.f_bfree) * state.f_bsize
    subprocess.run(["mount", "-o", f"remount,size={used + 80 * 1024}", str(place)], check=True)
    yield place / "m"
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_in_the_middle(disk: Path, days: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(disk, capsys, days / "run-5", "--precision", "int8", *SMALL, "--delta", "v1", *ANY_SHARE)
    assert "No space left on device; a model and its side tables need disk space" in said
    load_ranker(latest_version(disk))


@pytest.mark.parametrize("dense", ["bf16", "auto"])
def test_a_delta_has_a_precision_of_matrix_products_of_its_own(
    first: Path, days: Path, tmp_path: Path, dense: str
) -> None:
    model, argv = shutil.copytree(first, tmp_path / "m"), ("--precision", "int8", *SMALL, "--dense", dense)
    export_run(days / "run-5", model, *argv, "--delta", "v1", *ANY_SHARE)
    export_run(days / "run-5", model, *argv)
    delta, whole = (described(model / "versions" / name) for name in ("v3", "v4"))
    assert delta["dense"] == whole["dense"] == {"precision": dense}
    assert delta["card"]["check"] == whole["card"]["check"]
    assert delta["card"]["check"]["dense"] == "bf16"


def test_the_caller_gets_the_ranker_of_the_delta(first: Path, days: Path, tmp_path: Path) -> None:
    model, found = shutil.copytree(first, tmp_path / "m"), []
    options = ExportOptions("int8", delta="v1", delta_share=1, auc_loss=1, examples=24)
    config, metrics = load_finished_run(days / "run-5", ())
    config = single_process_config(config, metrics)

    def accept(ranker: Ranker, _: RawHeldOutRows) -> None:
        assert version_names(model) == ["v1", "v2"]
        found.append(answers(ranker))

    export(config, metrics, days / "run-5", model, options, accept=accept)
    assert found == [answers(load_ranker(latest_version(model), threads=1))]


@pytest.mark.slow
def test_rates_are_published_with_a_delta(rates_feed: Path, rates_child: Path, tmp_path: Path) -> None:
    model, argv = tmp_path / "m", ("--precision", "int8", *SMALL)
    export_run(rates_feed / "run", model, *argv)
    assert (model / "tables/by_video_id/latest").read_text() == "v1\n"
    run = train_on(rates_child, tmp_path / "run", rates_feed / "run")
    export_run(run, model, *argv, "--delta", "v1", *ANY_SHARE)
    assert (model / "tables/by_video_id/latest").read_text() == "v2\n"
    ranker, misfits = load_side_tables(load_ranker(latest_version(model)), latest_version(model))
    assert not misfits
    assert set(ranker.side_tables) == {side.name for side in sides_of(ranker.raw_form) if side.rates}
