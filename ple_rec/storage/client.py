"""Clients of S3: one set of options for fsspec's, which lists and writes, and pyarrow's, which reads by ranges."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyarrow import fs

from ple_rec.errors import UserError

SECONDS = 15  # Timeout of a connection, and of each part of an answer.
ATTEMPTS = 4  # A store that takes connections and does not answer is given up after a minute.
_URL = re.compile(r"https?://[^/\s]+/?")
_ATTEMPTS_NAME = "AWS_MAX_ATTEMPTS"


@dataclass(frozen=True)
class S3Options:
    """Options of every client of S3.

    Args:
        endpoint: URL of a store other than Amazon's; None for Amazon's.
        region: Region; None for the default of the store.
        attempts: Number of times that a request is sent before its failure counts.
    """

    endpoint: str | None
    region: str | None
    attempts: int


def s3_options() -> S3Options:
    """Return the options that the environment and the AWS profile set.

    `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`,
    `AWS_ENDPOINT_URL_S3`, `endpoint_url` of a profile and the like have their usual meaning.

    Raises:
        UserError: The endpoint is no URL, or the number of attempts is no positive integer.
    """
    return _options_of(tuple(sorted(each for each in os.environ.items() if each[0].startswith("AWS_"))))


@lru_cache(maxsize=4)
def _options_of(environment: tuple[tuple[str, str], ...]) -> S3Options:
    """Return the options that the present environment sets.

    Reading them takes 10 ms, too long for each request, so the result is cached by the variables.

    Args:
        environment: Present variables whose names begin with `AWS_`, the key of the cache.
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
    attempts = os.environ.get(_ATTEMPTS_NAME) or str(ATTEMPTS)
    if not attempts.isdecimal() or int(attempts) < 1:
        raise UserError(
            _ATTEMPTS_NAME, f"got {attempts}", "it is how often a request is sent, at least once", "give 1 or more"
        )
    return S3Options(endpoint, region, int(attempts))


def fsspec_options(options: S3Options) -> dict[str, Any]:
    """Return options as arguments of fsspec's file system."""
    retries = {"mode": "standard", "total_max_attempts": options.attempts}
    config = {"connect_timeout": SECONDS, "read_timeout": SECONDS, "retries": retries}
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
        connect_timeout=SECONDS,
        request_timeout=SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=options.attempts),
    )


def forget_clients() -> None:
    """Drop cached clients, so that the next request reads options and credentials again."""
    import fsspec

    _options_of.cache_clear()
    _arrow_client.cache_clear()
    for kind in fsspec.registry.values():
        kind.clear_instance_cache()
