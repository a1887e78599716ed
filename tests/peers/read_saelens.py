"""Coders of other formats by SAELens's own loaders: OUT CASES INPUTS.

CASES is a JSON list of [name, loader, repository, folder, settings, factor]; its loaders fetch from
the hub that the environment names. INPUTS is an `.npz` of a row of inputs a token for each name.
Given back are `activations` and `y`, or `error` where a loader refuses.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from sae_lens.loading.pretrained_sae_loaders import (
    NAMED_PRETRAINED_SAE_LOADERS,
    handle_config_defaulting,
)
from sae_lens.saes.sae import SAE

warnings.filterwarnings("ignore")
out, cases, inputs = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), np.load(sys.argv[3])


def read(loader, repository, folder, settings, factor):
    """As `SAE.from_pretrained` does, for what its registry does not list."""
    config, tensors, _ = NAMED_PRETRAINED_SAE_LOADERS[loader](
        repository, folder, "cpu", cfg_overrides={"device": "cpu", **settings}
    )
    config = handle_config_defaulting(config) | {"dtype": "float32"}
    kind = SAE.get_sae_config_class_for_architecture(config["architecture"]).from_dict(config)
    coder = SAE.get_sae_class_for_architecture(kind.architecture())(kind)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    coder.process_state_dict_for_loading(tensors)
    coder.load_state_dict(tensors, assign=True)
    if factor:
        coder.fold_activation_norm_scaling_factor(factor)
    return coder


said = {}
for name, *case in cases:
    coder, x = read(*case), torch.from_numpy(inputs[name])
    said[name] = {"activations": coder.encode(x).tolist(), "y": coder(x).tolist()}
Path(out).write_text(json.dumps(said), encoding="utf-8")
