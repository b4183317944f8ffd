"""Look up known vulnerabilities of the pinned packages: `make audit`.

pip-audit, in an environment of its own, asks the package registry for its advisories. If none are available, a line
says so. A registry without advisories answers as if it did not know the package.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".venv-audit"
PIP_AUDIT = "pip-audit==2.10.1"
STACKS = (("cpu.txt", "cpu-no-deps.txt", "dev.txt"), ("cuda.txt", "cuda-no-deps.txt"))
# Packages that we cannot update, with the reason: their advisories are printed and do not fail the audit.
ACCEPTED = {"urllib3": "TorchX 0.7.0 requires urllib3 below 1.27"}


class NoAdvisoriesError(Exception):
    """No advisories are available here."""


def pins(*names: str) -> list[str]:
    """Return the pins of some requirement files, without their hashes."""
    texts = [(HERE / name).read_text(encoding="utf-8") for name in names]
    return [line.split()[0] for text in texts for line in text.splitlines() if not line.startswith("#")]


def audit(requirements: list[str]) -> list[Any]:
    """Return the report of pip-audit for each package.

    Raises:
        NoAdvisoriesError: pip-audit reached no registry, or one that has no advisories for any of the packages.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pins.txt")
        file.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        command = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip_audit", "--no-deps", "--disable-pip"]
        options = ["--progress-spinner", "off", "--format", "json", "--requirement", str(file)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    try:
        packages: list[Any] = json.loads(done.stdout)["dependencies"]
    except ValueError as error:
        raise NoAdvisoriesError(done.stderr.strip().rpartition("\n")[2]) from error
    if all("skip_reason" in package for package in packages):
        raise NoAdvisoriesError(packages[0]["skip_reason"])
    return packages


def main() -> int:
    """Print the advisories for the pinned packages.

    Returns:
        1 if a package outside ACCEPTED has an advisory, else 0.
    """
    if not ENVIRONMENT.exists():
        venv.create(ENVIRONMENT, with_pip=True)
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, PIP_AUDIT], check=True)
    try:
        # The first package shows whether the registry has advisories at all.
        audit(pins(*STACKS[0])[:1])
        packages = [package for stack in STACKS for package in audit(pins(*stack))]
    except NoAdvisoriesError as error:
        print(f"audit: SKIPPED, nothing was looked up: no advisories can be had here ({error})")
        return 0
    vulnerable = set()
    for package in packages:
        name, ids = package["name"], ", ".join(vuln["id"] for vuln in package.get("vulns", []))
        if ids:
            vulnerable.add(name)
        if finding := ids or package.get("skip_reason"):
            print(f"audit: {name} {package.get('version', '')}: {finding}. {ACCEPTED.get(name, '')}")
    print(f"audit: {len(packages)} packages, {len(vulnerable)} with advisories")
    return 1 if vulnerable - ACCEPTED.keys() else 0


if __name__ == "__main__":
    sys.exit(main())
