"""The benchmark of the worst requests: small ones are asked beside each body, and the table tells the longest."""

from __future__ import annotations

from ple_rec.bench.serve_worst import Held, beside, lines
from tests.serve.http.running import Running


def test_small_requests_are_timed_beside_each_body(server: Running) -> None:
    quiet, broken, refused, taken = beside(
        server.port, [("broken", b"{"), ("many", b'{"items": [' + b"{}," * 100_000), ("taken", b'{"items": [{}]}')]
    )
    assert (quiet.kind, broken.status, refused.status, taken.status) == ("nothing", 400, 413, 200)
    assert all(min(each.small) > 0 for each in (quiet, broken, refused, taken))
    assert min(broken.answered, refused.answered, taken.answered) > 0


def test_the_table_names_the_body_beside_which_they_took_longest() -> None:
    held = {
        "none": [Held("nothing", 0, 0.0, [1.0, 3.0])],
        "1 kB": [Held("a", 200, 7.0, [1.0, 9.0]), Held("b", 422, 8.0, [1.0, 30.0, 2.0])],
    }
    head, quiet, row = (line.split() for line in lines(held))
    assert head[0] == "body"
    assert quiet == ["none", "2.0", "1.0", "3.0"]
    assert row == ["1", "kB", "2.0", "9.0", "30.0", "b", "422", "8.0"]
