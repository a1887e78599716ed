"""A result by SAEBench's schema and its reader: OUT `…/autointerp/NAME_eval_results.json`."""

import dataclasses
import json
import sys
from pathlib import Path

from pydantic import TypeAdapter
from sae_bench.evals.autointerp.eval_output import AutoInterpEvalOutput
from sae_bench.sae_bench_utils.graphing_utils import find_eval_results_files, get_eval_results

out, result = sys.argv[1], Path(sys.argv[2])
parsed = TypeAdapter(AutoInterpEvalOutput).validate_json(result.read_bytes(), strict=True)
(found,) = get_eval_results(find_eval_results_files([str(result.parent)])).values()
answer = {
    "metrics": dataclasses.asdict(parsed.eval_result_metrics.autointerp),
    "latents": parsed.eval_config.latents,
    "n_latents": parsed.eval_config.n_latents,
    "sae_id": parsed.sae_lens_id,
    "read": found,
}
Path(out).write_text(json.dumps(answer), encoding="utf-8")
