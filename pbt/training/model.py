"""The model that a training stage starts from: a complete folder or a name on the hub, its tokenizer, its adapter.

Everything that would train silently wrong is refused here: a folder that is no complete model, a chat template that
is missing, opens a dialogue with two BOS tokens or none, does not end a reply with the EOS token, or renders a prompt
differently once a reply follows it; and a pad token that is the EOS token by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
from jinja2 import TemplateError
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pbt.config import LoraConfig, TrainConfig
from pbt.errors import BadInput

ADAPTER = "adapter"
"""The folder in a result that holds the adapter alone."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_SPARE_TOKENS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<unk>")
"""Tokens that a vocabulary without a pad token may hold and that no text needs, the best first."""


class Tokens(NamedTuple):
    """One example: the prompt up to where the reply starts, and the reply with its EOS."""

    prompt: list[int]
    completion: list[int]


def adapter_of(path: str) -> Path | None:
    """The adapter of a training result that holds no merged weights; ``None`` for any other model."""
    folder = Path(path)
    unmerged = (folder / ADAPTER / "adapter_config.json").is_file() and not (folder / "config.json").is_file()
    return folder / ADAPTER if unmerged else None


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a whole model."""
    return (folder / "config.json").is_file() and any(any(folder.glob(name)) for name in _WEIGHTS)


def read_tokenizer(path: str, revision: str = "main") -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, as it is. Raises BadInput."""
    folder = Path(path)
    if folder.is_dir():
        _check_folder(folder)
    try:
        return AutoTokenizer.from_pretrained(path, revision=revision)
    except Exception as error:  # transformers and tokenizers raise many kinds; all mean that it cannot be read
        what = "its tokenizer cannot be read" if folder.is_dir() else "no such folder, and not to be had from the hub"
        raise BadInput(f"{path}: {what}: {_one_line(error)}") from None


def load_tokenizer(path: str, train: TrainConfig, stage: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, with the chat template and pad token of the stage.

    Raises BadInput when it, its chat template or EOS token is missing, or no pad token can be told.
    """
    # The same revision as the weights'; a folder has none, and ignores it.
    tokenizer = read_tokenizer(path, train.load.get("revision", "main"))
    if train.chat_template is not None:
        try:
            tokenizer.chat_template = Path(train.chat_template).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{stage}.chat_template: {train.chat_template} cannot be read: {error}") from None
    if not tokenizer.chat_template:
        raise BadInput(
            f"{path}: its tokenizer has no chat template; name a Jinja file that holds one: "
            f"--set {stage}.chat_template=FILE"
        )
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{path}: its tokenizer has no EOS token; set eos_token in tokenizer_config.json")
    _set_pad_token(tokenizer, train.pad_token, path, stage)
    return tokenizer


def load_model(path: str, train: TrainConfig, stage: str) -> PreTrainedModel | PeftModel:
    """The model of a folder or hub name, with ``train.load`` handed verbatim to ``from_pretrained``.

    Without a ``dtype`` there it is bfloat16 on a GPU and float32 on the CPU. A result that holds an adapter alone
    becomes its base model with that adapter, which is trained further. Raises BadInput.
    """
    if "trust_remote_code" in train.load:
        raise BadInput(f"{stage}.load.trust_remote_code: code that comes with a model is never run; remove the key")
    if "quantization_config" in train.load and train.lora is None:
        raise BadInput(f"{stage}.load.quantization_config: a quantised model is trained by LoRA only; set {stage}.lora")
    adapter = adapter_of(path)
    origin = path if adapter is None else _base_of(adapter, train.lora, stage)
    try:
        model = AutoModelForCausalLM.from_pretrained(origin, **{"dtype": default_dtype(), **train.load})
    except (OSError, TypeError, ValueError, ImportError) as error:
        raise BadInput(f"{origin}: cannot be loaded under {stage}.load: {_one_line(error)}") from None
    return model if adapter is None else PeftModel.from_pretrained(model, str(adapter), is_trainable=True)


def default_dtype() -> str:
    """In which numbers a model is trained where the configuration names none."""
    return "bfloat16" if torch.cuda.is_available() else "float32"


def save_merged(adapter: Path, dtype: str, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Merge an adapter into its base model, loaded whole whatever it was trained on, and write the weights.

    Merged into quantised weights, an adapter would be rounded away with them. Raises BadInput.
    """
    base = str(peft.PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    except (OSError, ValueError) as error:
        raise BadInput(f"{adapter}: its base model, {base}, cannot be loaded: {_one_line(error)}") from None
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.config.pad_token_id = merged.generation_config.pad_token_id = tokenizer.pad_token_id
    merged.save_pretrained(str(folder))


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
    the first tokens of prompt and reply together (the model would be trained on a context that it never sees), when
    there is not the one BOS token that the tokenizer puts before a text, or when the reply does not end with the EOS
    token (it would not learn to stop). Blank tokens may follow the EOS.
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
    if (bos := tokenizer.bos_token_id) is not None and bos != tokenizer.eos_token_id:
        least = 1 if tokenizer("a")["input_ids"][:1] == [bos] else 0
        if not least <= (count := whole.count(bos)) <= 1:
            raise BadInput(
                f"{where}: {template} renders a dialogue with {count} BOS tokens {tokenizer.bos_token!r} instead of "
                "one; mend the template"
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


def _set_pad_token(tokenizer: PreTrainedTokenizerBase, named: str | None, path: str, stage: str) -> None:
    """Set the pad token that the configuration names; else keep the tokenizer's own, or take a spare token."""
    known = tokenizer.get_vocab()
    if named is not None:
        if named not in known:
            raise BadInput(f"{stage}.pad_token: '{named}' is not in the vocabulary of {path}")
        tokenizer.pad_token = named
        return
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return
    spare = next((token for token in _SPARE_TOKENS if token in known and token != tokenizer.eos_token), None)
    if spare is None:
        found = "pads with its EOS token" if tokenizer.pad_token_id is not None else "has no pad token"
        raise BadInput(f"{path}: its tokenizer {found}; name a token to pad with: --set {stage}.pad_token=TOKEN")
    tokenizer.pad_token = spare


def _base_of(adapter: Path, lora: LoraConfig | None, stage: str) -> str:
    """The base model of an adapter that is trained further under ``lora``."""
    found = peft.PeftConfig.from_pretrained(str(adapter))
    if lora is None:
        raise BadInput(f"{adapter.parent}: holds an adapter alone; set {stage}.lora, or run 'pbt models merge' on it")
    if (found.r, found.lora_alpha) != (lora.r, lora.alpha):
        raise BadInput(
            f"{stage}.lora: r {lora.r}, alpha {lora.alpha}, but the adapter of {adapter.parent} has r {found.r}, alpha "
            f"{found.lora_alpha} and is trained further; make them equal, or run 'pbt models merge' on it"
        )
    return str(found.base_model_name_or_path)


def _check_folder(folder: Path) -> None:
    if adapter_of(str(folder)) is None and not has_weights(folder):
        raise BadInput(f"{folder}: no config.json with weights (*.safetensors) beside it, so this is no complete model")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise BadInput(f"{folder}: no tokenizer ({' or '.join(_TOKENIZER_FILES)}); save the model's tokenizer there")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
