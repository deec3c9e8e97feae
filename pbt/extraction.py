"""The answer of a turn, read from its text: by rule, or what a model is asked so that it reads it.

The rules read short English replies as chat models write them. What the speaker takes back on the way ("Paris? No,
Lyon") and what it leaves open ("it could be Paris or Lyon") is passed over. They are tried in this order:

0. a wrong answer is named together with the right one, or the partner's is taken over: "not X but Y";
1. the speaker's own answer is stated: "the answer is X", "I stay with X", "I change my answer to X";
2. it is stated as "it is X";
3. X is named: "I think X", "X is the capital of France", "the capital of France is X", "it was written by X";
4. a date or a number is all there is: "it fell in X", "a week has X days";
5. the reply opens with the bare answer: "X.", "No, X.";
6. it only agrees or disagrees: the token Agree or Disagree; where both occur the last counts.

A rule's first hit counts that is the speaker's own: not denied ("I don't think it is X"), not past ("I thought it was
X") and not the partner's ("you say it is X"). A claim runs to the end of its clause. Nothing found is NONE, no guess.
"""

from __future__ import annotations

import re

from pbt.config import Prompts
from pbt.debate.answers import AGREE, DISAGREE, NONE, normalise, read_claim
from pbt.debate.chat import Message

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
  | ; | :(?!\s(?!I\b)[A-Z]) | ,(?=\s)(?!\s(?:Jr|Sr|D\.?C|\d{{4}})\b) | \s?[–—]\s? | \s-+\s
  | \b(?:because|since|but|although|though|while|which|who|where|so|not|rather|instead|is|was|are|as|if
      | with\ (?:me|you|confidence) | based\ on | due\ to | without\ (?:an?y?\ )?doubt | for\ (?:sure|certain)
      | on\ this | (?<=\w\ )in\ (?:the\ year\ )?\d{{4}}
      | and\ (?:not|I|rules?|it|that|we|you|he|she|this)
    )\b""",
    re.VERBOSE,
)

_BREAK = re.compile(r"[,.;:!?]\s|\b(?:but|and|now|so)\b", re.IGNORECASE)
_NOT_OWN = re.compile(
    r"""n't\b | \b(?:
        not | cannot | never | disagree | if | unless | whether | because | since | why | how | when | your
      | I\ (?:\w+\ )?(?:thought|said|believed|assumed|guessed|considered|doubt|was\ going|used\ to|was\ wrong\ to)
      | (?:initial|first|original|earlier|previous|old)\ (?:answer|guess|thought|choice)\ was
      | (?:you|they|people|many|some|others)\ (?:\w+\ )?(?:think|said|say|saying|believe|claim|insist|thought)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""What makes the rest of a clause no claim of the speaker's."""

_HEDGE = r"""(?:,?\ (?:still|certainly|definitely|probably|perhaps|possibly|maybe|(?:most\ )?likely|indeed|actually
    |simply|surely|clearly|undoubtedly|really|almost|also|again|in\ fact|of\ course|without\ (?:an?y?\ )?doubt
    |I\ (?:think|believe|guess|suppose|would\ say)),?)*"""
_BE = r"(?:is|(?:would|must|should|may|might|could|will|can\ only)\ be|has\ to\ be|remains|stays)"
# What a name begins with: a capital of any European script, a digit, or a letter of a script without capitals.
_CAPITAL = "[A-Z0-9" + "".join(c for c in map(chr, range(0x80, 0x590)) if c.isupper()) + "\u0590-\u1dff\u2e80-\ud7ff]"
_WORD = rf"(?:(?:[A-Z]\.)+|(?:St|Dr|Mr|Mrs|Mt|Jr)\.|{_CAPITAL}[\w'&/-]*)"
_NAME = (
    rf"(?:[Tt]he\ )?{_WORD}(?:\ (?:(?:of|the|and|in|on|for|de|da|del|la|le|van|von|der)\ )*{_WORD})*(?<!'s)(?![\w'])"
)
_PRONOUN = r"(?:The\ )?(?:I|It|That|This|The|You|We|He|She|They|My|Your|There|What|Here|Yes|No)\b(?!\ [A-Z])"

_COUNT = (
    r"(?:\d[\d,.]*\d|\d|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    r"|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred)\b)"
)
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = rf"(?:\d{{1,2}}\ {_MONTH}\ \d{{4}}|{_MONTH}\ \d{{1,2}},\ \d{{4}}|(?:{_MONTH}\ )?\d{{4}}s?)\b"
_ANSWER = r"(?:answer|suggestion|choice|guess|pick)"
_OPEN_QUOTE = r"[\"“'‘]?"

