"""The model that a training stage starts from: a complete folder or a name on the hub, its tokenizer, its adapter.

Everything that would train silently wrong is refused here: a folder that is no complete model, a chat template that
is missing, does not end a reply with the EOS token, or renders a prompt differently once a reply follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pbt.config import LoraConfig, TrainConfig
from pbt.errors import BadInput

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


class Tokens(NamedTuple):
    """One example: the prompt up to where the reply starts, and the reply with its EOS."""

    prompt: list[int]
    completion: list[int]


def load_tokenizer(path: str, train: TrainConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name. Raises BadInput when it, or its chat template, is missing."""
    folder = Path(path)
    if folder.is_dir():
        _check_folder(folder)
    try:
        # The same revision as the weights'; a folder has none, and ignores it.
        tokenizer = AutoTokenizer.from_pretrained(path, revision=train.load.get("revision", "main"))
    except Exception as error:  # transformers and tokenizers raise many kinds; all mean that it cannot be read
        what = "its tokenizer cannot be read" if folder.is_dir() else "no such folder, and not to be had from the hub"
        raise BadInput(f"{path}: {what}: {_one_line(error)}") from None
    if not tokenizer.chat_template:
        raise BadInput(
            f"{path}: its tokenizer has no chat template; put one into chat_template.jinja or tokenizer_config.json"
        )
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{path}: its tokenizer has no EOS token; set eos_token in tokenizer_config.json")
    return tokenizer


def load_model(path: str, train: TrainConfig, stage: str) -> PreTrainedModel:
    """The model of a folder or hub name, with ``train.load`` handed verbatim to ``from_pretrained``.

    Without a ``dtype`` there it is bfloat16 on a GPU and float32 on the CPU. Raises BadInput.
    """
    if "trust_remote_code" in train.load:
        raise BadInput(f"{stage}.load.trust_remote_code: code that comes with a model is never run; remove the key")
    if "quantization_config" in train.load and train.lora is None:
        raise BadInput(f"{stage}.load.quantization_config: a quantised model is trained by LoRA only; set {stage}.lora")
    default = "bfloat16" if torch.cuda.is_available() else "float32"
    try:
        return AutoModelForCausalLM.from_pretrained(path, **{"dtype": default, **train.load})
    except (OSError, TypeError, ValueError, ImportError) as error:
        raise BadInput(f"{path}: cannot be loaded under {stage}.load: {_one_line(error)}") from None


def lora_config(lora: LoraConfig | None) -> peft.LoraConfig | None:
    """The adapter in PEFT's terms, or ``None`` for full fine-tuning."""
    if lora is None:
        return None
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
    )


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[dict[str, str]],
    completion: Sequence[dict[str, str]],
    where: str,
) -> Tokens:
    """Tokenize one example as TRL does.

    Raises BadInput, opening with ``where``, when the template refuses the messages, when the prompt's tokens are not
    the first tokens of prompt and reply together (the model would be trained on a context that it never sees), or
    when the reply does not end with the EOS token (it would not learn to stop). Blank tokens may follow the EOS.
    """
    template = f"the chat template of {tokenizer.name_or_path}"
    try:
        asked = _ids(tokenizer, [*prompt], add_generation_prompt=True)
        whole = _ids(tokenizer, [*prompt, *completion])
    except TemplateError as error:
        raise BadInput(f"{where}: {template} refuses its messages: {_one_line(error)}") from None
    if whole[: len(asked)] != asked:
        same = next(i for i, token in enumerate(asked) if i == len(whole) or whole[i] != token)
        raise BadInput(
            f"{where}: {template} renders the end of the prompt, {tokenizer.decode(asked[same:])!r}, differently once "
            "a reply follows it; use a template whose generation prompt is how every reply begins"
        )
    end = len(whole)
    while end > len(asked) and not str(tokenizer.decode(whole[end - 1])).strip():
        end -= 1
    if end == len(asked) or whole[end - 1] != tokenizer.eos_token_id:
        raise BadInput(
            f"{where}: {template} ends a reply with {tokenizer.decode(whole[len(asked) :][-1:])!r} and not with the "
            f"EOS token {tokenizer.eos_token!r}; mend the template, or eos_token in tokenizer_config.json"
        )
    return Tokens(asked, whole[len(asked) :])


def _ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **options: Any) -> list[int]:
    rendered: Any = tokenizer.apply_chat_template(messages, return_dict=True, **options)
    return rendered["input_ids"]


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file() or not any(any(folder.glob(name)) for name in _WEIGHTS):
        raise BadInput(f"{folder}: no config.json with weights (*.safetensors) beside it, so this is no complete model")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise BadInput(f"{folder}: no tokenizer ({' or '.join(_TOKENIZER_FILES)}); save the model's tokenizer there")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
