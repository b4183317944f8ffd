"""What a dry run knows of a log that it does not read whole, and how long it takes."""

from __future__ import annotations

import gzip
import io
import re
import time
import tomllib
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from data_prep import dry_run as dry_run_module
from data_prep.dry_run import dry_run
from data_prep.expressions import parse
from data_prep.progress import Progress
from data_prep.run import Options
from data_prep.sources import sample
from data_prep.sources.find import FoundFile
from data_prep.sources.sample import sample_csv
from data_prep.sources.text import CountingStream
from ple_rec.config.prep import CsvConfig
from ple_rec.errors import DataError, UserError
from tests.data_prep.plain_logs import DAY_1, DAY_MS, SIDE, TOML, Logs, day_of, with_column

CSV = TOML.replace('files = ["log"]', 'files = ["*.csv*"]')
ROWS = 20_000  # of a file, about 0.8 MB


def run(logs: Logs, *overrides: str) -> str:
    return str(dry_run(str(logs.toml), None, Options(source=str(logs.raw), threads=1, overrides=overrides)))


def write_csv(logs: Logs, packed: bool = False) -> int:
    """Four files of a day each; how many bytes of text they hold."""
    size = 0
    for day in range(1, 5):
        sink = pa.BufferOutputStream()
        pacsv.write_csv(day_of(day, ROWS).set_column(2, "time_ms", times(day)), sink)
        data = sink.getvalue().to_pybytes()
        size += len(data)
        name = logs.raw / f"day{day}.csv"
        if packed:
            name.with_suffix(".csv.gz").write_bytes(gzip.compress(data))
        else:
            name.write_bytes(data)
    return size


def times(day: int) -> pa.Array:
    return pa.array(DAY_1 + (day - 1) * DAY_MS + np.arange(ROWS))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Little is read of CSV files; how much in all."""
    monkeypatch.setattr(sample, "FIRST_BYTES", 200_000)
    monkeypatch.setattr(sample, "OTHER_BYTES", 400_000)
    read: list[int] = []
    plain = CountingStream.read

    def counted(stream: CountingStream, size: int = 1 << 20) -> bytes:
        data = plain(stream, size)
        read.append(len(data))
        return data

    monkeypatch.setattr(CountingStream, "read", counted)
    return read


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_of_long_csv_files_the_beginnings_are_read(packed: bool, tmp_path: Path, short: list[int]) -> None:
    logs = Logs(tmp_path, CSV)
    size = write_csv(logs, packed)
    text = run(logs)
    found = re.search(r"log +4 file\(s\) +about ([\d,]+) rows", text)
    assert found is not None, text
    loose = 0.5 if packed else 0.1  # a packed file is read ahead, which counts where so little is read
    assert int(found[1].replace(",", "")) == pytest.approx(4 * ROWS, rel=loose)
    assert re.search(r"\n  sample       [\d,]+ rows: from the beginnings of 4 file\(s\), in CSV\n", text)
    assert "\n  not known    whether each day and split has rows, and what the other rows hold\n" in text
    # The beginnings, and again for the second count of rows; a block for each header, and one to infer types from.
    assert size > 3_000_000
    assert sum(short) < 2 * 600_000 + 8 * 200_000


def test_a_short_csv_file_is_read_whole(tmp_path: Path) -> None:
    logs = Logs(tmp_path, CSV)
    write_csv(logs)
    text = run(logs)
    assert re.search(rf"log +4 file\(s\) +{4 * ROWS:,} rows", text)
    assert "  not known " not in text
    (logs.raw / "day3.csv").unlink()
    with pytest.raises(DataError, match=r"split\.valid: no row on 2022-04-17"):
        run(logs)


def test_a_day_that_a_sample_lacks_is_not_refused(tmp_path: Path, short: list[int]) -> None:
    logs = Logs(tmp_path, CSV)
    write_csv(logs)
    (logs.raw / "day3.csv").unlink()
    assert "whether each day and split has rows" in run(logs)


def test_of_a_side_table_that_is_cut_it_is_said(tmp_path: Path, short: list[int]) -> None:
    logs = Logs(tmp_path, TOML + SIDE.replace("users.parquet", "users.csv"))
    users = "".join(f"{i},a{i % 7}\n" for i in range(50_000))
    (logs.raw / "users.csv").write_text("user_id,age\n" + users)
    text = run(logs)
    found = re.search(r"not known    of users the first ([\d,]+) rows are read: its columns look emptier", text)
    assert found is not None, text
    assert 10_000 < int(found[1].replace(",", "")) < 40_000
    assert re.search(r"users +1 file\(s\) +about [45]\d,\d{3} rows", text)


def test_a_side_table_that_is_cut_refuses_no_row(tmp_path: Path, short: list[int]) -> None:
    """The label of each user stands in the table, if not in what is read of it."""
    toml = TOML.replace('label = "is_like"', 'label = "users.liked"') + SIDE.replace("users.parquet", "users.csv")
    logs = Logs(tmp_path, toml)
    rows = "".join(f"{i},{i % 50},{i % 2}\n" for i in reversed(range(50_000)))
    (logs.raw / "users.csv").write_text("user_id,age,liked\n" + rows)
    options = Options(source=str(logs.raw), threads=1)
    found = dry_run(str(logs.toml), None, options)
    assert not found.refused
    assert re.search(r"bad rows +100\.00% break .* \(perhaps fewer, since not all side rows are read\)\n", str(found))
    logs.prepare()
    (logs.raw / "users.csv").write_text("user_id,age,liked\n" + "".join(f"{i},1,1\n" for i in range(6)))
    found = dry_run(str(logs.toml), None, options)
    assert found.refused
    assert "(prep will refuse the log)\n" in str(found)


def test_the_first_day_of_a_sample_refuses_no_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of days that do not ascend the earliest may lie where no row is read."""
    logs = Logs(tmp_path)
    for file, day in enumerate((2, 1, 3, 4, 5), start=1):
        logs.write(file, day_of(day))
    days = "split={by='day',train=[1,2],valid=['2022-04-17','2022-04-17'],test=['2022-04-18','2022-04-18']%s}"
    logs.prepare(days % "")
    monkeypatch.setattr(dry_run_module, "SAMPLE_ROWS", 8)
    assert "  sample       24 rows: beginning, middle and end of the log\n" in run(logs, days % "")
    with pytest.raises(UserError, match="valid: it begins on 2022-04-17, train ends on 2"):
        run(logs, days % ",day_1='2022-04-16'")


