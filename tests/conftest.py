"""What every test shares: pinned threads, the `gpu`, `data` and `spark` markers, the place of the real feed logs."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ple_rec.runtime.versions import find_spark_problem
from tests.compiled_queries import remember_compiled_queries
from tests.costs import Costs
from tests.project_files import REPOSITORY
from tests.skips import skip_summary
from tests.worlds import copy_inputs, shared_world

if TYPE_CHECKING:
    from ple_rec.inference.ranker import Ranker
    from tests.serving.page.browser import Browser

# The number of threads changes bits, and ranks that each start one thread a core collapse: one, before torch loads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
gc.disable()  # While tests are collected, nothing is freed that would be worth the search: 1.5 of 11 s.
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
# `nohup make test &` starts with SIGINT ignored, and so would everything that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

_spark_lacks = cache(find_spark_problem)


def pytest_configure(config: pytest.Config) -> None:
    """Spark interprets its plans where slow tests are left out, and compiles them, as it does for users, with those."""
    name = "interpreted" if config.option.markexpr == "not slow" else "compiled"
    os.environ.setdefault("SPARK_CONF_DIR", str(REPOSITORY / "tests" / "data_prep" / "spark_conf" / name))
    config.pluginmanager.register(Costs())


def pytest_collection_finish() -> None:
    """What the imports of all tests have made stays: no collection has to look at it again."""
    remember_compiled_queries()
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests were skipped, what they need, and how to get it."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = [report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple)]
    if summary := skip_summary(reasons):
        terminalreporter.write_line("")
        terminalreporter.write_line(summary)


def feed_log_folder() -> Path:
    """Folder of the real feed logs: `kuairand` below $PLE_REC_DATA, else below `../shared/data` of the repository."""
    return Path(os.environ.get("PLE_REC_DATA", REPOSITORY.parent / "shared" / "data")) / "kuairand"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, a test whose device or data is not here; else start it from the same random numbers."""
    if item.get_closest_marker("data") and not any(feed_log_folder().glob("log_standard_*.parquet")):
        pytest.skip(f"no log_standard_*.parquet in {feed_log_folder()}; set PLE_REC_DATA to the folder above kuairand/")
    if item.get_closest_marker("spark") and (lacks := _spark_lacks()):
        pytest.skip(f"{lacks[0]}; {lacks[1]}")
    if marker := item.get_closest_marker("gpu"):
        import torch

        needed = marker.args[0] if marker.args else 1
        if not torch.cuda.is_available():
            pytest.skip(f"needs {needed} GPU(s); torch sees no CUDA device")
        if torch.cuda.device_count() < needed:
            pytest.skip(f"needs {needed} GPUs; torch sees {torch.cuda.device_count()}")
    if "torch" in sys.modules:  # a bound that holds for these numbers holds in every run
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The endpoint of one small S3 server for all modules; tests take `s3`, which empties it."""
    from tests.object_store import free_port, s3_server

    with s3_server(free_port()) as url:
        yield url


@pytest.fixture(scope="module", params=["moto", pytest.param("ceph", marks=pytest.mark.slow)])
def s3(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The environment that names a server with an empty bucket."""
    from tests.object_store import s3_store

    with s3_store(request) as found:
        yield found


