"""The page of a plan: its numbers are the plan's, nothing is lost, it stays small and well-formed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydantic import TypeAdapter

from ple_rec.config.cluster import PRESETS, Cluster, Device
from ple_rec.config.plan import PLAN_VERSION, PlanFile, StepEstimate, reserved_memory
from ple_rec.config.plan_table import AnyTablePlan, Costs, Kernel, Sharding, placement_keys
from ple_rec.errors import UserError
from ple_rec.reports.plan.bars import RankAxis, ticks
from ple_rec.reports.plan.page import plan_page, write_page
from ple_rec.reports.plan.sections import MAX_DRAWN_TABLES, percent, rank_spans, short_ms
from ple_rec.text.units import join_spans, short_bytes

COSTS = Costs(ids=0.01, lookup=0.2, output=0.3, gradient=0.1, update=0.05)
ESTIMATE = StepEstimate(
    lookup_ms=1.25,
    communication_ms=3.125,
    dense_ms=0.875,
    gradients_ms=0.375,
    loader_ms=2.5,
    step_ms=5.625,
    bound="communication",
    samples_per_second=2.75e6,
    epoch_samples=10**9,
    epoch_seconds=363.6,
)
VOID = {"meta", "link"}


def table(
    name: str,
    rows: int,
    dim: int = 16,
    *,
    sharding: Sharding = "table_wise",
    ranks: Sequence[int] = (0,),
    kernel: Kernel = "fused",
) -> AnyTablePlan:
    """A table on `ranks`; row-wise on all of the cluster."""
    content = {
        "table": name,
        "rows": rows,
        "dim": dim,
        "dtype": "fp32",
        "ids_per_sample": (1.0,),
        "sharding": sharding,
        "kernel": kernel,
        "cache_load_factor": 0.25 if kernel == "fused_uvm_caching" else None,
        "costs_ms": COSTS,
    }
    where = placement_keys(sharding, tuple(ranks), len(ranks))  # a host has as many ranks as a table on it
    found: AnyTablePlan = TypeAdapter(AnyTablePlan).validate_python(content | where)
    return found


def plan(
    tables: Sequence[AnyTablePlan],
    hosts: int = 1,
    ranks: int = 2,
    device: Device = "h100",
    estimate: StepEstimate | None = None,
) -> PlanFile:
    cluster = Cluster(hosts=hosts, ranks_per_host=ranks, hardware=PRESETS[device])
    return PlanFile(
        version=PLAN_VERSION,
        cluster=cluster,
        batch_size_per_rank=512,
        optimizer="rowwise_adagrad",
        reserved=reserved_memory(cluster, 3 << 20),
        tables=tuple(tables),
        estimate=estimate,
    )


SMALL = plan([table("user", 1_000_000), table("video", 300_000, 64, ranks=[1])], estimate=ESTIMATE)
MIXED = plan(
    [
        table("rows", 500_000_001, 64, sharding="row_wise", ranks=range(8)),
        table("host", 50_000, 32, sharding="table_row_wise", ranks=range(4, 8)),
        table("columns", 90_000, 64, sharding="column_wise", ranks=[7, 0, 2, 2]),
        table("few", 3, sharding="row_wise", ranks=range(8)),
        table("cached", 5_000_000, 64, ranks=[5], kernel="fused_uvm_caching"),
    ],
    hosts=2,
    ranks=4,
    estimate=ESTIMATE,
)


def many(count: int) -> PlanFile:
    """`count` tables of every sharding on 1,024 ranks of 128 hosts, no two ranks alike."""
    shardings: tuple[tuple[Sharding, range], ...] = (
        ("row_wise", range(1024)),
        ("table_row_wise", range(0, 8)),
        ("table_wise", range(1)),
        ("column_wise", range(0, 1024, 64)),
    )
    tables = []
    for i in range(count):
        sharding, ranks = shardings[i % 4]
        step = 8 if sharding == "table_row_wise" else 5
        moved = ranks if len(ranks) == 1024 else [(rank + i * step) % 1024 for rank in ranks]
        tables.append(table(f"table_{i}", 1000 + 7919 * i, 64, sharding=sharding, ranks=moved))
    return plan(tables, hosts=128, ranks=8, estimate=ESTIMATE)


@pytest.fixture(scope="module")
def large() -> PlanFile:
    return many(MAX_DRAWN_TABLES + 4)


class Page(HTMLParser):
    """The cells of every table row by their first cell, the text, and what is not closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.ids: list[str] = []
        self._row: list[str] | None = None
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [tag] * (tag not in VOID)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "tr":
            self._row = []
        elif tag in ("td", "th") and self._row is not None:
            self._row.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "tr" and self._row:
            self.rows.setdefault(self._row[0], []).append(self._row[1:])
            self._row = None

    def handle_data(self, data: str) -> None:
        if self._row and self.open[-1] in ("td", "th", "strong", "code", "small"):
            self._row[-1] += data


