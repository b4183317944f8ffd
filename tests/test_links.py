"""README.md and docs: every link within the repository leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path


def _anchors(page: str) -> set[str]:
    """Of the headings, as they are rendered: lower case, spaces to dashes, punctuation gone."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_link_is_dead(repository: Path) -> None:
    pages = [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]
    checked, dead = 0, []
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text()):
            path, _, anchor = "".join(link).partition("#")
            if path.startswith(("http://", "https://")):
                continue
            target = (page.parent / path) if path else page
            checked += 1
            if not target.exists() or (anchor and anchor not in _anchors(target.read_text())):
                dead.append(f"{page.name}: {''.join(link)}")
    assert not dead
    assert checked > 20
