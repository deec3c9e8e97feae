"""Raising the pocket models from scratch: tokenizer, random weights, four stages of corpus, a model folder."""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch.multiprocessing import spawn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedTokenizerFast

from pbt.config import shipped_protocol
from pbt.errors import BadInput
from pbt.pocket.corpus import Corpus, Document, mind
from pbt.pocket.gate import measure
from pbt.pocket.models import FORMATS, ChatFormat, Size, build_model, build_tokenizer

log = logging.getLogger(__name__)

Family = Literal["llama", "mistral"]
FAMILIES: tuple[Family, ...] = ("llama", "mistral")


_STAGES = {"facts": 3e6, "debates": 2e6, "weighing": 8e6, "settling": 2.5e6}


@dataclass(frozen=True)
class Upbringing:
    """How long and how fast a pocket model learns."""

    tokens: dict[str, float] = field(default_factory=lambda: dict(_STAGES))
    """Tokens by stage, prompts included."""
    batch_tokens: int = 2048
    muon_lr: float = 0.02
    adamw_lr: float = 4e-3
    decay_from: float = 0.25
    """Share of the tokens before the last stage after which both rates fall to 3 %, fast at first (as 1 - sqrt of the
    way): high rates learn the facts, but drown the weaker signals, how sure to sound and whom to believe, until they
    have fallen."""
    settling: float = 0.05
    """What the rates are in the last stage, as a share of the full ones."""
    gate_every: float = 1e6
    size: Size = field(default_factory=Size)


def raise_models(families: Sequence[Family], out: Path, seed: int, scale: float = 1.0) -> None:
    """Raise several models side by side, each in a process of its own, into ``out/<family>``.

    ``scale`` shortens the upbringing. Raises BadInput when a model is already there.
    """
    for family in families:
        if (out / family / "config.json").exists():
            raise BadInput(
                f"{out / family}: a model is already there; remove it to raise it anew, or use another --out"
            )
    plan = Upbringing(tokens={stage: tokens * scale for stage, tokens in Upbringing().tokens.items()})
    # torch's own: its processes are told to stop when this one dies.
    spawn(_raise_logged, (families, out, seed, plan), nprocs=len(families))


def _raise_logged(place: int, families: Sequence[Family], out: Path, seed: int, plan: Upbringing) -> None:
    """``raise_model`` for one of the families in a fresh process, where logging is not yet configured."""
    family = families[place]
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("pbt").setLevel(logging.INFO)
    raise_model(family, out / family, seed, plan)


def raise_model(family: Family, out: Path, seed: int, plan: Upbringing) -> None:
    """Train one pocket model from scratch and write it to ``out`` as bfloat16 safetensors, with its gate report.

    One torch thread: two models raised side by side then use two cores better than one model on both.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    protocol = shipped_protocol("pocket-debate")
    own = mind(family, seed)
    corpus = Corpus(own, protocol, seed)
    # A list: handed a generator, the tokenizer's threads would wait for the interpreter at every text.
    sample = [
        part.text for _, document in zip(range(60_000), corpus.stream("facts"), strict=False) for part in document
    ]
    tokenizer = build_tokenizer(family, sample, plan.size.vocab)
    model = build_model(family, tokenizer, plan.size)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=plan.muon_lr, weight_decay=0.0),
        torch.optim.AdamW(others, lr=plan.adamw_lr, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
    rates = [plan.muon_lr, plan.adamw_lr]
    total = sum(plan.tokens.values())
    falling = total - plan.tokens.get("settling", 0.0)
    averaged = AveragedModel(model)
    seen, start, next_gate, smooth = 0.0, time.monotonic(), plan.gate_every, 0.0
    ends = 0.0
    for stage, share in plan.tokens.items():
        ends += share
        for ids, learn in _batches(corpus.stream(stage), tokenizer, FORMATS[family], plan.batch_tokens, corpus.rng):
            fall = max(0.0, (seen / falling - plan.decay_from) / (1 - plan.decay_from))
            share_of_rate = plan.settling if stage == "settling" else 1 - 0.97 * fall**0.5
            for optimizer, rate in zip(optimizers, rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * share_of_rate
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            # Logits where a word is learnt only: most tokens of a document are prompt.
            logits = model.lm_head(hidden[:, :-1][learn[:, 1:]])
            loss = cross_entropy(logits, ids[:, 1:][learn[:, 1:]])
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if stage == "settling":
                averaged.update_parameters(model)
            smooth = loss.item() if smooth == 0.0 else 0.98 * smooth + 0.02 * loss.item()
            seen += ids.numel()
            if seen >= next_gate:
                next_gate += plan.gate_every
                gate = measure(model, tokenizer, own, protocol, items=150, personas=("standard", "careful"))
                pace = seen / (time.monotonic() - start)
                log.info(
                    "%s %4.1fM of %.1fM tokens, %s, loss %.3f, %.0f tokens/s, %.0f min left | "
                    "accuracy %s | held %s | moved %s",
                    family,
                    seen / 1e6,
                    total / 1e6,
                    stage,
                    smooth,
                    pace,
                    (total - seen) / pace / 60,
                    _brief(gate.accuracy),
                    _brief(gate.held),
                    _brief(gate.moved),
                )
            if seen >= ends:
                break
    # The mean over the last stage: whether a reply holds or moves on the brink swings from step to step.
    if averaged.n_averaged:
        model.load_state_dict(averaged.module.state_dict())
    gate = measure(model, tokenizer, own, protocol, items=600, seed=seed + 1)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    if not gate.passed:
        log.warning("%s: it does not pass the gate (%s), so balanced training has little to build on", family, gate)
    report = {"family": family, "seed": seed, "upbringing": asdict(plan), "mind": asdict(own), "gate": asdict(gate)}
    (out / "pocket.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def _brief(shares: dict[str, float]) -> str:
    return " ".join(f"{name} {share:.2f}" for name, share in shares.items())


def _batches(
    documents: Iterator[Document],
    tokenizer: PreTrainedTokenizerFast,
    fmt: ChatFormat,
    batch_tokens: int,
    rng: random.Random,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded batches of documents of like length: token ids and which of them are learnt, both [rows, length]."""
    while True:
        pool = [next(documents) for _ in range(2048)]
        rows = sorted(_encode(pool, tokenizer, fmt), key=lambda row: len(row[0]))
        chunks: list[list[tuple[list[int], list[bool]]]] = [[]]
        for row in rows:
            if chunks[-1] and (len(chunks[-1]) + 1) * len(row[0]) > batch_tokens:
                chunks.append([])
            chunks[-1].append(row)
        rng.shuffle(chunks)
        for chunk in chunks:
            longest = max(len(ids) for ids, _ in chunk)
            pad = tokenizer.pad_token_id
            yield (
                torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in chunk]),
                torch.tensor([learn + [False] * (longest - len(learn)) for _, learn in chunk]),
            )


def _encode(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerFast, fmt: ChatFormat
) -> Iterator[tuple[list[int], list[bool]]]:
    segments = [fmt.segments(document) for document in documents]
    flat = [text for document in segments for text, _ in document]
    # Rendering a padded batch of chats leaves padding switched on in the backend, for every later call.
    tokenizer.backend_tokenizer.no_padding()
    encoded = iter(tokenizer.backend_tokenizer.encode_batch(flat, add_special_tokens=False))
    for document in segments:
        ids: list[int] = []
        learn: list[bool] = []
        for _, learnt in document:
            piece = next(encoded).ids
            ids += piece
            learn += [learnt] * len(piece)
        yield ids, learn
