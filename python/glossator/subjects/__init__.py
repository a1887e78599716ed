"""Subject models: the language model under study, run as far as its hookpoints.

subject = load_subject("smollm2")                # or any Hugging Face name or path
hidden = subject.hidden(batch.tokens, batch.attended)   # float32[B, S, d]
subject = load_subject("gpt2", ["blocks.6.ln2.hook_normalized", "blocks.6.hook_mlp_out"])
subject.states(batch.tokens, batch.attended)     # [B, S, d] by hookpoint, from one pass
subject.logits(coder.decoder[:8])                # the tokens that 8 latents promote
"""

from __future__ import annotations

from glossator.subjects.load import load_subject
from glossator.subjects.smollm2 import smollm2_path
from glossator.subjects.subject import Logits, Subject

__all__ = ["Logits", "Subject", "load_subject", "smollm2_path"]
