"""The pocket architectures: what the chat template renders, and that a model folder loads as it was saved."""

from __future__ import annotations

from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Literal

import jinja2
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from pbt.debate.protocol import Protocol
from pbt.pocket.corpus import Corpus, Document, Part, mind
from pbt.pocket.models import CONTEXT, FORMATS, Size, build_model, build_tokenizer

Family = Literal["llama", "mistral"]
FAMILIES: tuple[Family, ...] = ("llama", "mistral")
TINY = Size(width=64, layers=2, head=16, feed_forward=64, vocab=600)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    text = resources.files("pbt").joinpath("protocols", "pocket-debate.yaml").read_text("utf-8")
    corpus = Corpus(mind("llama", 0), Protocol.model_validate(yaml.safe_load(text)), 0)
    awkward = [
        Part("user", "Édith Piaf, 東京 {{ 1 }} <b>?\n\nTwo  spaces. ", False),
        Part("assistant", " It is\u2028so. ", True),
    ]
    return [*islice(corpus.stream("debates"), 200), awkward]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(family: Family, documents: list[Document]) -> PreTrainedTokenizerFast:
    return build_tokenizer(family, (part.text for document in documents for part in document), TINY.vocab)


def chat(document: Document) -> list[dict[str, str]]:
    return [{"role": part.role, "content": part.text} for part in document]


def test_the_template_renders_what_the_model_was_raised_on(
    family: Family, tokenizer: PreTrainedTokenizerFast, documents: list[Document]
) -> None:
    for document in documents:
        raised_on = "".join(text for text, _ in FORMATS[family].segments(document))
        assert tokenizer.apply_chat_template(chat(document), tokenize=False) == raised_on


def test_the_template_tokenizes_as_the_segments_do(
    family: Family, tokenizer: PreTrainedTokenizerFast, documents: list[Document]
) -> None:
    """The tokens seen in training, segment by segment, are those seen when the whole chat is rendered."""
    for document in documents:
        pieces = [
            tokenizer(text, add_special_tokens=False)["input_ids"] for text, _ in FORMATS[family].segments(document)
        ]
        whole = tokenizer.apply_chat_template(chat(document), return_dict=True)["input_ids"]
        assert whole == [token for piece in pieces for token in piece]


def test_the_learnt_segments_are_replies_with_their_end(family: Family, documents: list[Document]) -> None:
    for document in documents:
        learnt = [text for text, learn in FORMATS[family].segments(document) if learn]
        assert learnt == [part.text + FORMATS[family].eos for part in document if part.learn]


def test_a_prompt_is_a_prefix_of_prompt_and_reply(
    tokenizer: PreTrainedTokenizerFast, documents: list[Document]
) -> None:
    """So the loss can cover the reply alone, and the engine continues exactly where training did."""
    for document in documents:
        messages = chat(document)
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        assert whole[: len(prompt)] == prompt
        assert whole[-1] == tokenizer.eos_token_id
        assert len(whole) > len(prompt) + 1


@pytest.mark.parametrize(
    "roles",
    [("system", "user"), ("assistant",), ("user", "user"), ("user", "assistant", "assistant"), ("user", "tool")],
)
def test_roles_that_do_not_alternate_are_refused(tokenizer: PreTrainedTokenizerFast, roles: tuple[str, ...]) -> None:
    with pytest.raises(jinja2.TemplateError, match="alternate"):
        tokenizer.apply_chat_template([{"role": role, "content": "x"} for role in roles], tokenize=False)


def test_special_tokens_are_one_token_each(family: Family, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in FORMATS[family].specials]
    assert all(len(found) == 1 for found in ids)
    assert len({found[0] for found in ids}) == len(FORMATS[family].specials)


@pytest.mark.parametrize("text", ["It is Paris.", "Édith Piaf  – 東京\n\n\u2028 🙂", " leading", "12 345"])
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_saved_model_loads_as_it_was(family: Family, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(family, tokenizer, TINY).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    reader = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config.model_type == family
    assert loaded.config.max_position_embeddings == CONTEXT
    assert loaded.config.eos_token_id == reader.eos_token_id == tokenizer.eos_token_id
    assert reader.pad_token_id == tokenizer.pad_token_id
    assert reader.padding_side == "left"
    messages = [{"role": "user", "content": "Which city?"}]
    ids = reader.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert ids["input_ids"].tolist() == [
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    ]
    with torch.no_grad():
        assert torch.equal(loaded(**ids).logits, model(**ids).logits)


def test_the_families_differ_in_their_heads(documents: list[Document]) -> None:
    """Llama gives every head its keys and values, Mistral shares them in pairs."""
    heads = {}
    for name in FAMILIES:
        tokenizer = build_tokenizer(name, [part.text for part in documents[0]], TINY.vocab)
        config = build_model(name, tokenizer, TINY).config
        heads[name] = (config.num_attention_heads, config.num_key_value_heads)
    assert heads == {"llama": (4, 4), "mistral": (4, 2)}
