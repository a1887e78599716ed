"""Models and tokenizers small enough to be made in a test: a causal one and an encoder.

`tokenizer(kind)` gives a byte-level (GPT-2), a byte-fallback (Llama, with a prefix) or a WordPiece
(BERT, with prefix and suffix) tokenizer; `save_llama` and `save_bert` write whole model folders,
`save_judge` a causal model with a chat template that vLLM runs.
"""

import copy
import functools
import json
import pydoc_data.topics
import random

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

# Products this small only wait for a second thread, seconds where the cores are busy.
torch.set_num_threads(1)

KINDS = ("byte-level", "byte-fallback", "wordpiece")
PROSE = " ".join(
    pydoc_data.topics.topics[name] for name in ("assert", "for", "while", "with", "try")
)
WORDS = PROSE.split()


def prose(seed, words):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


@functools.cache
def tokenizer(kind):
    if kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.train_from_iterator(
            [PROSE],
            trainers.BpeTrainer(
                vocab_size=400,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                special_tokens=["<|end|>"],
                show_progress=False,
            ),
        )
    elif kind == "byte-fallback":
        named = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        learner = Tokenizer(models.BPE())
        learner.normalizer = normalizers.Replace(" ", "▁")
        learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        learner.train_from_iterator(
            [PROSE], trainers.BpeTrainer(vocab_size=600, special_tokens=named, show_progress=False)
        )
        model = json.loads(learner.to_str())["model"]
        made = Tokenizer(
            models.BPE(
                vocab=model["vocab"],
                merges=[tuple(pair) for pair in model["merges"]],
                byte_fallback=True,
                fuse_unk=True,
                unk_token="<unk>",
            )
        )
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        made.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        made.add_special_tokens(["<unk>", "<s>", "</s>"])
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    else:
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        made.train_from_iterator(
            [PROSE],
            trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False),
        )
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B [SEP]",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    return made


def save_llama(folder, seed=0):
    """A causal model of three layers of width 32, output layer apart, with its tokenizer."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    _save_tokenizer(folder, "byte-level")
    return folder


def save_bert(folder, seed=0):
    """An encoder of two layers of width 24 with its tokenizer."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=400,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    transformers.BertModel(config).save_pretrained(folder)
    _save_tokenizer(folder, "wordpiece")
    return folder


CHAT_TEMPLATE = (
    "{% for turn in messages %}<|start|>{{ turn.role }}\n{{ turn.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def chat_tokenizer(kind="byte-level", template=CHAT_TEMPLATE):
    """One with special tokens around the turns of a chat."""
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(tokenizer(kind)), eos_token="<|end|>", pad_token="<|end|>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|start|>"]})
    made.chat_template = template
    return made


def save_judge(folder, seed=0):
    """A causal model of two layers of width 64 with a chat template: heads as vLLM's CPU takes."""
    made = chat_tokenizer()
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(made),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        eos_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
        bos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def _save_tokenizer(folder, kind):
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer(kind)).save_pretrained(folder)
