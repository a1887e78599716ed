"""An export by Neuronpedia's own client: OUT TREE BODIES.

`activations`, `explanations` and `judged` as its classes read the tree; `bodies` as it would send
the latents of BODIES (a JSON list of calls), made of its own classes. Its class of activations
takes none with −1 for a quantile, as the strongest have in Neuronpedia's own data: those are left
out.
"""

import dataclasses
import gzip
import json
import sys
from pathlib import Path

from neuronpedia.np_activation import Activation
from neuronpedia.np_explanation import Explanation
from neuronpedia.np_feature import Feature, Logit
from neuronpedia.requests.feature_request import FeatureRequest
from neuronpedia.types.autointerp.score.fuzz_detection import NPScoreClassifierOutput

out, tree, bodies = sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())


def rows(kind):
    for file in sorted((tree / kind).glob("batch-*.jsonl.gz")):
        for line in gzip.decompress(file.read_bytes()).splitlines():
            # The importer calls the column `layer` what the client calls `source`.
            row = json.loads(line)
            yield {**row, "source": row.get("layer")}


sent = []


class Kept(FeatureRequest):
    """Sends to nobody."""

    def send_request(self, **given):
        sent.append(given)


def feature(model, source, one):
    where = {"modelId": model, "source": source, "index": one["index"]}
    return Feature(
        **where,
        density=one["density"],
        top_logits=[Logit(**logit) for logit in one["topLogits"]],
        bottom_logits=[Logit(**logit) for logit in one["bottomLogits"]],
        explanations=[
            Explanation(
                **where,
                text=said["text"],
                method=said.get("methodName"),
                explainer_model=said.get("modelName"),
            )
            for said in one["explanations"]
        ],
        activations=[Activation(**where, **shown) for shown in one["activations"]],
    )


client = Kept(api_key="none")
for body in bodies:
    where = body["modelId"], body["source"]
    client.upload_batch(*where, [feature(*where, one) for one in body["features"]])
judged = [
    NPScoreClassifierOutput.model_validate(one, strict=True).model_dump()
    for row in rows("scores")
    for one in json.loads(row["jsonDetails"])
]
answer = {
    "activations": [
        dataclasses.asdict(Activation.from_np_db_json(row))
        for row in rows("activations")
        if row["binContains"] != -1
    ],
    "explanations": [
        dataclasses.asdict(Explanation.from_np_db_json(r)) for r in rows("explanations")
    ],
    "judged": judged,
    "uri": [given["uri"] for given in sent],
    "bodies": [given["json"] for given in sent],
}
Path(out).write_text(json.dumps(answer), encoding="utf-8")
