"""The language badge on 900 prompts that no parameter was chosen on, and its warning."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from multilingual_diffusion.pipeline_core.models.specs import (
    ALTDIFFUSION,
    ALTDIFFUSION_M18,
    MODELS,
)
from multilingual_diffusion.pipeline_core.text.languages import detect_language, language_warning

DATA = Path(__file__).parent / "data"
PROMPTS = json.loads((DATA / "text_language_prompts.json").read_text("utf-8"))
TUNING = json.loads((DATA / "text_language_tuning.json").read_text("utf-8"))
DOUBTFUL = json.loads((DATA / "text_language_doubtful.json").read_text("utf-8"))
ENGLISH = {name: spec for name, spec in MODELS.items() if "en" in spec.languages}


def share_right(prompts):
    answers = [detect_language(text) == tag for tag, texts in prompts.items() for text in texts]
    return sum(answers) / len(answers)


def test_at_least_95_percent_of_short_prompts_are_right():
    assert set(PROMPTS) == set(ALTDIFFUSION_M18.languages)
    assert all(len(set(texts)) == 50 for texts in PROMPTS.values())
    assert share_right(PROMPTS) >= 0.95


@pytest.mark.parametrize("tag", PROMPTS)
def test_no_language_is_left_behind(tag):
    assert share_right({tag: PROMPTS[tag]}) >= 0.85


def test_tuning_prompts_are_not_the_measured_ones():
    measured = {text for texts in PROMPTS.values() for text in texts}
    assert not measured & {text for texts in TUNING.values() for text in texts}
    assert share_right(TUNING) >= 0.9


@pytest.mark.parametrize("text", ["", "   ", "1234 !?", "\ud800", "\U0001f600", "\x00"])
def test_text_without_letters_is_unknown(text):
    assert detect_language(text) is None


def test_marks_around_words_do_not_matter():
    assert detect_language("((EIN KLEINER HUND)), 8K!!") == "de"
    assert detect_language("\uff41 \uff4c\uff49\uff54\uff54\uff4c\uff45 \uff44\uff4f\uff47") == "en"
    assert detect_language("\u4e00\u53ea\u6234\u5e3d\u5b50\u7684\u72d7 masterpiece 8k") == "zh"


def test_long_text_takes_no_time():
    started = time.process_time()
    detect_language("ein kleiner Hund " * 60000)
    assert time.process_time() - started < 2


def test_warning_names_both_sides():
    warning = language_warning("ein kleiner Hund mit Hut", ALTDIFFUSION.languages)
    assert warning == (
        "the prompt seems to be in German; this model was trained on English, Chinese"
    )
    assert language_warning("ein kleiner Hund mit Hut", ALTDIFFUSION_M18.languages) is None
    assert language_warning("1234", ("en",)) is None
    assert language_warning("ein kleiner Hund mit Hut", ()) is None


def test_a_foreign_script_warns_at_once():
    for text, languages, foreign in (
        ("\u0e41\u0e21\u0e27", ("en", "zh"), "Thai"),
        ("\u043a\u043e\u0442", ("en", "zh"), "Cyrillic letters"),
        ("cat", ("zh",), "Latin letters"),
    ):
        assert f"in {foreign};" in (language_warning(text, languages) or "")
    assert language_warning("\u732b", ("en", "zh")) is None


@pytest.mark.parametrize("model", ENGLISH)
def test_one_or_two_english_words_warn_nobody(model):
    assert len(DOUBTFUL["short"]) >= 60
    languages = MODELS[model].languages
    assert [text for text in DOUBTFUL["short"] if language_warning(text, languages)] == []


def test_names_and_loanwords_in_english_prompts_seldom_warn():
    assert len(DOUBTFUL["loanwords"]) >= 30
    warned = [t for t in DOUBTFUL["loanwords"] if language_warning(t, ALTDIFFUSION.languages)]
    assert len(warned) <= len(DOUBTFUL["loanwords"]) / 8, warned


@pytest.mark.parametrize(
    ("model", "share"), [("altdiffusion", 0.93), ("altdiffusion-m9", 0.8)], ids=str
)
def test_prompts_in_languages_the_model_knows_never_warn_and_others_mostly_do(model, share):
    languages = MODELS[model].languages
    warned = {
        tag: sum(language_warning(text, languages) is not None for text in texts) / len(texts)
        for tag, texts in PROMPTS.items()
    }
    assert [tag for tag in languages if warned[tag] > 0.02] == []
    others = [warned[tag] for tag in PROMPTS if tag not in languages]
    assert sum(others) / len(others) >= share, warned


def test_text_modules_without_tensors_import_no_torch():
    code = (
        "import sys\n"
        "from pipeline_core.text import chunks, languages, report, syntax\n"  # without the nodes
        "assert 'torch' not in sys.modules and 'sentencepiece' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=DATA.parents[1], check=True, timeout=60)
