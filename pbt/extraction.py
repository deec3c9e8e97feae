"""The answer of a turn, read by rule from its text.

The rule reads short English replies as chat models write them: the claim is what follows "it is", "the answer is",
"I stay with" and the like, up to the end of the clause. Where a reply only agrees or disagrees, the claim is that
token. Nothing found is NONE, never a guess.
"""

from __future__ import annotations

import re

from pbt.debate.answers import AGREE, DISAGREE, NONE, normalise, read_claim

_CUES = re.compile(
    r"""
    \b(?:
        (?:stay|stick|remain|go|going|went)\ with
      | (?:change|changing|revise|switch)\ (?:my\ (?:answer|mind)\ )?to
      | (?:final\ |my\ |the\ |correct\ |right\ )*(?:answer|guess)\ (?:here\ )?(?:is|remains|stays|was|would\ be|must\ be|should\ be)
      | (?:it|that|this|he|she)(?:\ (?:is|was|must\ be|should\ be|may\ be|might\ be|could\ be|would\ be|has\ to\ be)|'s)
      | (?:facts|evidence|records|sources)\ points?\ to
      | (?:say|choose|pick|believe\ in|keep|guess|answer)
    )\s*:?\s+
    (?:still\ |certainly\ |definitely\ |probably\ |perhaps\ |likely\ |indeed\ |actually\ |simply\ |in\ fact\ |surely\ )*
    (?P<claim>[^\s].*)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_END = re.compile(
    r"""[;:!?\n] | ,(?!\s(?:Jr|Sr)\b) | \.(?=\s|$)(?<!\b[A-Z]\.)(?<!\bSt\.)(?<!\bDr\.)(?<!\bMr\.)(?<!\bMt\.)
        | \s[-–—]\s | \b(?:because|since|but|although|though|while|so\ that|which|who|where|as\ I|if\ I|with\ me
        | and\ (?:not|I|rule|it|that|we|you|he|she|this)\b | without\ (?:any\ )?(?:a\ )?doubt) | (?<=\w)\ and\ (?=not\b)""",
    re.VERBOSE,
)
_AGREE = re.compile(
    r"^\W*(?:yes\b|(?:i|we|so i)\ (?:\w+\ )?agree\b|you(?:'re|\ are)\ (?:\w+\ )?right\b|agreed\b|that(?:'s|\ is)\ right\b|good\ point\b)",
    re.IGNORECASE,
)
_DISAGREE = re.compile(
    r"^\W*(?:no\b|i\ (?:\w+\ )?disagree\b|i\ (?:do\ not|don't|cannot|can't)\ agree\b|i(?:'m|\ am)\ not\ convinced\b|disagree\b|you(?:'re|\ are)\ wrong\b)",
    re.IGNORECASE,
)
_NOT_CLAIMS = re.compile(
    r"^(?:not\b|right$|wrong$|true$|false$|correct$|incorrect$|possible$|sure$|my\b|your\b|that\b|it$|so$|only\b|what\b|i\b|you\b|very\b|this$|clear\b)",
    re.IGNORECASE,
)
_LONGEST = 10
"""Words in the longest claim that is believed to be a short answer."""


def clip_unfinished(text: str) -> tuple[str, bool]:
    """Cut off an unfinished last sentence. Returns the kept text, "" when there is no sentence end, and whether it cut.

    A period after a single capital (an initial) ends no sentence.
    """
    stripped = text.rstrip()
    ends = list(re.finditer(r"(?:(?<!\b[A-Z])\.|[!?])[\"'”’)\]]*(?=\s|$)", stripped))
    if ends and ends[-1].end() == len(stripped):
        return stripped.strip(), False
    if not ends:
        return "", True
    return stripped[: ends[-1].end()].strip(), True


def claim_by_rule(text: str) -> str:
    """The claim of a reply: a short answer, or Agree, Disagree or NONE."""
    text = " ".join(text.split())
    if not text:
        return NONE
    for cue in _CUES.finditer(text):
        claim = _clean(cue["claim"])
        if claim:
            return claim
    # A cue swallows the rest of the text; look for later ones that it covered.
    for start in (m.end() for m in re.finditer(r"[.,;!?:]\s+", text)):
        cue = _CUES.match(text, start) or _CUES.search(text, start)
        if cue:
            claim = _clean(cue["claim"])
            if claim:
                return claim
    if _AGREE.match(text):
        return AGREE
    if _DISAGREE.match(text):
        return DISAGREE
    bare = _clean(text)
    if bare and len(bare.split()) <= 5:
        return bare
    copula = re.search(r"\b(?:is|was|are|were|called)\s+(?:the\s)?(?P<claim>[A-Z0-9].*)", text)
    return (copula and _clean(copula["claim"])) or NONE


def _clean(claim: str) -> str:
    """Cut a claim at the end of its clause; "" when it is no answer ("not X", "right", or too long)."""
    end = _END.search(claim)
    claim = (claim[: end.start()] if end else claim).strip(" \"'“”‘’*_.")
    if _NOT_CLAIMS.match(claim) or len(claim.split()) > _LONGEST or not normalise(claim):
        return ""
    return read_claim(claim)
