"""A server of a torch model as it is usually written, with which `benchmarks.serve` compares ours.

    python -m benchmarks.plain_server VERSION

VERSION is the folder of one version of an exported model. The server is FastAPI with a pydantic body and one call of
the model per request, with the same weights as ours, all in fp32. It does not batch requests or limit their number, and
computes the user features again for each item.

Shape suffixes: B items of a request, K tasks.
"""

import socket
import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import create_model

from ple_rec.inference.feature_parsing import FeatureIds
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.request import ScoreRequest
from ple_rec.inference.signature import InputFeature, Signature


def application(ranker: Ranker) -> FastAPI:
    """Return an application with `POST /v1/rank` for a model without bags and vocabularies."""
    signature = ranker.signature
    user, item = (_body(owner, signature) for owner in ("user", "item"))
    request = create_model("Request", user=(user, ...), items=(list[item], ...))  # type: ignore[valid-type]  # made at run time
    app = FastAPI()

    # FastAPI reads the annotation when it registers the function, so the annotation has to be the class itself. This is
    # why the module does not import `annotations` from `__future__`.
    def rank(body: request) -> dict[str, Any]:
        rows = [body.user.model_dump() | entry.model_dump() for entry in body.items]  # type: ignore[attr-defined]
        ids = {
            feature.name: FeatureIds(torch.tensor([row[feature.name] for row in rows], dtype=torch.int32).numpy())
            for feature in signature.sparse
        }
        dense = {
            feature.name: torch.tensor([row[feature.name] for row in rows]).float().numpy()
            for feature in signature.dense
        }
        score = ScoreRequest(rows=len(rows), ids=ids, dense=dense)
        scores_BK = ranker.score_rows([score], grouped=False).scores_BK
        # The score by which items are ranked is the log of the product of their predictions.
        fused_B = scores_BK.clamp(min=1e-6).log().sum(1)
        names, scores = list(signature.kinds), scores_BK.tolist()
        order = fused_B.argsort(descending=True).tolist()
        predictions = [dict(zip(names, row, strict=True)) for row in scores]
        items = [{"index": i, "score": float(fused_B[i]), "predictions": predictions[i]} for i in order]
        return {"items": items}

    app.post("/v1/rank")(rank)
    return app


def _body(owner: str, signature: Signature) -> Any:
    """Return the pydantic class of the features of the user, or of an item."""

    def field(feature: InputFeature) -> Any:
        return (float if feature.dense else int, ...)

    fields = {feature.name: field(feature) for feature in signature.inputs if feature.of == owner}
    return create_model(owner.title(), **fields)


def main(version: Path) -> None:
    """Serve on a free port, and print the address."""
    app = application(Ranker(version, dense_precision="fp32"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sys.stdout.write(f"plain at http://127.0.0.1:{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
