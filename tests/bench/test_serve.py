"""`ple-rec bench serve`: both servers are asked, too much is refused, and the final lines are of what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from ple_rec.bench.serve import figures, headline, lines, measure


@pytest.mark.slow
def test_both_servers_and_the_overload(tmp_path: Path) -> None:
    said: list[str] = []
    results = measure(tmp_path, 2_000, 50, 2, 1, 1, said.append)
    (turn,) = results["turns"]
    assert min(turn["predict"], turn["ours rate"], turn["plain rate"]) > 0
    assert turn["ours failed"] == turn["plain failed"] == 0
    assert results["overload"]["refused"] > 0
    assert results["overload"]["other"] == 0
    assert results["overload"]["served_after"] == 1
    found = figures(results)
    assert (found["int8_of_fp32"].value, found["int4_of_fp32"].value) == (0.375, 0.1875)
    assert headline(results).measured.value == turn["ours rate"]
    assert len(lines(results)) == 7 + 2
    assert results["dense_used"] in ("fp32", "bf16")
    assert any("refused by 503" in text for text in said)