@pytest.fixture
def address(s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of its own in the store that the environment names, whose copies go to a folder of the test."""
    from tests.object_store import use_store

    use_store(s3["AWS_ENDPOINT_URL"], monkeypatch)
    for name, value in (s3 | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PLE_REC_CACHE", str(tmp_path / "cache"))
    return f"s3://bucket/{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    """Put the handlers of stop signals back: torch's agent, run in a test's process, leaves its own."""
    before = {number: signal.getsignal(number) for number in _STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def feed_logs() -> Path:
    """Folder with the real KuaiRand logs, for tests marked `data`."""
    return feed_log_folder()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the clone."""
    return REPOSITORY


@pytest.fixture(scope="module")
def no_charts() -> Iterator[None]:
    """Reports without their charts, as of `tests.reports.without_charts`."""
    from tests.reports.without_charts import without_charts

    with without_charts():
        yield


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One headless browser for all tests of pages."""
    from tests.serving.page.browser import BROWSER, BROWSERS, Browser

    if BROWSER is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} on PATH")
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="session")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a prepared dataset that has everything: `raw/`, `data/` and `run/`; who changes them copies."""
    from tests.inference.feed import train_feed, write_logs

    return shared_world(tmp_path_factory, "feed", lambda root: train_feed(write_logs(root)))


@pytest.fixture(scope="session")
def rates_feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `feed` with rates: `raw/`, `data/` and `run/`; who changes them copies."""
    from tests.inference.rates_feed import train_rates_feed

    return shared_world(tmp_path_factory, "rates_feed", train_rates_feed)


@pytest.fixture(scope="session")
def rates_model(rates_feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 of that run, exported with its rates and with both side tables; who changes it copies."""
    from tests.inference.exported import export_run

    source = ["--tables", "users", "videos", "--from", str(rates_feed / "raw")]
    root = shared_world(
        tmp_path_factory, "rates_model", lambda root: export_run(rates_feed / "run", root / "model", *source)
    )
    return root / "model"


@pytest.fixture(scope="session")
def rates_child(rates_feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of day 6, appended to that of `rates_feed`."""
    from tests.inference.rates_feed import append_day

    root = shared_world(
        tmp_path_factory,
        "rates_child",
        lambda root: append_day(copy_inputs(rates_feed, root), rates_feed / "data", root / "data"),
    )
    return root / "data"


@pytest.fixture(scope="session")
def history_feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with histories, and a run for each kind of `model.history`, named by it; who changes them copies."""
    from tests.inference.history_feed import prepare_history_feed, train_on_histories

    def make(root: Path) -> None:
        prepare_history_feed(root)
        train_on_histories(root, "mean")
        train_on_histories(root, "din")

    return shared_world(tmp_path_factory, "history_feed", make)


@pytest.fixture(scope="session")
def history_child(history_feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of day 6, appended to that of `history_feed`: `data/`, with all logs in `raw/`."""
    from tests.inference.rates_feed import append_day

    return shared_world(
        tmp_path_factory,
        "history_child",
        lambda root: append_day(copy_inputs(history_feed, root), history_feed / "data", root / "data"),
    )


@pytest.fixture(scope="session")
def history_model(history_feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 of the run "mean", exported with the events of both histories and both side tables."""
    from tests.inference.exported import export_run

    source = ["--tables", "users", "videos", "--from", str(history_feed / "raw")]
    root = shared_world(
        tmp_path_factory, "history_model", lambda root: export_run(history_feed / "mean", root / "model", *source)
    )
    return root / "model"


@pytest.fixture(scope="session")
def feed_model(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 of that run, exported in fp32; who changes it copies."""
    from tests.inference.exported import export_run

    root = shared_world(tmp_path_factory, "feed_model", lambda root: export_run(feed / "run", root / "model"))
    return root / "model"


@pytest.fixture
def same_program(feed_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of the run `feed` copy the dense program of `feed_model`; to trace it takes most of an export's time."""
    from ple_rec.inference.program import PROGRAM
    from ple_rec.inference.ranker import latest_version

    def copied(model: object, signature: object, folder: Path, *, onnx: bool) -> None:
        assert not onnx
        shutil.copyfile(latest_version(feed_model) / PROGRAM, folder / PROGRAM)

    monkeypatch.setattr("ple_rec.inference.export.write_program", copied)


@pytest.fixture(scope="session")
def ranker(feed_model: Path) -> Ranker:
    """That version in memory."""
    from ple_rec.inference.ranker import Ranker, latest_version

    return Ranker(latest_version(feed_model), threads=1)
