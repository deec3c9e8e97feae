"""The two pocket architectures and their tokenizers, in the form that transformers and vLLM load like any hub model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from pbt.pocket.corpus import Document

CONTEXT = 512
"""Longest sequence in tokens."""


@dataclass(frozen=True)
class Size:
    """The shape of a pocket model, in units of the architecture."""

    width: int = 192
    layers: int = 4
    head: int = 32
    feed_forward: int = 512
    vocab: int = 6144


@dataclass(frozen=True)
class ChatFormat:
    """The special tokens of a family, and its chat template built from them."""

    bos: str
    eos: str
    pad: str
    user: tuple[str, str]
    """What stands before and after a user message."""
    assistant: str
    """What stands before a reply; its end is the EOS."""
    template: str

    @property
    def specials(self) -> list[str]:
        return list(dict.fromkeys(t for t in (self.pad, self.bos, self.eos, *self.user, self.assistant) if t))

    def segments(self, document: Document) -> list[tuple[str, bool]]:
        """A document as (text, learnt?) segments whose concatenation is what the template renders."""
        found: list[tuple[str, bool]] = [(self.bos, False)]
        for part in document:
            if part.role == "user":
                found.append((self.user[0] + part.text + self.user[1] + self.assistant, False))
            else:
                found.append((part.text + self.eos, part.learn))
        return found


_ALTERNATE = (
    "{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) or m.role not in ['user', 'assistant']"
    " %}{{- raise_exception('Roles must alternate user/assistant, starting with user') }}{%- endif %}{%- endfor %}"
)

FORMATS: dict[str, ChatFormat] = {
    "llama": ChatFormat(
        bos="<|begin|>",
        eos="<|end|>",
        pad="<|pad|>",
        user=("<|user|>", "<|done|>"),
        assistant="<|assistant|>",
        template=_ALTERNATE + "{{- bos_token }}"
        "{%- for m in messages %}{%- if m.role == 'user' %}{{- '<|user|>' + m.content + '<|done|>' }}"
        "{%- if not loop.last or add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
        "{%- else %}{{- m.content + eos_token }}{%- endif %}{%- endfor %}",
    ),
    "mistral": ChatFormat(
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        user=("[INST]", "[/INST]"),
        assistant="",
        template=_ALTERNATE + "{{- bos_token }}"
        "{%- for m in messages %}{%- if m.role == 'user' %}{{- '[INST]' + m.content + '[/INST]' }}"
        "{%- else %}{{- m.content + eos_token }}{%- endif %}{%- endfor %}",
    ),
}


def build_tokenizer(family: Literal["llama", "mistral"], texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on ``texts``: nothing is out of its vocabulary, and common names are one token."""
    fmt = FORMATS[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=fmt.specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=fmt.bos,
        eos_token=fmt.eos,
        pad_token=fmt.pad,
        chat_template=fmt.template,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(family: Literal["llama", "mistral"], tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    """A randomly initialised model; call ``torch.manual_seed`` first. Mistral has half as many key-value heads."""
    common: dict[str, Any] = dict(  # noqa: C408 - keyword arguments, written as such
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // size.head,
        head_dim=size.head,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(num_key_value_heads=size.width // size.head, **common))
    return MistralForCausalLM(
        MistralConfig(num_key_value_heads=size.width // size.head // 2, sliding_window=None, **common)
    )
