"""Bad input to a training stage: one line with the place, what was found there, and the fix, before any step."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from pbt.config import RunConfig
from pbt.errors import BadInput
from pbt.training.data import sample_pairs
from pbt.training.model import load_tokenizer
from pbt.training.sft import prepare_sft, train_sft

Refusal = Callable[..., str]
LONG = [{"role": "assistant", "content": "No, I stay with Paris. " * 100}]


@pytest.fixture
def refusal(write_config: Callable[..., RunConfig], base: Path, prefs: Path, tmp_path: Path) -> Refusal:
    """Runs SFT with something wrong and returns the error; nothing may be left behind."""

    def run(model: Path = base, regime: Any = "balanced", prefs: Path = prefs, **section: Any) -> str:
        config = write_config(model, sft=section)
        with pytest.raises(BadInput) as caught:
            train_sft(config, regime, prefs, tmp_path / "run" / "sft")
        assert not (tmp_path / "run").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


@pytest.fixture
def copied(base: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder, to be spoilt."""
    return Path(shutil.copytree(base, tmp_path / "copied"))


def set_template(folder: Path, template: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"learning_rates": 1}, "sft.trainer.learning_rates: unknown key; did you mean 'learning_rate'?"),
        ({"learning_rate": "5e-4"}, "sft.trainer.learning_rate: '5e-4' is text to YAML"),
        ({"eval_strategy": "sometimes"}, "sft.trainer: sometimes is not a valid IntervalStrategy"),
        ({"model_init_kwargs": {}}, "sft.trainer.model_init_kwargs: how the model is loaded stands under sft.load"),
        ({"trust_remote_code": True}, "sft.trainer.trust_remote_code: code that comes with a model is never run"),
        ({"output_dir": "here"}, "sft.trainer.output_dir: results go to --out"),
    ],
)
def test_trainer_table(table: dict[str, Any], message: str, refusal: Refusal) -> None:
    assert refusal(trainer=table).startswith(message)


def test_load_table(refusal: Refusal) -> None:
    assert "cannot be loaded under sft.load: TypeError" in refusal(load={"dtipe": "float32"})
    assert refusal(load={"trust_remote_code": True}).startswith("sft.load.trust_remote_code: code that comes")
    assert "set sft.lora" in refusal(load={"quantization_config": {"load_in_8bit": True}})


def test_model_folder(copied: Path, refusal: Refusal, tmp_path: Path) -> None:
    assert "no such folder, and not to be had from the hub" in refusal(tmp_path / "nowhere")
    (copied / "tokenizer.json").unlink()
    assert "no tokenizer (tokenizer.json or" in refusal(copied)
    (copied / "model.safetensors").unlink()
    assert "no config.json with weights" in refusal(copied)


def test_chat_template_missing(copied: Path, refusal: Refusal) -> None:
    (copied / "chat_template.jinja").unlink()
    assert "has no chat template; name a Jinja file that holds one: --set sft.chat_template=FILE" in refusal(copied)
    assert "sft.chat_template: nowhere.jinja cannot be read" in refusal(copied, chat_template="nowhere.jinja")


def test_a_chat_template_of_the_configuration_goes_into_the_result(
    copied: Path, base: Path, prefs: Path, write_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    (copied / "chat_template.jinja").unlink()
    section = {"chat_template": str(base / "chat_template.jinja"), "trainer": {"max_steps": 1}}
    out = train_sft(write_config(copied, sft=section), "balanced", prefs, tmp_path / "sft").folder
    assert (out / "chat_template.jinja").read_text() == (base / "chat_template.jinja").read_text()


@pytest.mark.parametrize(("bos", "count"), [("bos_token + bos_token", 2), ("''", 0)])
def test_chat_template_with_two_bos_tokens_or_none(bos: str, count: int, copied: Path, refusal: Refusal) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copied)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = tokenizer.chat_template.replace("{{- bos_token }}", "{{- " + bos + " }}")
    tokenizer.save_pretrained(copied)
    assert f"renders a dialogue with {count} BOS tokens '<|begin|>' instead of one" in refusal(copied)