def svgs(page: str) -> list[ElementTree.Element]:
    """Every SVG, parsed as XML."""
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def words(element: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in element.iter() if node.tag.endswith("text")]


def chart(page: str, name: str) -> ElementTree.Element:
    """The SVG whose label begins with `name`."""
    (found,) = [svg for svg in svgs(page) if svg.get("aria-label", "").startswith(name)]
    return found


def heights(svg: ElementTree.Element, kind: str) -> list[float]:
    """Heights in pixels of the bars of a layer up to its upper edge, of charts with gaps."""
    (path,) = [node for node in svg.iter() if node.get("class") == f"layer {kind}"]
    bars = re.findall(r"M[\d.]+ (\d+)V([\d.]+)h", path.get("d", ""))
    return [float(base) - float(top) for base, top in bars]


@pytest.mark.parametrize("made", [SMALL, MIXED, plan([]), plan([table("t", 9)], 3, 7, "cpu")])
def test_the_page_is_well_formed_and_loads_nothing(made: PlanFile) -> None:
    source = plan_page(made, "a plan")
    page = Page(source)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    svgs(source)
    refers = set(re.findall(r'href="#([\w-]+)"|url\(#([\w-]+)\)', source))
    assert {a or b for a, b in refers} <= set(page.ids)
    assert "<script" not in source
    assert "http" not in source.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_the_summary_holds_least_median_and_most_of_every_rank() -> None:
    weights = [rank.hbm_weights for rank in SMALL.memory]
    assert weights == [64_000_000, 76_800_000]
    page = Page(plan_page(SMALL, "p"))
    assert page.rows["weights"] == [[short_bytes(each) for each in (64_000_000, 70_400_000, 76_800_000)]]
    taken = sorted(rank.hbm for rank in SMALL.memory)
    assert page.rows["together"] == [[short_bytes(each) for each in (taken[0], sum(taken) / 2, taken[1])]]


def test_bars_are_as_high_as_the_memory_of_their_ranks() -> None:
    svg = chart(plan_page(MIXED, "p"), "HBM of 8 ranks")
    edges = {"weights": 0.0, "optimizer": 0.0, "cache": 0.0, "batch": 0.0}
    total = max(rank.hbm for rank in MIXED.memory)
    scale = max(heights(svg, "batch")) / total
    for rank, memory in enumerate(MIXED.memory):
        edge = 0.0
        for kind in edges:
            edge += getattr(memory, f"hbm_{kind}")
            assert heights(svg, kind)[rank] == pytest.approx(edge * scale, abs=0.11)
    totals = [node.text for node in svg.iter() if node.get("class") == "total"]
    assert totals == [short_bytes(memory.hbm) for memory in MIXED.memory]


def test_the_cap_is_a_line_on_the_axis_where_tables_come_near_it() -> None:
    svg = chart(plan_page(MIXED, "p"), "HBM of 8 ranks")
    allowed = short_bytes(MIXED.allowed_hbm)
    assert allowed == "67.1 GiB"
    assert f"{allowed} allowed" in words(svg)
    assert "79.0 GiB in all" in words(svg)
    (cap,) = [node for node in svg.iter() if node.get("class") == "mark cap"]
    (reserve,) = [node for node in svg.iter() if node.get("class") == "hatched"]
    base, bar = 236.0, max(heights(svg, "batch"))
    expected = bar * MIXED.allowed_hbm / max(rank.hbm for rank in MIXED.memory)
    assert base - float(cap.get("y1", "nan")) == pytest.approx(expected, abs=0.2)
    share = float(reserve.get("height", "nan")) / (base - float(reserve.get("y", "nan")))
    assert share == pytest.approx(MIXED.reserved.hbm_bytes / MIXED.cluster.hbm_bytes, abs=0.002)


