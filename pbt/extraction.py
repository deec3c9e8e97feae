"""The answer of a turn, read by rule from its text.

The rules read short English replies as chat models write them, and are tried in this order:

1. the speaker's own answer is stated: "the answer is X", "I stay with X", "I change my answer to X";
2. it is stated as "it is X";
3. X is named: "I think X", "X is the capital of France", "the capital of France is X", "it was written by X";
4. the reply opens with the bare answer: "X.", "No, X.";
5. it only agrees or disagrees: the token Agree or Disagree; where both occur the last counts.

A rule's first hit counts that is the speaker's own: not denied ("I don't think it is X"), not past ("I thought it was
X") and not the partner's ("you say it is X"). A claim runs to the end of its clause. Nothing found is NONE, no guess.
"""

from __future__ import annotations

import re

from pbt.debate.answers import AGREE, DISAGREE, NONE, normalise, read_claim

# Where sentences and clauses end. The period of an initial or a title ends a sentence only where one plainly starts
# after it ("It is N.W.A. I know"), and at the end of the text only after N.W.A. and the like, or Jr.
_STOP = r"""(?:
    [!?]
  | (?<!^[A-Z])(?<![\s.("'][A-Z])(?<!\b[DJMS]r)(?<!\bMrs)(?<!\bM[st])(?<!\bSt)\.
  | \.(?=\s(?:I|It|That|This|The|And|But|So|You|We|He|She|They|My|There)\b)
  | (?:(?<=\.[A-Z])|(?<=\b[JS]r))\.(?=\W*$)
)["'”’)\]*]*(?=\s|$)"""
_SENTENCE_END = re.compile(_STOP, re.VERBOSE)
_CLAUSE_END = re.compile(
    rf"""{_STOP}
  | ; | :(?!\s(?!I\b)[A-Z]) | ,(?=\s)(?!\s(?:Jr|Sr|D\.?C)\b) | \s?[–—]\s? | \s-+\s
  | \b(?:because|since|but|although|though|while|which|who|where|so|not|rather|instead|is|was|are|as|if
      | with\ (?:me|you|confidence) | based\ on | due\ to | without\ (?:an?y?\ )?doubt | for\ (?:sure|certain)
      | on\ this
      | and\ (?:not|I|rules?|it|that|we|you|he|she|this)
    )\b""",
    re.VERBOSE,
)