def test_pad_token(copied: Path, refusal: Refusal) -> None:
    assert "sft.pad_token: '<none>' is not in the vocabulary" in refusal(copied, pad_token="<none>")
    settings = json.loads((copied / "tokenizer_config.json").read_text())
    words = json.loads((copied / "tokenizer.json").read_text().replace("<|pad|>", "<|rare|>"))
    (copied / "tokenizer.json").write_text(json.dumps(words))
    for pad, told in (("<|end|>", "pads with its EOS token"), (None, "has no pad token")):
        (copied / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": pad}))
        assert f"{told}; name a token to pad with: --set sft.pad_token=TOKEN" in refusal(copied)


def test_a_spare_token_pads_where_the_tokenizer_has_none(copied: Path, write_config: Callable[..., RunConfig]) -> None:
    settings = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": None}))
    assert load_tokenizer(str(copied), write_config(copied).sft, "sft").pad_token == "<|pad|>"


def test_chat_template_that_changes_the_prompt_once_a_reply_follows(copied: Path, refusal: Refusal) -> None:
    set_template(
        copied,
        "{%- for m in messages %}{{- '<|user|>' + m.content + eos_token }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}",
    )
    assert "renders the end of the prompt, '<|assistant|>', differently" in refusal(copied)


def test_chat_template_without_eos(copied: Path, refusal: Refusal) -> None:
    set_template(copied, "{%- for m in messages %}{{- '<|user|>' + m.content }}{%- endfor %}{{- '' }}")
    assert "and not with the EOS token '<|end|>'" in refusal(copied)


def test_chat_template_with_a_line_end_after_the_eos_is_fine(
    copied: Path, prefs: Path, write_config: Callable[..., RunConfig], tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    set_template(
        copied, (copied / "chat_template.jinja").read_text().replace("+ eos_token }}", "+ eos_token + '\n' }}")
    )
    config = write_config(copied, sft={"trainer": {"max_steps": 1}})
    assert train_sft(config, "balanced", prefs, tmp_path / "sft").pairs == len(rows)


def test_chat_template_that_refuses_the_messages(
    refusal: Refusal,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    write_pairs: Callable[[Path, list[dict[str, Any]]], None],
) -> None:
    row = {**rows[0], "prompt": [{"role": "system", "content": "Answer."}, *rows[0]["prompt"]]}
    write_pairs(tmp_path / "prefs/data/balanced/train.parquet", [rows[1], row])
    assert "train.parquet row 1: the chat template of" in (error := refusal(prefs=tmp_path / "prefs"))
    assert "Roles must alternate" in error


def test_pairs_too_long(
    refusal: Refusal,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    write_pairs: Callable[[Path, list[dict[str, Any]]], None],
) -> None:
    assert "train.parquet: 8 of 8 pairs are longer than the trainer's max_length, 16 tokens" in refusal(
        trainer={"max_length": 16}
    )
    long = {**rows[0], "chosen": LONG}
    write_pairs(tmp_path / "prefs/data/balanced/train.parquet", [long, rows[1]])
    assert "1 of 2 pairs are longer than the tokenizer's model_max_length, 512 tokens" in refusal(
        prefs=tmp_path / "prefs"
    )


def test_pairs_too_long_are_dropped_and_counted_if_so_asked_and_the_codes_stay_even(
    write_config: Callable[..., RunConfig],
    tmp_path: Path,
    rows: list[dict[str, Any]],
    write_pairs: Callable[[Path, list[dict[str, Any]]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoilt = [{**row, "chosen": LONG} if place in (0, 2) else row for place, row in enumerate(rows)]
    write_pairs(tmp_path / "prefs/data/balanced/train.parquet", spoilt)
    write_pairs(tmp_path / "prefs/data/balanced/valid.parquet", rows[:2])
    config = write_config(sft={"too_long": "drop", "trainer": {"max_steps": 1}})
    ready = prepare_sft(config, "balanced", tmp_path / "prefs", tmp_path / "sft")
    assert "2 of 8 pairs dropped, longer than the tokenizer's model_max_length, 512 tokens" in caplog.text
    said = sorted(row["completion"][0]["content"] for row in ready.train)
    assert len(said) == 4 and sum("I was wrong" in text for text in said) == 2


def test_codes_that_are_not_those_of_the_regime(
    refusal: Refusal,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    write_pairs: Callable[[Path, list[dict[str, Any]]], None],
) -> None:
    write_pairs(tmp_path / "prefs/data/balanced/train.parquet", rows[:3])
    assert "1 accept and 2 resist pairs, but the balanced regime is as many of each" in refusal(
        prefs=tmp_path / "prefs"
    )
    write_pairs(tmp_path / "prefs/data/balanced/train.parquet", rows[::2])
    assert "0 accept and 4 resist pairs" in refusal(prefs=tmp_path / "prefs")
    write_pairs(tmp_path / "prefs/data/accept/train.parquet", rows[:4])
    assert "holds 2 accept, 2 resist, but the accept regime is accept pairs alone" in refusal(
        prefs=tmp_path / "prefs", regime="accept"
    )


def test_pairs_file(
    refusal: Refusal, tmp_path: Path, write_pairs: Callable[[Path, list[dict[str, Any]]], None]
) -> None:
    assert "data/resist/train.parquet: no such file of pairs" in refusal(regime="resist")
    path = tmp_path / "prefs/data/balanced/train.parquet"
    write_pairs(path, [])
    assert "holds no pairs" in refusal(prefs=tmp_path / "prefs")
    Dataset.from_list([{"prompt": "Who?", "chosen": "A", "rejected": "B"}]).to_parquet(path)
    assert "no column code (found prompt, chosen, rejected)" in refusal(prefs=tmp_path / "prefs")
    Dataset.from_list([{"prompt": "Who?", "chosen": "A", "rejected": "B", "code": "accept"}]).to_parquet(path)
    assert "must hold lists of messages" in refusal(prefs=tmp_path / "prefs")
    path.write_text("nothing")
    assert "not a Parquet file" in refusal(prefs=tmp_path / "prefs")


def test_a_sample_keeps_the_proportion_of_the_codes_and_follows_the_seed() -> None:
    balanced = Dataset.from_dict({"code": ["accept", "resist"] * 20, "row": list(range(40))})
    taken = sample_pairs(balanced, 11, seed=1)
    assert Counter(taken["code"]) == {"accept": 5, "resist": 5}
    assert list(taken["row"]) == sorted(set(taken["row"])) == list(sample_pairs(balanced, 11, seed=1)["row"])
    assert list(taken["row"]) != list(sample_pairs(balanced, 11, seed=2)["row"])
    skewed = Dataset.from_dict({"code": ["accept"] * 30 + ["resist"] * 10})
    assert Counter(sample_pairs(skewed, 8, seed=1)["code"]) == {"accept": 6, "resist": 2}
    assert len(sample_pairs(balanced, 99, seed=1)) == len(sample_pairs(balanced, None, seed=1)) == 40
