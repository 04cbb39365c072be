"""The language badge on 900 prompts that no parameter was chosen on, and its warning."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from multilingual_diffusion.pipeline_core.models.specs import ALTDIFFUSION, ALTDIFFUSION_M18
from multilingual_diffusion.pipeline_core.text.languages import detect_language, language_warning

DATA = Path(__file__).parent / "data"
PROMPTS = json.loads((DATA / "text_language_prompts.json").read_text("utf-8"))
TUNING = json.loads((DATA / "text_language_tuning.json").read_text("utf-8"))


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
    assert warning == "the prompt looks German; this model was trained on English, Chinese"
    assert language_warning("ein kleiner Hund mit Hut", ALTDIFFUSION_M18.languages) is None
    assert language_warning("1234", ("en",)) is None
    assert language_warning("ein kleiner Hund mit Hut", ()) is None


def test_text_modules_without_tensors_import_no_torch():
    code = (
        "import sys\n"
        "from multilingual_diffusion.pipeline_core.text import chunks, languages, report, syntax\n"
        "assert 'torch' not in sys.modules and 'sentencepiece' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
