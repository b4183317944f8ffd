"""Options and clients of S3.

fsspec's client lists and writes objects, and pyarrow's client reads ranges of them. Both get the same options.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyarrow import fs

from ple_rec.errors import UserError

TIMEOUT_SECONDS = 15  # Timeout of a connection, and of each read of an answer.
DEFAULT_ATTEMPTS = 4  # With the timeout, a store that accepts connections but does not answer fails after a minute.
_URL = re.compile(r"https?://[^/\s]+/?")
_ATTEMPTS_NAME = "AWS_MAX_ATTEMPTS"


@dataclass(frozen=True)
class S3Options:
    """Options of every client of S3.

    Args:
        endpoint: URL of a store other than Amazon's; None for Amazon's.
        region: Region; None for the default of the store.
        attempts: Largest number of attempts of a request, the first one included.
    """

    endpoint: str | None
    region: str | None
    attempts: int


def s3_options() -> S3Options:
    """Return the endpoint, region and number of attempts that the environment and the AWS profile set.

    `AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_S3`, `AWS_MAX_ATTEMPTS`, `endpoint_url` of a
    profile and the like have their usual meaning. The clients read credentials (`AWS_ACCESS_KEY_ID` and others)
    themselves.

    Raises:
        UserError: The endpoint is no URL, or the number of attempts is no positive integer.
    """
    return _read_options(tuple(sorted(each for each in os.environ.items() if each[0].startswith("AWS_"))))


@lru_cache(maxsize=4)
def _read_options(environment: tuple[tuple[str, str], ...]) -> S3Options:
    """Read the options that the environment sets.

    This takes 10 ms, too long for each request, so the result is cached as long as the variables stay the same.

    Args:
        environment: Variables of the process whose names begin with `AWS_`, as the key of the cache.
    """
    from botocore.configprovider import ConfiguredEndpointProvider
    from botocore.session import Session

    session = Session()
    endpoint = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3").provide() or None
    if endpoint is not None and not _URL.fullmatch(endpoint):
        raise UserError(
            "AWS_ENDPOINT_URL",
            f"got {endpoint}",
            "the endpoint of a store is a URL with its scheme",
            "write http://HOST:PORT or https://HOST, in the environment or as endpoint_url of the AWS profile",
        )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    region = region or session.get_config_variable("region")
    if endpoint is not None and region is None:
        region = "us-east-1"  # Stores other than Amazon's accept this region.
    attempts = os.environ.get(_ATTEMPTS_NAME) or str(DEFAULT_ATTEMPTS)
    if not attempts.isdecimal() or int(attempts) < 1:
        raise UserError(
            _ATTEMPTS_NAME, f"got {attempts}", "it is the number of attempts of a request", "give 1 or more"
        )
    return S3Options(endpoint, region, int(attempts))


def fsspec_options(options: S3Options) -> dict[str, Any]:
    """Return options as arguments of s3fs, the file system of fsspec for S3."""
    retries = {"mode": "standard", "total_max_attempts": options.attempts}
    config = {"connect_timeout": TIMEOUT_SECONDS, "read_timeout": TIMEOUT_SECONDS, "retries": retries}
    region = {} if options.region is None else {"region_name": options.region}
    return {"endpoint_url": options.endpoint, "client_kwargs": region, "config_kwargs": config}


def arrow_client() -> fs.S3FileSystem:
    """Return pyarrow's client; raises as `s3_options` does."""
    return _arrow_client(s3_options())


@lru_cache(maxsize=4)
def _arrow_client(options: S3Options) -> fs.S3FileSystem:
    scheme, _, host = (options.endpoint or "").rstrip("/").rpartition("://")
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or None,
        region=options.region,
        connect_timeout=TIMEOUT_SECONDS,
        request_timeout=TIMEOUT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=options.attempts),
    )


def forget_clients() -> None:
    """Drop cached options, and clients of all stores, so that the next request reads options and credentials again."""
    import fsspec

    _read_options.cache_clear()
    _arrow_client.cache_clear()
    for kind in fsspec.registry.values():
        kind.clear_instance_cache()
