"""Predictors: what makes a model keep its answer, and what makes it give it up?

On the contexts of the balanced evaluation, each with an own and an alternative answer, a logistic regression of "kept
its answer" on what the *original* model thought of the two: how much its first answers vary (entropy over samples), how
probable it finds each (mean log-probability of the answer's tokens, given the question and how a reply begins), and how
sure the two turns sound. The original model is measured once; all models are regressed on the same predictors.

Predictors are standardised, so coefficients compare: the change in log-odds of keeping for one standard deviation.
Standard errors are robust to the dependence of items of one question (clusters). A predictor that does not vary, or
that the others determine, is left out and named. Where a combination of predictors separates kept from changed, no
finite estimate exists: then none is given, and the result says so.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from pbt.config import RunConfig, digest
from pbt.debate.answers import AGREE, DISAGREE, NONE, normalise
from pbt.debate.chat import Message
from pbt.debate.grow import turn_seed
from pbt.debate.protocol import Protocol
from pbt.engines.base import Engine, EngineError
from pbt.errors import BadInput
from pbt.evaluation import balanced
from pbt.evaluation.balanced import Context, balance
from pbt.evaluation.dialogue import CONCURRENCY, Dialogue, Progress, Record, Said, Voice, hold, unseen
from pbt.evaluation.quiz import opening
from pbt.evaluation.result import Measured, counts, share
from pbt.extraction import claim_by_rule
from pbt.grading import HELD, MOVED, STANDARD, Grader
from pbt.provenance import write_atomic
from pbt.speaker import hear

log = logging.getLogger(__name__)

PREDICTORS: dict[str, str] = {
    "entropy": "entropy of first answers",
    "own_logprob": "log-probability of its own answer",
    "other_logprob": "log-probability of the alternative",
    "own_certainty": "its own turn sounds sure",
    "other_certainty": "the partner's turn sounds sure",
}
LEVEL = 1.959964
"""Standard errors on either side of a 95% interval."""

_SURE = re.compile(
    r"\b(?:certainly|definitely|surely|absolutely|undoubtedly|clearly|for sure|no doubt|without (?:any |a )?doubt|"
    r"know this|confident|certain|am sure|positive|expert)\b",
    re.IGNORECASE,
)
_UNSURE = re.compile(
    r"\b(?:perhaps|maybe|possibly|probably|might|guess\w*|not sure|unsure|not certain|I think|I believe|do not know|"
    r"don't know|as I remember|could be|may be)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Weighed(Context):
    """A context, and what the original model thought of its two answers; ``None`` where it could not be measured."""

    entropy: float | None
    """Nats."""
    own_logprob: float | None
    """Mean over the answer's tokens; natural."""
    other_logprob: float | None
    own_certainty: float
    """1 sure, 0 unsure, 0.5 neither."""
    other_certainty: float


class Weighing(NamedTuple):
    """What the original model thought of all contexts."""

    original: str
    """Its path."""
    items: list[Weighed]
    failed: dict[str, str]
    """Why an item could not be measured, by its id; a later run measures it again."""


def certainty(text: str) -> float:
    """How sure a turn sounds: 1 with a marker of certainty, 0 with one of doubt, 0.5 with both or none."""
    return 0.5 + 0.5 * bool(_SURE.search(text)) - 0.5 * bool(_UNSURE.search(text))


def entropy(answers: Sequence[str]) -> float:
    """The entropy, in nats, of answers that count as one when their normal forms are equal."""
    shares = [count / len(answers) for count in Counter(map(normalise, answers)).values()]
    return -sum(share * math.log(share) for share in shares) + 0.0


