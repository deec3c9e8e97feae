"""Raising a pocket model: a very short upbringing of a very small one, end to end."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pbt.errors import BadInput
from pbt.pocket.models import Size
from pbt.pocket.pretrain import Upbringing, raise_model, raise_models

SHORT = Upbringing(
    tokens={"facts": 30e3, "debates": 10e3, "weighing": 5e3, "settling": 5e3},
    size=Size(width=64, layers=2, head=32, feed_forward=128, vocab=1024),
)


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raised") / "mistral"
    raise_model("mistral", folder, 0, SHORT)
    return folder


def test_the_folder_loads_like_any_hub_model_and_says_how_it_was_made(raised: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(raised)
    model = AutoModelForCausalLM.from_pretrained(raised)
    assert type(model).__name__ == "MistralForCausalLM"
    assert str(model.dtype) == "torch.bfloat16"
    assert tokenizer.chat_template
    report = json.loads((raised / "pocket.json").read_text())
    assert report["seed"] == 0
    assert report["upbringing"]["tokens"] == SHORT.tokens
    assert 0 <= report["gate"]["accuracy"]["strong"] <= 1


def test_the_same_seed_raises_the_same_model(raised: Path, tmp_path: Path) -> None:
    raise_model("mistral", tmp_path / "again", 0, SHORT)
    first, again = (folder / "model.safetensors" for folder in (raised, tmp_path / "again"))
    assert first.read_bytes() == again.read_bytes()


def test_a_model_is_never_written_over(raised: Path) -> None:
    with pytest.raises(BadInput, match="a model is already there"):
        raise_models(["mistral"], raised.parent, 0)
