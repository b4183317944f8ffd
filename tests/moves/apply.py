"""Apply `moves.toml`: move the files of modules, and change every reference to a module or a name that has moved.

Imports and names are changed in the syntax tree, by what each name refers to; dotted names and paths in strings,
comments and other files by their text.

    pip install libcst==1.9.0
    python -m tests.moves.apply              move this project's files, and change all of them
    python -m tests.moves.apply FILE ...     change files of one's own, in place
    python -m tests.moves.apply --check REV  compare the syntax trees of all modules with those of a revision
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import libcst as cst
from libcst.helpers import get_full_name_for_node
from libcst.metadata import MetadataWrapper, QualifiedNameProvider, QualifiedNameSource

TABLE = Path(__file__).with_name("moves.toml")
_KEPT = ("CHANGELOG.md", "tests/golden/artefacts", "tests/moves/")  # Files that speak of the past.
_FOLDERS = ("ple_rec", "data_prep", "tests")  # Others have no files that are not Python and move.
_TEXTS = {
    ".cfg",
    ".css",
    ".html",
    ".Dockerfile",
    ".in",
    ".j2",
    ".js",
    ".md",
    ".py",
    ".sh",
    ".svg",
    ".toml",
    ".txt",
    ".yaml",
    "",
}


@dataclass(frozen=True)
class Moves:
    """The table.

    Args:
        modules: New dotted name of each module or package that has moved, by its old one.
        names: New name of each class or function, by its old one with the module that held it.
    """

    modules: dict[str, str]
    names: dict[str, str]

    @classmethod
    def read(cls) -> Moves:
        """Return the table of `moves.toml`."""
        table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
        return cls(table["modules"], table["names"])

    def module(self, dotted: str) -> str:
        """Return the new name of a module, by the entry of the module itself or of the nearest package above it."""
        head, tail = dotted, ""
        while head not in self.modules:
            head, dot, last = head.rpartition(".")
            if not dot:
                return dotted
            tail = f".{last}{tail}"
        return self.modules[head] + tail

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Pattern of the old modules as they stand in texts: dotted, or as a path."""
        old = sorted(self.modules, key=len, reverse=True)
        dotted = "|".join(re.escape(name) for name in old)
        paths = "|".join(re.escape(name.replace(".", "/")) for name in old)
        return re.compile(rf"(?<![\w./])(?:{dotted})(?![\w/])|(?<!\w)(?:{paths})(?=\.py\b|/|:|`|\"|'|\s|$)", re.M)

    def in_text(self, text: str) -> str:
        """Return a text with the new names of modules."""

        def new(match: re.Match[str]) -> str:
            old = match[0]
            return self.modules[old.replace("/", ".")].replace(".", "/") if "/" in old else self.modules[old]

        return self.pattern.sub(new, text)


class References(cst.CSTTransformer):
    """Changes the imports and the names of a file.

    Args:
        moves: The table.
        module: Old dotted name of the file's module.
    """

    METADATA_DEPENDENCIES = (QualifiedNameProvider,)

    def __init__(self, moves: Moves, module: str) -> None:
        self._moves, self._module = moves, module
        self._tails = {old: new.rpartition(".")[2] for old, new in moves.modules.items()}

    def _renamed(self, node: cst.CSTNode, word: str) -> str:
        """Return the new form of a name that stands for a moved class, function or module."""
        for found in self.get_metadata(QualifiedNameProvider, node, set()):
            full = f"{self._module}.{found.name}" if found.source is QualifiedNameSource.LOCAL else found.name
            if full in self._moves.names and full.rpartition(".")[2] == word:
                return self._moves.names[full]
            if full in self._tails and full.rpartition(".")[2] == word and found.source is QualifiedNameSource.IMPORT:
                return self._tails[full]
        return word

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:
        """Change a name."""
        return updated_node.with_changes(value=self._renamed(original_node, original_node.value))

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        """Change the name behind a dot, or a whole dotted module."""
        dotted = get_full_name_for_node(original_node)
        if dotted in self._moves.modules:
            return cst.parse_expression(self._moves.modules[dotted])
        return updated_node.with_changes(attr=cst.Name(self._renamed(original_node, original_node.attr.value)))

    def leave_Comment(self, original_node: cst.Comment, updated_node: cst.Comment) -> cst.Comment:
        """Change modules that a comment names."""
        return updated_node.with_changes(value=self._moves.in_text(updated_node.value))

    def leave_SimpleString(self, original_node: cst.SimpleString, updated_node: cst.SimpleString) -> cst.SimpleString:
        """Change modules that a text names."""
        return updated_node.with_changes(value=self._moves.in_text(updated_node.value))

    def leave_FormattedStringText(
        self, original_node: cst.FormattedStringText, updated_node: cst.FormattedStringText
    ) -> cst.FormattedStringText:
        """Change modules that a text names."""
        return updated_node.with_changes(value=self._moves.in_text(updated_node.value))

    def leave_ImportAlias(self, original_node: cst.ImportAlias, updated_node: cst.ImportAlias) -> cst.ImportAlias:
        """Change the module of `import a.b`."""
        dotted = get_full_name_for_node(original_node.name)
        name = cst.parse_expression(self._moves.module(str(dotted)))
        assert isinstance(name, cst.Name | cst.Attribute)
        return updated_node.with_changes(name=name)

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        """Leave what is below to `leave_ImportFrom`."""
        return False

    def leave_ImportFrom(
        self, original_node: cst.ImportFrom, updated_node: cst.ImportFrom
    ) -> cst.ImportFrom | cst.FlattenSentinel[cst.BaseSmallStatement]:
        """Change what is imported, and where it is imported from where that is a package whose module has moved."""
        if updated_node.module is None or isinstance(updated_node.names, cst.ImportStar):
            return updated_node
        source = cst.Module([]).code_for_node(updated_node.module)
        by_source: dict[str, list[cst.ImportAlias]] = {}
        for alias in updated_node.names:
            assert isinstance(alias.name, cst.Name)
            full = f"{source}.{alias.name.value}"
            if full in self._moves.modules:
                package, _, word = self._moves.modules[full].rpartition(".")
            else:
                package, word = self._moves.module(source), self._moves.names.get(full, alias.name.value)
            new = alias.with_changes(name=cst.Name(word), comma=cst.MaybeSentinel.DEFAULT)
            by_source.setdefault(package, []).append(new)
        made = [
            updated_node.with_changes(module=cst.parse_expression(package), names=aliases)
            for package, aliases in by_source.items()
        ]
        return made[0] if len(made) == 1 else cst.FlattenSentinel(made)


