"""A folder with a model and its tokenizer, from the library and from the command line: what it gives, what is refused."""

import json
import shutil
import socket
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("typer")
transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")

from backlight import cli, text
from backlight.errors import BacklightError
from tests.conftest import same

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##able", "cap", "dog", "not", "größe", "好", "كلب", "🙂", "bad", "!"]
TEXTS = ["a capable dog!", "not a bad dog", "größe 好 كلب 🙂", "a bad cat", "not capable"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece({word: k for k, word in enumerate(WORDS)}))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=len(WORDS),
        max_position_embeddings=12, id2label={0: "dull", 1: "fine"}, label2id={"dull": 0, "fine": 1},
    )).eval()  # fmt: skip
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    lines = "\n".join(f'k{i},"{one}"' for i, one in enumerate(TEXTS))
    (tmp_path / "texts.csv").write_text(f"key,review\n{lines}\n", encoding="utf-8")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["backlight", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def no_network(monkeypatch):
    def refused(*arguments, **options):
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


def test_a_folder_gives_the_model_and_the_tokenizer_that_were_saved(made, no_network):
    folder, model = made
    found = text.load_folder(folder)
    ex = text.explain(found.model, found.tokenizer, TEXTS, "fine", strict=True)
    given = found.tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        want = model(**given).logits[:, 1]

    assert same(ex.output, want.numpy(), 1e-6)
    assert found.longest == 12
    assert not found.model.training


def test_texts_of_a_table_are_explained_written_and_reported(made, run, tmp_path, no_network):
    folder, _ = made
    found = text.load_folder(folder)
    want = text.explain(found.model, found.tokenizer, TEXTS, "fine")
    code, out, err = run(
        "explain", folder, "texts.csv", "--column", "review", "--target", "fine", "--id", "key",
        "--out", "words.csv", "--report", "page.html",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "BertForSequenceClassification, 5 texts" in out
    assert "not a bad dog" in out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "")
    for shown in ("größe", "好", "كلب", "🙂", "k3", "capable", 'dir="auto"', "prefers-color-scheme"):
        assert shown in page

    code, out, _ = run(
        "explain", folder, "texts.csv", "--column", "review", "--target", "fine", "-q", "--out", "w.json"
    )
    assert (code, out) == (0, "")
    records = json.loads((tmp_path / "w.json").read_text(encoding="utf-8"))
    assert [one["row"] for one in records] == ["1", "2", "3", "4", "5"]
    assert same([one["score"] for one in records], np.asarray(want.output), 1e-6)
    assert [word["text"].strip() for word in records[0]["words"]] == ["[CLS]", "a", "capable", "dog", "!", "[SEP]"]
    totals = [sum(word["relevance"] for word in one["words"]) for one in records]
    assert same(totals, want.values.sum(1), 1e-6)

    run("explain", folder, "texts.csv", "--column", "review", "--target", "1", "-q", "--out", "w.parquet")
    table = pq.read_table(tmp_path / "w.parquet")
    assert table.column_names == ["row", "output", "score", "place", "word", "relevance"]
    assert table.num_rows == sum(len(one["words"]) for one in records)
    assert sum(table["relevance"].to_pylist()) == pytest.approx(sum(totals), abs=1e-5)


def test_by_default_the_predicted_label_is_explained_and_named(made, run):
    folder, _ = made
    code, out, _ = run("explain", folder, "texts.csv", "--column", "review", "--top", "2")

    assert code == 0
    assert "predicted class" in out
    assert "'dull'" in out or "'fine'" in out
    assert "and 3 more texts: --all shows them" in out


@pytest.mark.parametrize(("arguments", "said"), [
    ((), "which column holds the texts? --column names it: key, review"),
    (("--column", "body"), "no column 'body'"),
    (("--column", "review", "--target", "splendid"), "'splendid' is no token"),
    (("--column", "review", "--target", "dog"), "'dog' is no label"),
    (("--column", "review", "--out", "w.xlsx"), "must end in .csv or .parquet or .json"),
])  # fmt: skip
def test_what_the_command_cannot_do_is_said_in_a_line(made, run, arguments, said):
    code, out, err = run("explain", made[0], "texts.csv", *arguments)

    assert code == 2
    assert said in " ".join(err.split())
    assert out == ""


def test_texts_that_are_missing_or_too_long_are_named(made, run, tmp_path):
    (tmp_path / "holes.csv").write_text("text\na dog\n \n", encoding="utf-8")
    (tmp_path / "long.csv").write_text("text\na dog\n" + "dog " * 20 + "\n", encoding="utf-8")

    assert "row 2 has no text in column 'text'" in " ".join(run("explain", made[0], "holes.csv")[2].split())
    assert "row 2 has 22 tokens, and the model takes 12" in " ".join(run("explain", made[0], "long.csv")[2].split())


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemError('ran')",))


def _pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"a": Trap()}, folder / "pytorch_model.bin")


def _settings(**more):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | more))

    return change


def _truncate(name, size):
    def change(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return change


@pytest.mark.parametrize(("change", "said"), [
    (_pickle, "as a pickle"),
    (lambda f: (f / "modeling_own.py").write_text("raise SystemError('ran')"), "holds code of its own"),
    (_settings(auto_map={"AutoModel": "own--modeling.Own"}), "names code"),
    (_settings(architectures=["os"]), "no model of transformers"),
    (_settings(architectures=["AutoModel"]), "no model of transformers"),
    (_settings(architectures=None), "no model of transformers"),
    (_settings(hidden_size="wide"), "cannot be read as a folder with a model"),
    (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
    (lambda f: (f / "config.json").write_text("[1]"), "no object"),
    (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    (_truncate("model.safetensors", 100), "cannot be read as a folder with a model"),
    (_truncate("tokenizer.json", 100), "cannot be read as a folder with a tokenizer"),
])  # fmt: skip
def test_folders_that_bring_code_or_are_damaged_are_refused_in_a_sentence(made, tmp_path, change, said, no_network):
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    change(folder)
    with pytest.raises(BacklightError, match=said):
        text.load_folder(folder)


def test_no_configuration_chooses_an_attention_that_would_be_fetched(made, tmp_path, no_network):
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    _settings(_attn_implementation="someone/kernel", attn_implementation="someone/kernel")(folder)

    assert text.load_folder(folder).model.config._attn_implementation == "sdpa"