def test_a_column_that_a_csv_file_lacks(tmp_path: Path, short: list[int]) -> None:
    logs = Logs(tmp_path, CSV)
    write_csv(logs)
    with pytest.raises(DataError, match=r"day1\.csv, column 'pric'.*plain\.toml: dense\[0\]\.value `pric` needs it"):
        run(logs, "dense[0].value=pric")


def test_a_beginning_ends_with_a_whole_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f'{i},"line one\nline ""two"" of {i}"\n' for i in range(2_000))
    path = tmp_path / "notes.csv"
    path.write_text("id,note\n" + rows)
    file = FoundFile(str(path), "notes.csv", path.stat().st_size, {})
    for limit in range(9_000, 9_040):  # a cut at each place of a row
        monkeypatch.setattr(sample, "FIRST_BYTES", limit)
        found = sample_csv("log", [file], CsvConfig(), tmp_path / "staging")
        assert not found.is_complete
        notes = pq.read_table(found.table.files[0].path)["note"].to_pylist()
        assert notes == [f'line one\nline "two" of {i}' for i in range(len(notes))]
        assert found.rows == pytest.approx(2_000, rel=0.1)


def test_of_very_many_files_some_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "MAX_FILES", 3)
    for i in range(10):
        (tmp_path / f"{i}.csv").write_text("x\n" + f"{i}\n" * 100)
    files = [FoundFile(str(path), path.name, path.stat().st_size, {}) for path in sorted(tmp_path.glob("*.csv"))]
    found = sample_csv("log", files, CsvConfig(), tmp_path / "staging")
    assert [file.display_name for file in found.table.files] == ["0.csv", "3.csv", "6.csv"]
    assert (found.files, found.table.rows, found.is_complete) == (10, 300, False)
    assert found.rows == pytest.approx(1_000, rel=0.02)


def test_it_tells_how_many_rows_where_takes(tmp_path: Path) -> None:
    text = run(Logs(tmp_path), "log.where=user_id < 5")
    assert "  sample       70 rows: the whole log; those of 96 that log.where keeps\n" in text


