"""Tokens, words, sentences, and how they show themselves."""

import io

import numpy as np
import pytest

from backlight import Explanation
from backlight.errors import ArgumentError
from backlight.explanation.text import visible
from backlight.explanation.tokens import annotations_of, readable, spans

TEXTS = {
    "English": ["[CLS]", " The", " mov", "ie", " was", "n", "'t", " bad", ",", " it", " was", " great", "!", " I",
                " liked", " it", ".", "[SEP]"],
    "Arabic": ["[CLS]", "كان", " الف", "يلم", " رائ", "عا", ".", "[SEP]"],
    "Chinese": ["这", "部", "电影", "好", "看", "。", "我", "喜欢", "！"],
    "emoji": ["Love", " it", " ❤", "\ufe0f", " ", "👩", "", "\u200d", "🔬", "", "!"],
    "German": ["Die", " Donau", "dampf", "schiff", "fahrt", " war", " groß", "artig", "."],
}  # fmt: skip


def explained(texts: dict[str, list[str]] = TEXTS, targets: int = 0) -> Explanation:
    length = max(len(text) for text in texts.values()) + 1
    pieces = [text + [""] * (length - len(text)) for text in texts.values()]
    special = [[piece in ("[CLS]", "[SEP]") for piece in row] for row in pieces]
    padding = [[k >= len(text) for k in range(length)] for text in texts.values()]
    notes = annotations_of(pieces, special, padding)
    shape = (len(texts), length, targets) if targets else (len(texts), length)
    values = np.random.default_rng(0).normal(size=shape)
    values[notes["padding"]] = 0
    sums = values.sum(1)
    return Explanation(
        values, sums, np.zeros_like(sums), annotations=notes, labels=np.array(list(texts)), target="good"
    )


@pytest.mark.parametrize(("language", "words"), [
    ("English", ["[CLS]", "The", "movie", "wasn't", "bad", ",", "it", "was", "great", "!", "I", "liked", "it", ".", "[SEP]"]),
    ("Arabic", ["[CLS]", "كان", "الفيلم", "رائعا", ".", "[SEP]"]),
    ("Chinese", ["这", "部", "电影", "好", "看", "。", "我", "喜欢", "！"]),
    ("emoji", ["Love", "it", "❤\ufe0f", "", "👩\u200d🔬", "!"]),
    ("German", ["Die", "Donaudampfschifffahrt", "war", "großartig", "."]),
])  # fmt: skip
def test_sub_words_are_joined_to_words_in_any_script(language, words):
    row = list(TEXTS).index(language)

    assert [span.text.strip() for span in spans(explained(), row)] == words


def test_sums_over_tokens_words_and_sentences_reconcile():
    ex = explained()
    for row in range(len(ex)):
        for by in ("token", "word", "sentence", "text"):
            found = spans(ex, row, by)

            assert sum(span.value for span in found) == pytest.approx(ex.values[row].sum(), abs=1e-12)
            assert "".join(span.text for span in found) == "".join(ex.annotations["token"][row])
            assert [span.start for span in found[1:]] == [span.stop for span in found[:-1]]
            for span in found:
                assert span.value == pytest.approx(ex.values[row, span.start : span.stop].sum(), abs=1e-12)


def test_the_word_of_each_token_is_the_word_it_is_joined_to():
    ex = explained()
    for row in range(len(ex)):
        number = ex.annotations["word"][row]
        for k, span in enumerate(span for span in spans(ex, row) if not span.special):
            assert (number[span.start : span.stop] == k).all()


def test_sentences_end_at_marks_and_not_at_abbreviated_blanks():
    ex = explained()

    assert [s.text.strip() for s in spans(ex, 0, "sentence") if not s.special] == [
        "The movie wasn't bad, it was great!", "I liked it."
    ]  # fmt: skip
    assert [s.text for s in spans(ex, 2, "sentence")] == ["这部电影好看。", "我喜欢！"]


def test_relevance_of_padding_is_never_hidden():
    ex = explained({"one": ["a", " b"], "two": ["a", " b", " c"]})
    values = ex.values.copy()
    values[0, 3] = 0.5
    odd = Explanation(values, values.sum(1), np.zeros(2), annotations=ex.annotations)

    assert sum(span.value for span in spans(odd, 0)) == pytest.approx(values[0].sum())
    assert spans(odd, 0)[-1].special


