"""A folder of results by delphi's own loaders: OUT FOLDER HOOKPOINT TOKENIZER.

`records`: what `LatentDataset` makes of the cache; `hard`: the same with negatives from the
neighbours; `explanations`; `scores`: the confusion of each latent and scorer by `load_data`.
"""

# ruff: noqa: E402 - what it imports without need is stood in for first
import asyncio
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

# Its judges import vLLM where its readers are imported; nothing here asks one.
for name in ("vllm", "vllm.distributed", "vllm.distributed.parallel_state", "vllm.inputs"):
    sys.modules[name] = MagicMock()

from delphi.config import ConstructorConfig, SamplerConfig
from delphi.explainers.explainer import explanation_loader
from delphi.latents import LatentDataset
from delphi.log.result_analysis import (
    compute_classification_metrics,
    compute_confusion,
    load_data,
)
from transformers import PreTrainedTokenizerFast

out, folder, hookpoint, tokenizer = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]


def dataset(source):
    return LatentDataset(
        folder / "latents",
        SamplerConfig(n_examples_train=20, n_examples_test=20),
        ConstructorConfig(
            example_ctx_len=32,
            min_examples=1,
            n_non_activating=10,
            non_activating_source=source,
            neighbours_type="decoder_similarity",
        ),
        tokenizer=PreTrainedTokenizerFast(tokenizer_file=tokenizer, unk_token="word0"),
        modules=[hookpoint],
    )


def shown(record):
    return {
        "latent": record.latent.latent_index,
        "frequency": record.per_token_frequency,
        "windows": len(record.examples),
        "test": [[one.quantile, one.str_tokens, one.activations.tolist()] for one in record.test],
        "not_active": [["".join(one.str_tokens), one.distance] for one in record.not_active],
    }


plain, hard = dataset("random"), dataset("neighbours")
records = list(plain)
said = [asyncio.run(explanation_loader(one, str(folder / "explanations"))) for one in records]
rows, _ = load_data(folder / "scores", [hookpoint])
scores = [
    [scorer, int(latent), compute_classification_metrics(compute_confusion(group))]
    for (scorer, latent), group in rows.groupby(["score_type", "latent_idx"])
]
answer = {
    "tokens": list(plain.tokens.shape),
    "records": [shown(one) for one in records],
    "hard": [shown(one) for one in hard],
    "explanations": [[one.record.latent.latent_index, one.explanation] for one in said],
    "scores": scores,
}
Path(out).write_text(json.dumps(answer, default=float), encoding="utf-8")
