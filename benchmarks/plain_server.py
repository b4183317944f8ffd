"""The usual server of a torch model, to compare with: FastAPI, a pydantic body, one call of the model a request.

    python -m benchmarks.plain_server VERSION

Same weights and the same fp32 tables; no batching, no bound on what waits, a user computed for each item.
"""

import socket
import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import create_model

from ple_rec.inference.feature_parsing import Ids
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.request import ScoreRequest
from ple_rec.inference.signature import Input, Signature


def application(ranker: Ranker) -> FastAPI:
    """`POST /v1/rank` of a model whose features are single values and whose tables have no vocabulary."""
    signature = ranker.signature
    user, item = (_body(owner, signature) for owner in ("user", "item"))
    request = create_model("Request", user=(user, ...), items=(list[item], ...))  # type: ignore[valid-type]  # made at run time
    app = FastAPI()

    # FastAPI reads the annotation when the function is made: it has to be the class, not its name.
    def rank(body: request) -> dict[str, Any]:
        rows = [body.user.model_dump() | each.model_dump() for each in body.items]  # type: ignore[attr-defined]
        ids = {
            each.name: Ids(torch.tensor([row[each.name] for row in rows], dtype=torch.int32).numpy())
            for each in signature.sparse
        }
        dense = {each.name: torch.tensor([row[each.name] for row in rows]).float().numpy() for each in signature.dense}
        score = ScoreRequest(rows=len(rows), ids=ids, dense=dense)
        scores_BK = ranker.scored([score], grouped=False).scores_BK
        fused_B = scores_BK.clamp(min=1e-6).log().sum(1)
        names, scores = list(signature.kinds), scores_BK.tolist()
        order = fused_B.argsort(descending=True).tolist()
        predictions = [dict(zip(names, row, strict=True)) for row in scores]
        told = [{"index": i, "score": float(fused_B[i]), "predictions": predictions[i]} for i in order]
        return {"items": told}

    app.post("/v1/rank")(rank)
    return app


def _body(owner: str, signature: Signature) -> Any:
    def kind(each: Input) -> Any:
        return (float if each.dense else int, ...)

    fields = {each.name: kind(each) for each in signature.inputs if each.of == owner}
    return create_model(owner.title(), **fields)


def main(version: Path) -> None:
    """Serve on a free port, which is printed."""
    app = application(Ranker(version, dense="fp32"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sys.stdout.write(f"plain at http://127.0.0.1:{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