@pytest.mark.parametrize(("tokens", "text"), [
    (["<s>", "▁Once", "▁up", "on", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"], " Once upon😀"),
    (["<s>", "The", "Ġcaf", "Ã©", "ĠðŁĺ", "Ģ", "Ċ"], "The café 😀\n"),
    (["[CLS]", "un", "##bel", "##iev", "##able", "movie"], "unbelievable movie"),
])  # fmt: skip
def test_pieces_of_every_kind_of_vocabulary_read_as_the_text(tokens, text):
    special = [token in ("<s>", "[CLS]") for token in tokens]
    read = readable(tokens, special)

    assert len(read) == len(tokens)
    assert "".join(piece for piece, mark in zip(read, special, strict=True) if not mark) == text


def test_byte_level_pieces_are_those_of_the_tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    text = "Größe, 好看 and 👩‍🔬; der Donaudampf!"
    model.train_from_iterator([text] * 3, trainer)
    tokens = model.encode(text).tokens

    assert "".join(readable(tokens, [False] * len(tokens))) == text


def test_a_page_holds_the_words_escaped_and_each_text_finds_its_own_direction():
    ex = explained({"<i>": ["<b>bad", " &", " رائع", "\u202e", "\x1b[31m"]})
    html = ex.plot.text().html()

    assert "&lt;b&gt;bad" in html
    assert "<b>" not in html
    assert "&amp;" in html
    assert 'dir="auto"' in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert ex._repr_html_() == html


def test_the_scale_is_centred_and_says_its_end():
    ex = explained({"one": ["up", " down", " none"]})
    values = np.array([[2.0, -1.0, 0.0, 0.0]])
    html = Explanation(values, [1.0], [0.0], annotations=ex.annotations).plot.text().html()

    assert "rgba(200,60,44,0.62)" in html
    assert "rgba(52,104,180,0.31)" in html
    assert "+2" in html
    assert '<span style="border-radius:3px;padding:2px 0;" title="+0">none' in html


def test_a_terminal_shows_the_words_in_colours():
    rich = pytest.importorskip("rich.console")
    out = io.StringIO()
    rich.Console(file=out, force_terminal=True, color_system="truecolor", width=200).print(
        explained().plot.text([0, 1])
    )
    shown = out.getvalue()

    assert "wasn't" in shown
    assert "الفيلم" in shown
    assert "\x1b[" in shown
    assert "great" in str(explained().plot.text())


def test_several_targets_are_a_matrix_whose_rows_sum_to_the_outputs():
    ex = explained({"one": TEXTS["English"]}, targets=3)
    matrix = ex.plot.text()

    assert matrix.values.sum(1) == pytest.approx(np.asarray(ex.output)[0])
    assert matrix.values.shape == (3, 15)
    assert "<table" in matrix.html()
    assert "←" in str(matrix)
    with pytest.raises(ArgumentError, match="choose a row"):
        explained(targets=2).plot.text()


def test_repr_names_the_words_that_count():
    text = repr(explained())

    assert "Donaudampfschifffahrt" in text
    assert len(text.splitlines()) <= 12


def test_what_is_not_text_is_refused():
    plain = Explanation(np.ones((1, 2)), [2.0], [0.0])
    with pytest.raises(ArgumentError, match="does not say its tokens"):
        plain.plot.text()
    with pytest.raises(ArgumentError, match="by='letter' is not known"):
        spans(explained(), 0, "letter")
    with pytest.raises(ArgumentError, match="positive relevance"):
        explained().plot.text(limit=0)


def test_visible_keeps_joiners_and_drops_what_a_terminal_obeys():
    assert visible("👩\u200d🔬") == "👩\u200d🔬"
    assert "\x1b" not in visible("\x1b[2J")
    assert visible("a\nb", lines=True) == "a\nb"


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_words_survive_a_file(tmp_path, suffix):
    ex = explained()
    ex.save(tmp_path / f"ex{suffix}")
    back = Explanation.load(tmp_path / f"ex{suffix}")

    assert [s.text for s in spans(back, 3)] == [s.text for s in spans(ex, 3)]
    assert back.annotations["word"].tolist() == ex.annotations["word"].tolist()