_BREAK = re.compile(r"[,.;:!?]\s|\b(?:but|and|now|so)\b", re.IGNORECASE)
_NOT_OWN = re.compile(
    r"""n't\b | \b(?:
        not | cannot | never | disagree | if | unless | whether | because | since | why | how | when | your
      | I\ (?:\w+\ )?(?:thought|said|believed|assumed|guessed|doubt|was\ going)
      | (?:you|they|people|many|some|others)\ (?:\w+\ )?(?:think|said|say|believe|claim|insist|thought)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""What makes the rest of a clause no claim of the speaker's."""

_HEDGE = r"""(?:,?\ (?:still|certainly|definitely|probably|perhaps|possibly|maybe|(?:most\ )?likely|indeed|actually
    |simply|surely|clearly|undoubtedly|really|almost|in\ fact|of\ course|without\ (?:an?y?\ )?doubt),?)*"""
_BE = r"(?:is|would\ be|must\ be|should\ be|may\ be|might\ be|could\ be|has\ to\ be|remains|stays)"
_WORD = r"(?:(?:[A-Z]\.)+|(?:St|Dr|Mr|Mrs|Mt|Jr)\.|[A-ZÀ-ÖØ-Þ0-9][\w'&/-]*)"
_NAME = (
    rf"(?:[Tt]he\ )?{_WORD}(?:\ (?:(?:of|the|and|in|on|for|de|da|del|la|le|van|von|der)\ )*{_WORD})*(?<!'s)(?![\w'])"
)
_PRONOUN = r"(?:The\ )?(?:I|It|That|This|The|You|We|He|She|They|My|Your|There|What|Here|Yes|No)\b(?!\ [A-Z])"

_RULES = tuple(
    re.compile(pattern, re.VERBOSE | flags)
    for pattern, flags in (
        (
            rf"""\b(?:
                (?:answer|guess)(?:\ (?:here|to\ [^,.;:]+?))?(?:(?:\ {_BE}|'s){_HEDGE}\ ?:?|:)
              | (?:stay|stick|remain|go|going|side)\ with | keep\ to | settle\ on | stand\ by
              | (?:change|changing|revise|switch|switching)\ (?:(?:my|the)\ (?:\w+\ )?(?:answer|mind)\ )?to
              | (?:facts|evidence|records|sources)\ (?:all\ )?points?\ to
              | say|choose|pick|guess|keep|believe\ in
            )\ (?P<claim>\S.*)""",
            re.IGNORECASE,
        ),
        (
            rf"\b(?:(?:it|he|she|they|that|this)(?:\ {_BE}|'s|'re|\ was|\ were|\ are){_HEDGE}\ ?:?)\ (?P<claim>\S.*)",
            re.IGNORECASE,
        ),
        (rf"\b(?:think|thinking|believe|say|maintain)\ (?:of\ |that\ )?(?!{_PRONOUN})(?P<claim>{_NAME})", 0),
        (
            rf"(?:^|[,;:.!]\ |\b(?:that|but|and)\ )(?!{_PRONOUN})(?P<claim>{_NAME})"
            r"\ (?:(?:is|was|are|were)\ the|wrote|won|painted|composed|directed|invented|discovered|created)\b",
            0,
        ),
        (r"\b(?:is|was|are|were|called|named)\ (?P<claim>(?:the\ )?[A-ZÀ-ÖØ-Þ0-9].*)", 0),
        (r"\bby\ (?P<claim>(?:the\ |The\ )?[A-ZÀ-ÖØ-Þ].*)", 0),
    )
)

_STANCE = re.compile(
    r"""
    (?P<no>
        \bdisagree | (?:\bnot|n't|\bcannot|\bnever)\ (?:\w+\ )?(?:agree|accept|convinced|right|correct|true)
      | \b(?:you're|you\ are|that's|that\ is)\ (?:\w+\ )?(?:wrong|mistaken|incorrect)
      | ^no\b(?!\ (?:idea|clue|doubt|problem))
      | \b(?:stay|stick|stand|keep|hold)(?:ing)?\ (?:with\ |by\ |to\ )?my\ | \banswer\ (?:stands|remains\ the\ same)
    ) | (?P<yes>
        \bagree | ^(?:yes|exactly)\b | \bconvinced\ me\b | \bstand\ corrected\b | \b(?:good|fair)\ point\b
      | \b(?:you're|you\ are|you\ may\ be|you\ must\ be|that's|that\ is)\ (?!not\b)(?:\w+\ )?(?:right|correct)\b
      | \bI\ (?:was|am)\ (?:wrong|mistaken)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)

_LEAD = re.compile(
    r"^(?:(?:yes|no|well|hmm|oh|ah|okay|sure|sorry|actually|perhaps|maybe|probably)\b[,.!:]*\ )+", re.IGNORECASE
)
_PREPOSITION = re.compile(r"^(?:[a-z]+\ )?(?:in|by|on|from|at|called|named|known\ as|to\ be)\ (?=(?:the\ )?[A-Z0-9])")
_QUOTED = re.compile(r"^[\"“](?P<title>[^\"“”]+)[\"”]")
_NO_ANSWER = re.compile(
    r"""(?:
        (?:an?|one)\ [a-z-]+\ | the\ [a-z].*\ (?:of|in|by|for|from|on|to)\b
      | [a-z]+\ (?:that|to)\b | both\b | either\b
      | (?:i|it|he|she|they|we|you|my|your|our|this|that|these|so|what|how|why|when|with|in|on|at|for|to|of|from|about
          |by|as|yes|no|only|very|too|more|just|all|again|okay|ok|fine|sure|certain|clear|obvious|true|false|right
          |wrong|correct|incorrect|possible|impossible|likely|known|worth|mistaken|convinced|absolutely|exactly|indeed|never
          |thanks|sorry|hello|please|let's)
        (?=\ [a-z]|'|$)
    )""",
    re.VERBOSE,
)
"""How a clause starts that is no answer: a remark, or a description of what was named before."""
_TALK = re.compile(
    r"\b(?:i|you|me|my|your|us|is|are|do (?:not|you)|don't|can't|let"
    r"|agree|disagree|idea|clue|question|point|answer|guess|shame|pity)\b"
)
"""Words that a short answer does not hold, in lower case."""
_LONGEST, _LONGEST_BARE = 10, 5
"""Words in the longest claim that is believed to be a short answer; without a cue it must be shorter."""


def clip_unfinished(text: str) -> tuple[str, bool]:
    """Cut off an unfinished last sentence. Returns the kept text, "" when there is no sentence end, and whether it cut.

    For replies that ran into their token limit. A name cut after an initial ("J. R. R.") is unfinished.
    """
    stripped = text.strip()
    end = max((match.end() for match in _SENTENCE_END.finditer(stripped)), default=0)
    return stripped[:end], end < len(stripped)


def claim_by_rule(text: str) -> str:
    """The claim of a reply: a short answer, or Agree, Disagree or NONE."""
    text = " ".join(text.replace("’", "'").replace("*", "").split())
    for rule in _RULES:
        at = 0
        while hit := rule.search(text, at):
            at = hit.start("claim")
            if _is_own(text[:at]) and (claim := _clean(hit["claim"])):
                return claim
    bare = _LEAD.sub("", text)
    claim = _clean(bare)
    if claim and len(claim.split()) <= _LONGEST_BARE and not _NO_ANSWER.match(claim[0].lower() + claim[1:]):
        return claim
    stances = [hit for hit in _STANCE.finditer(text) if hit["no"] or _is_own(text[: hit.start()])]
    if stances:
        return DISAGREE if stances[-1]["no"] else AGREE
    return NONE


def _is_own(before: str) -> bool:
    """Whether what follows ``before`` in its clause is the speaker's present belief."""
    return not _NOT_OWN.search(_BREAK.split(before)[-1])


def _clean(claim: str) -> str:
    """Cut a claim at the end of its clause; "" when it is no answer."""
    if denied := re.match(r"not\ [^.,;]+?,?\ but\ (?:rather\ )?", claim):
        claim = claim[denied.end() :]
    claim = _PREPOSITION.sub("", claim)
    if quoted := _QUOTED.match(claim):
        return read_claim(quoted["title"])
    end = _CLAUSE_END.search(claim)
    claim = (claim[: end.start()] if end else claim).strip(" \"'“”‘_.")
    if len(claim.split()) > _LONGEST or not normalise(claim) or _NO_ANSWER.match(claim) or _TALK.search(claim):
        return ""
    return read_claim(claim)