_TAKEN_BACK = re.compile(
    r"""(?:^|[.?!,;]\ |…\ ?)(?:(?:hmm|oh|no|wait|sorry|hold\ on|actually|scratch\ that),?\ )*
        (?:wait,?\ no\b | no,\ (?:sorry|wait)\b | (?:I\ )?(?:meant?|mean\ to\ say)\b | scratch\ that\b
         | on\ second\ thoughts?\b | let\ me\ correct\ myself\b | (?<=\?\ )no\b
         | forget\ what\ I\ said(?:\ \w+)?
        )[,:.]?\ """,
    re.IGNORECASE | re.VERBOSE,
)
"""What stands before this the speaker takes back."""

_LEFT_OPEN = re.compile(
    r"""\b(?:
        (?:could|might|may)\ be\ [^.;!?]*?\bor\ (?!I\b|is\b)[^,.;!?]+
      | either\ [^.;!?]*?\bor\ [^,.;!?]+
      | (?:could|might|may)\ be\ [^.;,!?]+,\ (?:or\ )?(?:it\ )?(?:could|might|may)\ be\ [^,.;!?]+
      | (?:maybe|perhaps)\ [^.;,!?]+,\ (?:or\ )?(?:maybe|perhaps)\ [^,.;!?]+
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""Several candidates, and no choice among them yet."""

_PASSED_OVER = re.compile(r"^(?:rather\ than|instead\ of)\ [^,.;]+,\ ", re.IGNORECASE | re.VERBOSE)

_CONTRASTS = tuple(
    re.compile(pattern, re.VERBOSE)
    for pattern in (
        rf"\b(?:not|n't|[a-z]+n't)\ (?:in\ )?{_NAME},?\ but\ (?:rather\ )?(?P<claim>{_NAME})",
        r"^(?:No,\ )?[Nn]ot\ [^,.;]+(?:,\ not\ [^,.;]+)*,\ (?:but\ )?(?P<claim>\S.*)",
        rf"\b(?:agree|go|going|stick|sticking|stand|side)\ (?:with|by)\ (?:my|your)\ (?:\w+\ )?{_ANSWER}"
        r"\ (?:of|that\ it\ is)\ (?P<claim>\S.*)",
    )
)
"""Rules whose own words would make the claim look denied or the partner's: what counts is what stands before them."""

_RULES = tuple(
    re.compile(pattern, re.VERBOSE | flags)
    for pattern, flags in (
        (
            rf"""\b(?:
                (?:answer|guess)(?:\ (?:here|to\ [^,.;:]+?))?(?:(?:\ {_BE}|'s){_HEDGE}\ ?:?|:)
              | (?:stay|stick|remain|go|going|side)\ with | keep\ to | settled?\ on | stand\ by
              | (?:chang(?:e|ed|ing)|revis(?:e|ed|ing)|switch(?:ed|ing)?)
                \ (?:(?:(?:my|the)\ (?:\w+\ )?(?:answer|mind)|it|from\ [^,.;]+?)\ )?to
              | (?:facts|evidence|records|sources|clues|question|signs)\b[^.;:]*\ points?\ to
              | lean(?:ing)?\ towards? | opt(?:ing)?\ for | (?:money\ is|bet\ is)\ on | vote\ (?:is\ for|goes\ to)
              | (?:'d|'ll|would|will)\ answer | suggestion\ of
              | say|choose|pick|guess|keep(?!\ \w+ing)|keeping|believe\ in
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
            r"\ (?:(?:is|was|are|were)\ (?:the|right|correct)|wrote|won|painted|composed|directed|invented|discovered"
            r"|created|founded|seems|strikes\ me|gets\ my\ vote|holds\ the|[a-z]+ed\ (?:the|it|that|this))\b",
            0,
        ),
        (rf"(?:^|[,;:.!]\ |\b(?:so|that|but|and)\ )(?P<claim>{_NAME})\ it\ (?:is|was|must\ be)(?=[,.!]|$)", 0),
        (
            r"(?:^|[,;:.!]\ |\b(?:so|that|and|think|believe)\ )(?P<claim>(?!it\b|this\b|that\b)[^,.;:!?]{1,50}?)"
            rf"\ (?:is|was|remains)\ (?:still\ )?my\ (?:final\ )?{_ANSWER}\b",
            re.IGNORECASE,
        ),
        (rf"\b(?:has|have|had|[Tt]here\ (?:are|were|is))\ (?:exactly\ )?(?P<claim>{_COUNT})(?=\ [a-z])", 0),
        (rf"\b(?:is|was|are|were|be|called|named)\ (?P<claim>{_OPEN_QUOTE}(?:the\ )?{_CAPITAL}.*)", 0),
        (rf"\b(?:are|were)\ (?P<claim>{_COUNT}.*)", 0),
        (
            rf"\b(?:[Tt]he|[Ww]hat)\ (?:[\w'-]+\ ){{2,12}}?{_BE}{_HEDGE}\ (?P<claim>(?:an?\ |the\ )?[a-z][\w-]*"
            r"(?:\ (?!that\b|to\b)[a-z][\w-]*){0,2}(?=[.,;!?]|\ (?:because|since|which|as)\b|$).*)",
            0,
        ),
        (rf"\b(?:namely|none\ other\ than|that\ of|[Ss]uspect)\ (?P<claim>(?:the\ )?{_NAME}|(?<=namely\ )\S.*)", 0),
        (rf"\bby\ (?P<claim>{_NAME})", 0),
        (rf":\ (?P<claim>(?:{_OPEN_QUOTE}{_NAME}|(?:the\ |an?\ )?[a-z]+)(?=\W*$|[.!]\ ))", 0),
        (rf"\b(?:in|on|around)\ (?:the\ year\ )?(?P<claim>{_DATE})", 0),
        (rf"\b(?:lasted|lasts|takes|took|measures|weighs|costs?)\ (?:for\ )?(?P<claim>{_COUNT}\ .*)", 0),
    )
)

_STANCE = re.compile(
    r"""
    (?P<no>
        \bdisagree | \bbeg\ to\ differ | \bunconvinced\b | \bunpersuaded\b
      | (?:\bnot|n't|\bcannot|\bnever)\ (?:[\w']+\ ){0,3}
            (?:agree|accept|concur|share\ your|convinced?|persuaded?|right|correct|true|accurate|hold\ up)\b
      | (?:\bnot|n't|\bnever|\bnothing)\b[^.;!?]*\ (?:chang\w+|switch\w*)\ (?:my|to\ your)\b
      | \b(?:you're|you\ are|that's|that\ is)\ (?:\w+\ )?(?:wrong|mistaken|incorrect)
      | ^no\b(?!\ (?:idea|clue|doubt|problem|objection))
      | \b(?:stay|stick|stand|keep|hold)(?:ing)?\ (?:with\ |by\ |to\ )?my\b
      | \banswer\ (?:stands|(?:remains|stays)\ the\ same)
    ) | (?P<yes>
        \bagree | \bconcur\b | \bshare\ your\b | \b(?:accept|trust)\ your\b | \bdefer\ to\ you | \bgo\ along\ with\b
      | ^(?:yes|exactly|absolutely)\b | \bconvince[sd]\ me\b | \b(?:you've|you\ have)\ won\b | \bstand\ corrected\b
      | \b(?:good|fair)\ point\b | \bspot\ on\b | \bI'?\ ?a?m\ with\ you\b | \bno\ objections?\b
      | (?:can't|cannot)\ argue\ with\b
      | \b(?:you're|you\ are|you\ may\ be|you\ must\ be|that's|that\ is|your\ (?:\w+\ )?is)\ (?!not\b)(?:\w+\ )?
            (?:right|correct)\b
      | \bI\ (?:was|am)\ (?:wrong|mistaken)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)

_LEAD = re.compile(
    r"""^(?:(?:yes|no(?!\ way)|well|hmm|oh|ah|okay|sure|sorry|actually|perhaps|maybe|probably|certainly|definitely
        |absolutely|obviously|of\ course|for\ sure|without\ (?:an?y?\ )?doubt|easy(?:\ one)?|simple|got\ it|voil[àa]
        |(?:final\ )?ans(?:wer)?)\b(?:\ [-…]|[,.!:])*\ )+""",
    re.IGNORECASE | re.VERBOSE,
)
_PREPOSITION = re.compile(r"^(?:[a-z]+\ )?(?:in|by|on|from|at|called|named|known\ as|to\ be)\ (?=(?:the\ )?[A-Z0-9])")
_QUOTED = re.compile(r"^(?:[\"“](?P<title>[^\"“”]+)[\"”]|['‘](?P<single>[^'‘’]+(?:'\w[^'‘’]*)*)['’](?!\w))")
_ABOUT = re.compile(rf"^(?:about|around|approximately|roughly|nearly|exactly|some)\ (?={_COUNT})", re.VERBOSE)
_NO_ANSWER = re.compile(
    r"""(?:
        (?:an?|one)\ [a-z-]+\ | the\ [a-z].*\ (?:of|in|by|for|from|on|to)\b
      | [a-z]+\ (?:that|to)\b | both\b | either\b | (?:the\ same|there|nothing|without)\b
      | (?:i|it|he|she|they|we|you|my|your|our|this|that|these|so|what|how|why|when|with|in|on|at|for|to|of|from|about
          |by|as|yes|no|only|very|too|more|just|all|again|okay|ok|fine|sure|certain|clear|obvious|true|false|right
          |wrong|correct|incorrect|possible|impossible|likely|known|worth|mistaken|convinced|absolutely|exactly|indeed|never
          |thanks|sorry|hello|please|let's)
        (?=\ [a-z]|'|$)
    )""",
    re.VERBOSE,
)
"""How a clause starts that is no answer: a remark, or a description of what was named before."""
_GOES_ON = re.compile(r"\s*(?:is|was|are|as|if|so|who|where|while|which)\b|(?<=o)\s*not\b")
"""What makes the opening words the subject of a sentence instead of a bare answer."""
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
    text = " ".join(text.replace("’", "'").replace("*", "").replace("...", " … ").split())
    *_, last = [None, *_TAKEN_BACK.finditer(text)]
    if last and (claim := _named(text[last.end() :])):
        return claim
    left = _LEFT_OPEN.sub("…", _PASSED_OVER.sub("", text))
    if claim := _named(left):
        return claim
    stances = [hit for hit in _STANCE.finditer(left) if hit["no"] or _is_own(left[: hit.start()])]
    if stances:
        return DISAGREE if stances[-1]["no"] else AGREE
    return NONE


def _named(text: str) -> str:
    """The answer that a text names as its speaker's own; "" when there is none."""
    for rule in _CONTRASTS:
        if (hit := rule.search(text)) and _is_own(text[: hit.start()]) and (claim := _clean(hit["claim"])):
            return claim
    for rule in _RULES:
        at = 0
        while hit := rule.search(text, at):
            at = hit.start("claim")
            if _is_own(text[:at]) and (claim := _clean(hit["claim"])):
                return claim
    bare = _LEAD.sub("", text)
    claim = _clean(bare)
    short = claim and len(claim.split()) <= _LONGEST_BARE and not _NO_ANSWER.match(claim[0].lower() + claim[1:])
    return claim if short and not _GOES_ON.match(bare, len(claim)) else ""


def reading_messages(prompts: Prompts, text: str) -> list[Message]:
    """What a model is asked so that it reads the claim of ``text``.

    One message holds instruction, examples and text: engines that choose a replica by the first message spread these
    requests, and all replicas soon hold the common beginning.
    """
    shown = "".join(f"Reply: {example.reply}\nAnswer: {example.claim}\n\n" for example in prompts.examples)
    return [{"role": "user", "content": f"{prompts.instruction}\n\n{shown}Reply: {' '.join(text.split())}\nAnswer:"}]


def claim_from_model(said: str) -> str:
    """The claim in what a model said when asked to read one: its first line, without label and quotation marks.

    "" when there is none.
    """
    line = next((line for line in said.splitlines() if line.strip()), "")
    line = re.sub(r"^\W*answer\s*:", "", line, flags=re.IGNORECASE)
    return read_claim(line.split("(", 1)[0].strip(" \"'“”‘’*.`"))


def _is_own(before: str) -> bool:
    """Whether what follows ``before`` in its clause is the speaker's present belief."""
    return not _NOT_OWN.search(_BREAK.split(before)[-1])


def _clean(claim: str) -> str:
    """Cut a claim at the end of its clause; "" when it is no answer."""
    if denied := re.match(r"not\ [^.,;]+?,?\ but\ (?:rather\ )?", claim):
        claim = claim[denied.end() :]
    claim = _ABOUT.sub("", _PREPOSITION.sub("", claim))
    if quoted := _QUOTED.match(claim):
        return read_claim((quoted["title"] or quoted["single"]).rstrip(",."))
    end = _CLAUSE_END.search(claim)
    claim = (claim[: end.start()] if end else claim).strip(" \"'“”‘_.")
    if (
        len(claim.split()) > _LONGEST
        or not normalise(claim)
        or "…" in claim
        or _NO_ANSWER.match(claim)
        or _TALK.search(claim)
    ):
        return ""
    return read_claim(claim)