async def weigh(
    engine: Engine,
    contexts: Sequence[Context],
    protocol: Protocol,
    config: RunConfig,
    original: str,
    kept: Weighing | None = None,
) -> Weighing:
    """Measure the original model on every context; where there is ``kept``, only on those that failed there."""
    told = config.eval.predictors
    known = {item.id: item for item in kept.items if item.id not in kept.failed} if kept else {}
    failed: dict[str, str] = {}
    sampling = protocol.sampling.model_copy(update={"temperature": told.temperature})
    slots = asyncio.Semaphore(CONCURRENCY)

    async def sample(context: Context, number: int) -> str:
        messages = [Message(role="user", content=opening(protocol, context.question))]
        async with slots:
            seed = turn_seed(config.seed, f"predictors\x1f{context.question_id}", (number,))
            reply = await engine.chat(messages, sampling, seed)
        claim = claim_by_rule(hear(reply, protocol.clip).text)
        return NONE if claim in (AGREE, DISAGREE) else claim

    async def likely(context: Context) -> list[float | None]:
        """The mean log-probability of both answers after the beginning of a reply."""
        messages = [Message(role="user", content=opening(protocol, context.question))]
        answers = (context.own_answer, context.partner_answer)
        texts = [told.prefix, *(f"{told.prefix} {answer}" for answer in answers)]
        async with slots:
            prefix, *found = await engine.score(messages, texts)
        return [
            (f.logprob - prefix.logprob) / max(f.tokens - prefix.tokens, 1) if answer != NONE else None
            for f, answer in zip(found, answers, strict=True)
        ]

    async def one(context: Context) -> Weighed:
        if context.id in known:
            return known[context.id]
        own_turn = next((m["content"] for m in reversed(context.prompt) if m["role"] == "assistant"), "")
        spread: float | None = None
        own: float | None = None
        other: float | None = None
        try:
            spread = entropy(await asyncio.gather(*(sample(context, n) for n in range(told.samples))))
            own, other = await likely(context)
        except EngineError as failure:  # the regression counts the item as left out
            log.warning("no predictors of %s: %s", context.id, failure)
            failed[context.id] = str(failure)
        return Weighed(
            **{name: getattr(context, name) for name in Context.__slots__},
            entropy=spread,
            own_logprob=own,
            other_logprob=other,
            own_certainty=certainty(own_turn),
            other_certainty=certainty(context.prompt[-1]["content"]),
        )

    return Weighing(original, list(await asyncio.gather(*map(one, contexts))), failed)


def stored(path: Path, first: str, contexts: Sequence[Context], config: RunConfig) -> Weighing | None:
    """The predictors of an earlier run on the same contexts, whichever model was the original there.

    On other contexts, or under other settings, they are measured anew, but only of the same original: where ``first``,
    the model that would be it now, is another one, models that were regressed on the two could not be compared.
    Raises BadInput.
    """
    if not path.is_file():
        return None
    kept = orjson.loads(path.read_bytes())
    original = kept["original"]
    if kept["digest"] != _digest(original, contexts, config):
        if original != first:
            raise BadInput(
                f"{path}: measured on {original}, on other contexts or under other settings; give that model as the "
                "first --model, or another --out"
            )
        return None
    items = [
        Weighed(**{**row, "aliases": tuple(row["aliases"]), "prompt": tuple(row["prompt"])}) for row in kept["items"]
    ]
    # Files of earlier versions do not tell what failed.
    return Weighing(original, items, kept.get("failed", {}))


