"""Records of features by circuit-tracer's own model: OUT RECORDS (a JSON object of records)."""

import json
import sys
from pathlib import Path

from circuit_tracer.frontend.feature_models import Model

out, records = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
read = {
    name: Model.model_validate(record, strict=True).model_dump() for name, record in records.items()
}
Path(out).write_text(json.dumps(read), encoding="utf-8")
