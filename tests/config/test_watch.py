"""watch.mlflow: what names a server, and what must not stand in a configuration."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ple_rec.config.run import MlflowConfig

NO_SERVER = "; a server is named as http://HOST:PORT, https://HOST or databricks"


@pytest.mark.parametrize(
    "uri", ["http://localhost:5000", "https://ml.example.org/mlflow", "databricks", "databricks://a"]
)
def test_servers(uri: str) -> None:
    assert MlflowConfig(tracking_uri=uri).tracking_uri == uri


@pytest.mark.parametrize("uri", ["", "localhost:5000", "http://", "file:///tmp/runs", "sqlite:///runs.db", "foo"])
def test_what_is_no_server_is_refused(uri: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MlflowConfig(tracking_uri=uri)
    (error,) = caught.value.errors()
    assert error["msg"] == f'Value error, tracking_uri: got "{uri}"{NO_SERVER}'


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        MlflowConfig(tracking_uri="http://user:secret@localhost:5000")
    (error,) = caught.value.errors()
    assert error["msg"].endswith("by the environment, as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    assert "secret" not in error["msg"]


def test_an_experiment_has_a_name() -> None:
    with pytest.raises(ValidationError, match="at least 1 character"):
        MlflowConfig(tracking_uri="http://localhost:5000", experiment="")