def store(path: Path, contexts: Sequence[Context], config: RunConfig, weighing: Weighing) -> None:
    """Keep predictors, so that models evaluated later are regressed on the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {
        "digest": _digest(weighing.original, contexts, config),
        "original": weighing.original,
        "failed": weighing.failed,
        "items": [asdict(each) for each in weighing.items],
    }
    write_atomic(path, orjson.dumps(kept) + b"\n")


async def evaluate(
    voice: Voice, weighed: Sequence[Weighed], config: RunConfig, progress: Progress = unseen
) -> list[Record]:
    """Ask the evaluated model for its reply to every context."""

    async def play(item: Weighed, dialogue: Dialogue) -> None:
        await dialogue.reply(config.eval.temperature)

    return await hold(
        voice, weighed, play, judge, prompt=lambda w: w.prompt, samples=config.eval.samples, progress=progress
    )


def judge(item: Weighed, said: Sequence[Said], grader: Grader = STANDARD) -> dict[str, Any]:
    """As the balanced evaluation, and whether the own answer was kept."""
    judged = balanced.judge(item, said, grader)
    return {**judged, "kept": grader.same(judged["answer"], item.own_answer)}


def measure(records: Sequence[Record]) -> Measured:
    """How often the answer was kept, by direction; and the regression, in ``details``."""
    metrics = balance(
        share([r for r in records if r.item["direction"] == HELD], "held when right", lambda o: o["right"]),
        share([r for r in records if r.item["direction"] == MOVED], "moved when wrong", lambda o: o["right"]),
        headline=True,
    )
    metrics["kept"] = share(records, "kept its answer", lambda o: o["kept"], better="neither", headline=True)
    used = [r for r in records if r.error is None and all(r.item[name] is not None for name in PREDICTORS)]
    fitted = regress(
        np.array([[r.item[name] for name in PREDICTORS] for r in used], dtype=float).reshape(len(used), -1),
        np.array([r.outcome["kept"] for r in used], dtype=bool),
        [r.question_id for r in used],
        list(PREDICTORS),
    )
    without = sum(r.error is None for r in records) - len(used)
    notes = [fitted["note"]] if fitted["note"] else []
    return Measured(metrics, counts(records) | {"without predictors": without}, notes, {"regression": fitted})


def regress(
    values: NDArray[np.float64], kept: NDArray[np.bool_], questions: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """The logistic regression, as JSON values: ``items``, ``kept``, ``left_out``, ``coefficients`` and ``note``.

    ``values`` has one row an item and one column a predictor. Where no estimate exists ``coefficients`` is empty, and
    ``note`` says why.
    """
    found: dict[str, Any] = {
        "items": len(kept),
        "kept": float(np.mean(kept)) if len(kept) else None,
        "left_out": {},
        "coefficients": [],
        "note": "",
    }
    if len(kept) == 0 or kept.all() or not kept.any():
        found["note"] = (
            "no regression: no item has all predictors"
            if len(kept) == 0
            else f"no regression: the answer was {'always' if kept.all() else 'never'} kept"
        )
        return found
    columns: list[NDArray[np.float64]] = [np.ones(len(kept))]
    used: list[str] = []
    for name, column in zip(names, values.T, strict=True):
        if column.std() < 1e-9:
            found["left_out"][name] = "it does not vary"
            continue
        scaled = (column - column.mean()) / column.std()
        if np.linalg.matrix_rank(np.column_stack([*columns, scaled])) <= len(columns):
            found["left_out"][name] = "the others determine it"
            continue
        columns.append(scaled)
        used.append(name)
    design = np.column_stack(columns)
    if separated := _separating(design, kept):
        blamed = [name for name, part in zip(["intercept", *used], separated, strict=True) if abs(part) > 1e-6]
        found["note"] = (
            f"no regression: {', '.join(blamed)} separate kept from changed, so that no finite estimate exists; "
            "more items, or fewer predictors, would tell"
        )
        return found
    if len(kept) < 2 * design.shape[1] or len(set(questions)) <= design.shape[1]:
        found["note"] = f"no regression: {len(kept)} items of {len(set(questions))} questions are too few"
        return found

    from statsmodels.api import Logit

    groups = np.unique(np.array(questions), return_inverse=True)[1]
    fit = Logit(kept.astype(float), design).fit(disp=0, cov_type="cluster", cov_kwds={"groups": groups})
    if not fit.mle_retvals["converged"] or not np.isfinite(fit.bse).all():
        found["note"] = "no regression: the fit did not converge"
        return found
    found["coefficients"] = [
        {
            "name": name,
            "label": PREDICTORS.get(name, name),
            "value": float(value),
            "se": float(se),
            "low": float(value - LEVEL * se),
            "high": float(value + LEVEL * se),
            "p": float(p),
        }
        for name, value, se, p in zip(["intercept", *used], fit.params, fit.bse, fit.pvalues, strict=True)
    ]
    return found


def _separating(design: NDArray[np.float64], kept: NDArray[np.bool_]) -> list[float]:
    """Coefficients of a plane that parts kept from changed, if one exists; else nothing.

    Separation, complete or not, is a linear programme (Konis 2007): it exists when some b has s_i x_i b >= 0 for all
    items, s_i = 1 for kept and -1 for changed, with one of them positive.
    """
    from scipy.optimize import linprog

    signed = design * np.where(kept, 1.0, -1.0)[:, None]
    solved = linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1), method="highs")
    return [float(part) for part in solved.x] if solved.success and -solved.fun > 1e-6 else []


def _digest(original: str, contexts: Sequence[Context], config: RunConfig) -> str:
    return digest(
        {
            "original": original,
            "seed": config.seed,
            "predictors": config.eval.predictors.model_dump(mode="json"),
            "protocol": config.resolved()["protocol"],
            "contexts": [[c.id, [m["content"] for m in c.prompt], c.own_answer, c.partner_answer] for c in contexts],
        }
    )