def change(moves: Moves, source: str, module: str) -> str:
    """Return the source of a module with every reference changed."""
    return MetadataWrapper(cst.parse_module(source)).visit(References(moves, module)).code


def module_of(path: Path) -> str:
    """Return the dotted name of a file of this project."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def new_path(moves: Moves, path: Path) -> Path:
    """Return the place to which a file moves."""
    if path.suffix == ".py":
        module = module_of(path)
        is_package = path.name == "__init__.py"
        new = moves.module(module).replace(".", "/")
        return Path(new, "__init__.py") if is_package else Path(f"{new}.py")
    folder = moves.module("/".join(path.parent.parts).replace("/", ".")) if path.parts[0] in _FOLDERS else None
    return path if folder is None else Path(folder.replace(".", "/"), path.name)


def tracked() -> list[Path]:
    """Return the files of the project that speak of its present."""
    said = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in said.splitlines() if not line.startswith(_KEPT)]


def apply(moves: Moves) -> None:
    """Move all files, and change them."""
    for path in tracked():
        if path.suffix not in _TEXTS and path.name != "Makefile":
            continue
        text = path.read_text(encoding="utf-8")
        new = change(moves, text, module_of(path)) if path.suffix == ".py" else moves.in_text(text)
        place = new_path(moves, path)
        if place != path:
            place.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["git", "mv", path, place], check=True)
        if new != text:
            place.write_text(new, encoding="utf-8")


def shape(source: str) -> str:
    """Return the syntax tree of a module without its docstrings, its imports in an order of their own."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
        body = getattr(node, "body", None)
        if isinstance(body, list):
            imports = [each for each in body if isinstance(each, ast.Import | ast.ImportFrom)]
            names = sorted(f"{getattr(each, 'module', '')} {ast.dump(name)}" for each in imports for name in each.names)
            body[:] = [ast.Expr(ast.Constant(name)) for name in names] + [each for each in body if each not in imports]
    return ast.dump(tree)


def check(moves: Moves, revision: str) -> list[str]:
    """Return the modules whose syntax tree is not that of a revision with the table applied."""
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", revision], capture_output=True, text=True, check=True
    )
    differing = []
    for line in listed.stdout.splitlines():
        path = Path(line)
        if path.suffix != ".py" or line.startswith(_KEPT):
            continue
        old = subprocess.run(["git", "show", f"{revision}:{line}"], capture_output=True, text=True, check=True).stdout
        place = new_path(moves, path)
        moved = shape(change(moves, old, module_of(path)))
        if not place.is_file() or moved != shape(place.read_text(encoding="utf-8")):
            differing.append(f"{path} -> {place}")
    return differing


def main() -> int:
    """Run the command of the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("files", nargs="*", type=Path, metavar="FILE")
    arguments.add_argument("--check", metavar="REV")
    given = arguments.parse_args()
    moves = Moves.read()
    if given.check:
        differing = check(moves, given.check)
        sys.stdout.write("".join(f"{line}\n" for line in differing))
        return 1 if differing else 0
    if not given.files:
        apply(moves)
    for path in given.files:
        path.write_text(change(moves, path.read_text(encoding="utf-8"), ""), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