def test_a_cap_far_beyond_the_bars_is_named_with_its_distance() -> None:
    svg = chart(plan_page(SMALL, "p"), "HBM of 2 ranks")
    times = SMALL.allowed_hbm / max(rank.hbm for rank in SMALL.memory)
    assert f"67.1 GiB allowed: {times:,.0f} x the fullest rank" in words(svg)
    assert not [node for node in svg.iter() if node.get("class") == "mark cap"]
    assert max(heights(svg, "batch")) > 180


def test_a_plan_above_its_memory_says_so() -> None:
    page = plan_page(plan([table("huge", 10**9, 64)]), "p")
    assert "1 rank above the 67.1 GiB allowed" in page


def test_host_memory_has_a_chart_only_where_tables_are_in_it() -> None:
    assert "Host memory of each rank" not in plan_page(SMALL, "p")
    uvm = plan_page(MIXED, "p")
    assert "HBM of each rank" in uvm
    assert "Host memory of each rank" in uvm
    cpu = plan_page(plan([table("t", 1000)], device="cpu"), "p")
    assert "HBM of each rank" not in cpu
    assert "Host memory of each rank" in cpu


@pytest.mark.parametrize("made", [SMALL, MIXED, many(8)])
def test_the_shares_of_every_table_add_up(made: PlanFile) -> None:
    for entry in made.tables:
        found = rank_spans(made, entry)
        assert sum(run.share * (run.last - run.first + 1) for run in found) == pytest.approx(1, abs=1e-12)
        held = [rank for run in found for rank in range(run.first, run.last + 1)]
        assert held == sorted({shard.rank for shard in entry.shards(made.cluster) if shard.rows})


def test_two_shards_of_a_table_on_one_rank_are_one_share() -> None:
    (columns,) = (entry for entry in MIXED.tables if entry.table == "columns")
    assert rank_spans(MIXED, columns) == [(0, 0, 0.25), (2, 2, 0.5), (7, 7, 0.25)]


def test_the_map_draws_every_run_at_its_ranks() -> None:
    page = plan_page(MIXED, "p")
    svg = chart(page, "ranks 0, 2, 7: 25 % to 50 % each")
    rects = [node for node in svg.iter() if (node.get("class") or "").startswith("s")]
    places = [(float(node.get("x", "nan")), float(node.get("width", "nan"))) for node in rects]
    assert places == [(0, 70), (140, 70), (490, 70)]
    titles = [node[0].text for node in rects]
    assert titles == ["rank 0: 25 %", "rank 2: 50 %", "rank 7: 25 %"]
    assert "ranks 4-7: 25 % each" in page


def test_every_table_is_on_the_page_with_its_ranks_and_bytes(large: PlanFile) -> None:
    page = Page(plan_page(large, "p"))
    for entry in large.tables:
        *_, row = page.rows[entry.table]
        held = large.memory_of_table(entry)
        assert row[0] == f"{entry.rows:,}"
        assert row[3:6] == [short_bytes(held.weights), short_bytes(held.optimizer), short_bytes(held.batch)]
    assert page.rows["table_0"][-1][-2] == "0-999"
    assert page.rows["table_1"][-1][-2] == "8-15"
    assert sum(len(found) for name, found in page.rows.items() if name.startswith("table_")) == 2 * len(large.tables)


def test_more_tables_than_the_map_shows_are_folded_away(large: PlanFile) -> None:
    page = plan_page(large, "p")
    assert "4 smaller tables" in page
    assert page.count('<td class="map">') == MAX_DRAWN_TABLES


def test_a_page_of_1024_ranks_stays_small(large: PlanFile) -> None:
    assert len(plan_page(large, "p").encode()) < 600_000


def test_neighbours_of_one_value_are_one_shape() -> None:
    wide = plan([table("t", 1024 * 500, sharding="row_wise", ranks=range(1024))], hosts=128, ranks=8)
    page = plan_page(wide, "p")
    assert page.count("ranks 0-1023: 0.0977 % each") == 2
    assert len(page) < 90_000


def test_names_are_escaped() -> None:
    page = plan_page(plan([table("<b>&'\"x", 1000)]), "<i>title&")
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;&amp;&#39;&#34;x" in page
    assert "&lt;i&gt;title&amp;" in page


