"""The output directory: whole parts alone, gone on with after any stop, and never mixed with something else."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.inputs import read as inputs
from ple_rec.cli import main
from ple_rec.errors import UserError
from ple_rec.inference.predict.output import locked_output
from tests.datasets import write_dataset
from tests.inference.feed import predict, raw
from tests.rank_processes import fork_server
from tests.tiny import wait_until

SMALL = ["--part-rows", "24"]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The system refuses larger files, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("part-*")}


def _predict_slowly(argv: list[str]) -> None:
    """Stop for good before the third unit of rows."""
    of_unit = inputs.Inputs._read_batch

    def slow(self: inputs.Inputs, first: int, last: int) -> Any:
        if first >= 140:
            time.sleep(60)
        return of_unit(self, first, last)

    vars(inputs)["MAX_BATCH_ROWS"] = 70
    inputs.Inputs._read_batch = slow  # type: ignore[method-assign]
    main(argv)


def test_a_killed_call_is_gone_on_with(feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = raw(feed, tmp_path / "whole", feed / "raw" / "log", *SMALL)
    out = tmp_path / "out"
    argv = ["predict", str(feed / "run"), "--data", str(feed / "raw" / "log"), "--from", str(feed / "raw")]
    process = fork_server().Process(target=_predict_slowly, args=([*argv, "--out", str(out), *SMALL],))
    process.start()
    assert wait_until(lambda: (out / "part-00002.parquet").exists(), 60)
    process.kill()
    process.join()
    assert not (out / "_SUCCESS").exists()
    before = contents(out)
    assert raw(feed, out, feed / "raw" / "log", *SMALL).equals(whole)
    assert "resuming after" in capsys.readouterr().err
    assert contents(out) == contents(tmp_path / "whole")
    assert {name: contents(out)[name] for name in before if name.endswith(".parquet")} == {
        name: content for name, content in before.items() if name.endswith(".parquet")
    }
    summaries = [json.loads((folder / "_SUCCESS").read_text()) for folder in (out, tmp_path / "whole")]
    assert summaries[0]["ids"] == summaries[1]["ids"]
    assert summaries[0]["clipped"] == summaries[1]["clipped"]
    assert summaries[0]["rows_predicted_now"] < summaries[1]["rows_predicted_now"] == len(whole)


def test_a_full_disk_is_said_and_gone_on_from(feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    predict(feed, out, "--split", "train", *SMALL)
    sizes = sorted(len(content) for content in contents(out).values())
    with files_up_to(sizes[0] // 2):
        predict(feed, tmp_path / "full", "--split", "train", *SMALL, code=2)
    said = capsys.readouterr().err
    assert "part-00000.parquet.partial: cannot be written (" in said
    assert "File too large" in said
    assert not contents(tmp_path / "full")
    predict(feed, tmp_path / "full", "--split", "train", *SMALL)
    assert contents(tmp_path / "full") == contents(out)


def test_what_is_there_is_neither_mixed_nor_lost(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = predict(feed, out, *SMALL)
    before = contents(out)
    capsys.readouterr()
    assert predict(feed, out, *SMALL).equals(first)
    assert "rows, all predicted before; remove the directory to" in capsys.readouterr().out
    assert predict(feed, out, *SMALL, "--overwrite").equals(first)  # of the same, it replaces nothing
    assert "rows, all predicted before" in capsys.readouterr().out
    (out / "part-00001.parquet").unlink()
    (out / "_SUCCESS").unlink()
    predict(feed, out, *SMALL)
    assert contents(out) == before
    for argv, key in (
        (["--checkpoint", "step-3"], "checkpoint"),
        (["--split", "valid"], "input"),
        (["--ids"], "ids"),
        (["--batch-size", "7"], "batch_size"),
    ):
        predict(feed, out, *SMALL, *argv, code=2)
        said = capsys.readouterr().err
        assert f"{out}: holds predictions of another {key} (" in said
        assert "Fix: pass --overwrite, or give another --out" in said
    assert contents(out) == before
    valid = predict(feed, out, *SMALL, "--split", "valid", "--overwrite")
    assert valid.equals(predict(feed, tmp_path / "valid", *SMALL, "--split", "valid"))
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.txt").write_text("")
    predict(feed, tmp_path / "strange", "--overwrite", code=2)
    rule = "predictions have a directory of their own, and other files are never replaced"
    assert f"strange: holds thesis.txt, which `ple-rec predict` did not write; {rule}" in capsys.readouterr().err


def spark(folder: Path, part: str = "part-00000-6d1c-c000.snappy.parquet") -> str:
    """A folder as Spark writes it; its first file that is no prediction's."""
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"a": [1, 2]}), folder / part)
    (folder / "_SUCCESS").touch()
    return min(part, "_SUCCESS")


def split(folder: Path) -> str:
    """A split of a dataset of ours."""
    write_dataset(folder.parent / "dataset")
    (folder.parent / "dataset" / "test").rename(folder)
    return "part-00000.parquet"


def cut(folder: Path) -> str:
    """A copy of Parquet that has not ended."""
    folder.mkdir()
    (folder / "part-00000.parquet").write_bytes(b"PAR1")
    return "part-00000.parquet"


