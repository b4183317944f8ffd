"""Look the pinned packages up among known vulnerabilities: `make audit`.

pip-audit, in an environment of its own, asks the package registry for its advisories. Where they cannot be had, a line
says so; a registry without advisories answers as if it did not know the package.
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
HELD = {"urllib3": "TorchX 0.7.0 requires urllib3 below 1.27"}  # what we cannot mend is told, and fails nothing


class NoAdvisoriesError(Exception):
    """The advisories cannot be had here."""


def pins(*names: str) -> list[str]:
    """Return the pins of some requirement files, without their hashes."""
    texts = [(HERE / name).read_text(encoding="utf-8") for name in names]
    return [line.split()[0] for text in texts for line in text.splitlines() if not line.startswith("#")]


def audit(wanted: list[str]) -> list[Any]:
    """Return what pip-audit says of each package.

    Raises:
        NoAdvisoriesError: pip-audit reached no registry, or one that has no advisories for any of the packages.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pins.txt")
        file.write_text("\n".join(wanted) + "\n", encoding="utf-8")
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
    """Print what is known of the pinned packages.

    Returns:
        1 where a package that is not in HELD has an advisory, else 0.
    """
    if not ENVIRONMENT.exists():
        venv.create(ENVIRONMENT, with_pip=True)
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, PIP_AUDIT], check=True)
    try:
        audit(pins(*STACKS[0])[:1])  # one package tells whether there are advisories
        packages = [package for stack in STACKS for package in audit(pins(*stack))]
    except NoAdvisoriesError as error:
        print(f"audit: SKIPPED, nothing was looked up: no advisories can be had here ({error})")
        return 0
    vulnerable = set()
    for package in packages:
        name, ids = package["name"], ", ".join(vuln["id"] for vuln in package.get("vulns", []))
        if ids:
            vulnerable.add(name)
        if told := ids or package.get("skip_reason"):
            print(f"audit: {name} {package.get('version', '')}: {told}. {HELD.get(name, '')}")
    print(f"audit: {len(packages)} packages, {len(vulnerable)} with advisories")
    return 1 if vulnerable - HELD.keys() else 0


if __name__ == "__main__":
    sys.exit(main())