def test_the_estimate_is_on_the_page() -> None:
    page = plan_page(SMALL, "p")
    for figure in ("5.62 ms", "2.75 M", "6 min 04 s", "3.12 ms of 5.62 ms"):
        assert figure in page
    rows = Page(page).rows
    assert [rows[part][0][0] for part in ("lookup", "dense", "gradients", "loader")] == [
        "1.25",
        "0.875",
        "0.375",
        "2.5",
    ]
    assert rows["communication, the bound"][0][:2] == ["3.12", "55.6 %"]
    pieces = [node for node in chart(page, "A step of 5.62 ms").iter() if (node.get("class") or "").startswith("layer")]
    widths = [float(node.get("width", "nan")) for node in pieces]
    assert [width / widths[0] for width in widths] == pytest.approx([1, 2.5, 0.7, 0.3, 2], rel=0.01)


def test_a_step_that_waits_for_its_loader_shows_the_wait() -> None:
    slow = ESTIMATE.model_copy(update={"loader_ms": 10.0, "step_ms": 10.0, "bound": "loader"})
    page = plan_page(plan([table("t", 1000)], estimate=slow), "p")
    assert "waits 4.38 ms for the loader" in words(chart(page, "A step of 10 ms"))


def test_imbalance_is_of_the_busiest_rank_over_the_mean() -> None:
    made = plan([table("a", 1000), table("b", 1000, ranks=[1]), table("c", 1000, ranks=[1])])
    page = plan_page(made, "p")
    assert COSTS.total() == pytest.approx(0.66)
    assert "<dd>1.33<small>rank 1: 1.32 ms, mean 0.99 ms</small></dd>" in page
    assert "0.99 ms mean" in words(chart(page, "Time of the tables on 2 ranks"))


def test_a_plan_without_estimate_has_no_figures_of_it() -> None:
    page = plan_page(plan([table("t", 1000)]), "p")
    assert "has no estimate" in page
    assert "Samples per second" not in page
    assert "Lookup and communication of each rank" in page


def test_a_plan_without_tables_says_so() -> None:
    page = plan_page(plan([], estimate=ESTIMATE), "p")
    assert "No rank holds a row of a table." in page
    assert page.count("The model has no embedding tables.") == 2
    assert "A step takes" in page


def test_hardware_stands_under_the_names_of_the_topology() -> None:
    rows = Page(plan_page(SMALL, "p")).rows
    assert rows["hbm_gb_per_s"][0][0] == "3,350"
    assert rows["loader_rows_per_s"][0][0] == "2,000,000"
    assert "hbm_gib" not in Page(plan_page(plan([], device="cpu"), "p")).rows


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    write_page(tmp_path / "plan.html", SMALL, "p")
    assert (tmp_path / "plan.html").read_text(encoding="utf-8") == plan_page(SMALL, "p")
    assert [file.name for file in tmp_path.iterdir()] == ["plan.html"]


def test_a_page_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        write_page(tmp_path / "absent" / "plan.html", SMALL, "p")
    assert caught.value.place == str(tmp_path / "absent" / "plan.html")
    assert caught.value.value == "cannot be written (No such file or directory)"


@pytest.mark.parametrize(
    ("hosts", "ranks", "every", "band"), [(1, 2, 1, 1), (8, 8, 4, 1), (128, 8, 64, 2), (3, 7, 7, 1), (1, 700, 50, 1)]
)
def test_labels_of_ranks_stand_apart_and_begin_at_hosts(hosts: int, ranks: int, every: int, band: int) -> None:
    cluster = Cluster(hosts=hosts, ranks_per_host=ranks, hardware=PRESETS["cpu"])
    axis = RankAxis(cluster, 0.0, 560 / (hosts * ranks))
    assert (axis.ranks_per_label(), axis.hosts_per_band()) == (every, band)


def test_spans_of_ranks_are_joined() -> None:
    assert join_spans([8, 2, 0, 1, 1, 5, 6]) == "0-2, 5-6, 8"
    assert join_spans([]) == ""


def test_ticks_are_round() -> None:
    assert ticks(80.6, 1.0) == [0, 20, 40, 60, 80]
    assert ticks(0.39, 1.0) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert ticks(3 << 30, 1 << 30) == [n << 29 for n in range(7)]


def test_shares_and_times_keep_three_digits() -> None:
    assert [percent(share) for share in (0, 1e-7, 1 / 1024, 0.125, 1)] == [
        "0 %",
        "< 0.001 %",
        "0.0977 %",
        "12.5 %",
        "100 %",
    ]
    assert [short_ms(value) for value in (0, 1e-5, 0.02971, 13.64, 1240.4)] == [
        "0 ms",
        "< 0.001 ms",
        "0.0297 ms",
        "13.6 ms",
        "1,240 ms",
    ]