def work(folder: Path) -> str:
    """Somebody's `_work`."""
    (folder / "_work").mkdir(parents=True)
    (folder / "_work" / "thesis.tex").touch()
    return "_work"


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize("of_others", [spark, lambda folder: spark(folder, "part-00000.parquet"), split, cut, work])
def test_nothing_of_others_is_touched(
    feed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    of_others: Callable[[Path], str],
    overwrite: tuple[str, ...],
) -> None:
    out = tmp_path / "out"
    first = of_others(out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    predict(feed, out, *overwrite, code=2)
    said = capsys.readouterr().err
    assert f"{out}: holds {first}, which `ple-rec predict` did not write; predictions have a directory" in said
    assert "Fix: give another --out" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_parts_of_others_beside_predictions_are_refused(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    predict(feed, out, *SMALL)
    spark(out, "part-00007.parquet")
    before = contents(out)
    for argv in ((), ("--overwrite", "--split", "valid")):
        predict(feed, out, *SMALL, *argv, code=2)
        assert "holds part-00007.parquet, which `ple-rec predict` did not write" in capsys.readouterr().err
    assert contents(out) == before


def test_predictions_of_nobody_knows_what_are_replaced_only_when_asked(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = predict(feed, out, *SMALL)
    before = contents(out)
    (out / "_predict.json").write_text("")  # as a power cut leaves it
    (out / "_SUCCESS").unlink()
    predict(feed, out, *SMALL, code=2)
    said = capsys.readouterr().err
    assert f"{out}: holds predictions without _predict.json, so their run and input are unknown;" in said
    assert "Fix: pass --overwrite, or give another --out" in said
    assert contents(out) == before
    assert predict(feed, out, *SMALL, "--overwrite").equals(first)


def gone(out: Path) -> None:
    (out / "part-00001.parquet").unlink()


def all_gone(out: Path) -> None:
    for part in contents(out):
        (out / part).unlink()


def cut_short(out: Path) -> None:
    os.truncate(out / "part-00000.parquet", 100)


def one_more(out: Path) -> None:
    shutil.copy(out / "part-00000.parquet", out / f"part-{len(contents(out)):05d}.parquet")


def one_more_apart(out: Path) -> None:
    shutil.copy(out / "part-00000.parquet", out / "part-00042.parquet")


def another_number(out: Path) -> None:
    *_, short = sorted(contents(out))
    shutil.copy(out / short, out / "part-00000.parquet")


@pytest.mark.parametrize("damage", [gone, all_gone, cut_short, one_more, one_more_apart, another_number])
def test_success_is_believed_of_the_parts_that_it_says_alone(
    feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    first = predict(feed, out, *SMALL)
    before = contents(out)
    damage(out)
    capsys.readouterr()
    assert predict(feed, out, *SMALL).equals(first)
    found = capsys.readouterr()
    said = f"{out}: does not have the {len(before)} part(s) with {len(first)} rows of _SUCCESS; "
    assert found.err.count(said + "missing or damaged parts are predicted again") == 1
    assert "all predicted before" not in found.out
    assert contents(out) == before
    predict(feed, out, *SMALL)
    assert "all predicted before" in capsys.readouterr().out


def test_a_part_that_is_damaged_is_made_again(feed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(feed, out, *SMALL)
    before = contents(out)
    (out / "part-00000.parquet").write_bytes(before["part-00000.parquet"][:100])
    (out / "_SUCCESS").unlink()
    predict(feed, out, *SMALL)
    assert contents(out) == before
    assert pq.read_table(out).num_rows == json.loads((out / "_SUCCESS").read_text())["rows"]


def test_pages_have_checksums(feed: Path, tmp_path: Path) -> None:
    predict(feed, tmp_path / "out", *SMALL)
    part = tmp_path / "out" / "part-00000.parquet"
    assert pq.read_table(part, page_checksum_verification=True).num_rows
    column = pq.read_metadata(part).row_group(0).column(0)
    content = bytearray(part.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.read_table(part, page_checksum_verification=True)


def test_what_differs_is_named(tmp_path: Path) -> None:
    def asked(run: str, **exponents: float) -> dict[str, object]:
        tasks = {name: {"exponent": exponent, "link": None} for name, exponent in exponents.items()}
        return {"format": 1, "run": run, "fusion": {"tasks": tasks, "length": None}}

    with locked_output(tmp_path / "out") as output:
        output.begin(asked("a", income=1.0, married=1.0), overwrite=False)

        def said(now: dict[str, object]) -> str:
            with pytest.raises(UserError) as caught:
                output.begin(now, overwrite=False)
            return caught.value.value.removeprefix("holds predictions of another ")

        assert said(asked("a", income=1.652, married=1.0)) == "fusion (tasks.income.exponent 1.0 -> 1.652)"
        assert said(asked("b", income=1.0, married=1.0)) == 'run ("a" -> "b")'
        many = asked("a", income=2.0, married=2.0, p=1.0, q=1.0, r=1.0)
        shown = "tasks.income.exponent 1.0 -> 2.0, tasks.married.exponent 1.0 -> 2.0, "
        added = ", ".join(f'tasks.{name} null -> {{"exponent": 1.0, "link": null}}' for name in "pq")
        assert said(many) == f"fusion ({shown}{added}, and 1 more)"