def test_it_tells_which_day_is_in_which_split(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.write(6, day_of(6))  # a day later than all, after one without a row
    text = run(logs, 'sampling={keep="user_id = 0",rate=0.01,hash=["user_id"]}')
    assert (
        "  days         2022-04-15 to 2022-04-16 train\n"
        "               2022-04-17               valid\n"
        "               2022-04-18               test\n"
        "               2022-04-20               none\n"
    ) in text
    shared = run(logs, 'split={by="day",train=[1,3],test=[4,4],valid_share=0.5}')
    assert "2022-04-15 to 2022-04-17 train\n               2022-04-18               valid, test\n" in shared
    logs.toml.write_text(TOML.replace(TOML[TOML.index("[time]") : TOML.index("[checks]")], ""))
    assert "  days " not in run(logs, 'split={by="hash",value="user_id",valid=0.3,test=0.3}')


def test_a_table_that_is_too_small_is_told(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + "\n[tables.video_id]\ncapacity = 4\n")
    assert "capacity     table video_id: 4 rows for about 5 values, the rarest of which share row 0\n" in run(logs)
    assert "  capacity " not in run(logs, "tables.video_id.capacity=6")


def test_the_rows_of_a_table_are_those_that_prep_makes(tmp_path: Path) -> None:
    """Of values of train alone, that occur often enough in all features of the table together."""
    shared = '\n[[sparse]]\nname = "other"\ntable = "video_id"\n[tables.video_id]\nmin_count = 3\n'
    logs = Logs(tmp_path, TOML + shared)
    for day in range(1, 5):
        videos = [f"v{day}" if i < 20 else f"rare{day}{i}" for i in range(24)]
        table = with_column(day_of(day), "video_id", videos)
        logs.write(day, table.append_column("other", pa.array([f"v{day}" if i else f"rare{day}23" for i in range(24)])))
    told = re.search(r"tables       1, with about (\d+) rows", run(logs))
    assert told is not None
    assert int(told[1]) == logs.prepare().schema.table_rows()["video_id"] == 3
    assert re.search(r"video_id +rows of table video_id +2 +2\n", run(logs))


def test_a_value_counts_where_its_share_of_the_sample_promises_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of five videos stands in 9 or 10 training rows; of 12 of these, one does so once."""
    logs = Logs(tmp_path, TOML + "\n[tables.video_id]\nmin_count = 8\n")
    assert re.search(r"table video_id +5 +5\n", run(logs))
    monkeypatch.setattr(dry_run_module, "SAMPLE_ROWS", 8)
    assert re.search(r"table video_id +4 +4\n", run(logs))


def test_features_of_several_types_that_share_a_table(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + '\n[[sparse]]\nname = "user_id"\ntable = "video_id"\n')
    with pytest.raises(UserError, match=r"tables\.video_id: video_id gives string, user_id gives int64"):
        run(logs)


BAG = """
[[sparse]]
name = "tags"
bag = true
value = "%s"
"""


def test_a_list_that_pandas_wrote_is_warned_of_and_the_docs_take_it_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs = Logs(tmp_path, TOML + BAG % "split(tags, ',')")
    for day in range(1, 5):
        logs.write(day, day_of(day).append_column("tags", pa.array(["['03061', '08648']", "[]", "['17']"] * 8)))
    run(logs)
    logs.prepare()
    sampled, made = caplog.messages
    assert sampled == made
    assert made.startswith("sparse feature tags: 4 of 4 values begin with a bracket, a quote or a blank, such as")
    page = (Path(__file__).resolve().parents[2] / "docs" / "prep.md").read_text()
    lines = re.findall(r'^    (value = "split\(replace.*")$', page, re.MULTILINE)
    lists = [["03061", "08648"], [], ["17"]]
    texts = [str(items) for items in lists], [str(np.array(items)) for items in lists]
    for line, history in zip(lines, texts, strict=True):
        rows = ibis.memtable(pa.table({"history": history}))
        taken = parse(tomllib.loads(line)["value"], "docs").build({"history": rows.history})
        assert ibis.duckdb.connect().to_pyarrow(taken).to_pylist() == lists


def test_keys_that_keep_settles_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = Logs(tmp_path, TOML + SIDE)
    logs.users([{"user_id": user, "age": age} for age in (1, 2) for user in (None, 3, 5, age + 10)])
    run(logs, "sides.users.keep=last")
    logs.prepare("sides.users.keep=last")
    told = (
        'side table users: 2 keys occur in several rows each, 4 in total; keep = "last" chooses one row per key. The '
        "first such key: user_id = 3"
    )
    assert caplog.messages == [told, told]


def test_a_key_of_a_dated_table_that_keep_settles_is_named_with_its_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs = Logs(tmp_path, TOML + SIDE)
    logs.users([{"user_id": 3, "day": f"2022-04-{day}", "age": 30} for day in (14, 15, 15)])
    run(logs, "sides.users.keep=first", "sides.users.day=day")
    (told,) = caplog.messages
    assert told.endswith(
        '1 keys occur in several rows each, 2 in total; keep = "first" chooses one row per key. The first such key: '
        "user_id = 3 on 2022-04-15"
    )


def test_progress_bears_the_name_of_the_configuration(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    stream = io.StringIO()
    logs.toml = logs.toml.rename(tmp_path / "other.toml")
    dry_run(str(logs.toml), None, Options(source=str(logs.raw), threads=1), progress=Progress(stream=stream))
    assert stream.getvalue().startswith("plain: log: reading the footers of 4 file(s)\n")


def test_progress_names_phases_and_rows(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    stream = io.StringIO()
    progress = Progress("plain", stream)
    dry_run(str(logs.toml), None, Options(source=str(logs.raw), threads=1), progress=progress)
    assert "plain: sampling 96 of 96 rows of the log\n" in stream.getvalue()
    assert progress.state(time.monotonic())[0] in (0.5, 0.75, 1.0)


def test_many_columns_take_seconds(tmp_path: Path) -> None:
    """Every query over the derived rows is compiled without them; it took a minute of CPU time when it was not."""
    count = 50
    features = "".join(f'\n[[sparse]]\nname = "s{i}"\n\n[[dense]]\nname = "d{i}"\n' for i in range(count))
    logs = Logs(tmp_path, TOML + features)
    for day in range(1, 5):
        table = day_of(day)
        for i in range(count):
            table = table.append_column(f"s{i}", pa.array(range(table.num_rows)))
            table = table.append_column(f"d{i}", pa.array(np.arange(table.num_rows) / 2))
        logs.write(day, table)
    began = time.process_time()
    text = run(logs)
    assert time.process_time() - began < 15
    assert text.count("rows of table s") == 39  # and 12 more
    assert "  ... and 11 sparse features more\n" in text
