"""A cache by delphi's own code: OUT FOLDER HOOKPOINT.

Latents of made-up activations over made-up tokens, put through its cache and its split files;
`postings`: what it was given, as latent, row, position and strength.
"""

import json
import sys
from pathlib import Path

import torch
from delphi.config import CacheConfig
from delphi.latents.cache import LatentCache

out, folder, hookpoint = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
made = torch.Generator().manual_seed(5)
rows, length, width, batch = 24, 64, 10, 8
tokens = torch.randint(0, 500, (rows, length), generator=made)
active = torch.rand(rows, length, width, generator=made) < 0.04
latents = torch.rand(rows, length, width, generator=made) * 4 * active
latents[..., 3] = 0  # never active
cache = LatentCache(torch.nn.Identity(), {}, batch)
cache.width = width
for number in range(rows // batch):
    part = slice(number * batch, (number + 1) * batch)
    cache.cache.add(latents[part], tokens[part], number, hookpoint)
cache.cache.save()
cache.save_splits(3, folder / "latents")
config = CacheConfig(cache_ctx_len=length, n_tokens=rows * length, n_splits=3, batch_size=batch)
cache.save_config(folder / "latents", config, "gpt2")
at = latents.nonzero()
postings = [[k, r, p, float(latents[r, p, k].half())] for r, p, k in at.tolist()]
Path(out).write_text(json.dumps({"tokens": tokens.tolist(), "postings": postings}))
