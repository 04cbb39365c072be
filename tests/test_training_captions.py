"""Captions of the small world: every word in every template, claims, splits, agreement."""

from __future__ import annotations

import copy
import itertools
import json
import random
import time
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from multilingual_diffusion.pipeline_core.errors import FileRefused, InvalidRequest, UnknownName
from multilingual_diffusion.pipeline_core.models.folders import NANO_FOLDER
from multilingual_diffusion.pipeline_core.models.specs import MODELS
from multilingual_diffusion.pipeline_core.training.nano.configs import CONTEXT_LENGTH
from multilingual_diffusion.pipeline_core.training.world import captions, grammar_files
from multilingual_diffusion.pipeline_core.training.world.captions import (
    LANGUAGES,
    all_words,
    caption,
    corpus,
    details,
    parallel,
    word,
)
from multilingual_diffusion.pipeline_core.training.world.grammar import Grammar, Slot
from multilingual_diffusion.pipeline_core.training.world.grammar_files import load_grammar
from multilingual_diffusion.pipeline_core.training.world.scene import (
    COLOURS,
    HAZARD,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    ClaimedThing,
    Scene,
    Thing,
    random_hazard_scene,
    random_scene,
)

GOLD = json.loads((Path(__file__).parent / "data" / "captions_gold.json").read_text("utf-8"))
TOKENIZER = NANO_FOLDER / "tokenizer" / "sentencepiece.bpe.model"
KINDS = (None, *RELATIONS)


def language_file(language: str) -> dict:
    path = Path(grammar_files.__file__).parent / "languages" / f"{language}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def scenes(rng: random.Random, relation: str | None, count: int) -> list[Scene]:
    """Draw `count` scenes of one kind."""
    drawn = (
        random_scene(rng, split="any", objects=1 if relation is None else 2)
        for _ in itertools.count()
    )
    return list(itertools.islice((s for s in drawn if s.relation == relation), count))


class Usual(random.Random):
    """Always draws the first option."""

    def random(self) -> float:
        return 0.0


def fillings(relation: str | None) -> list[list[dict[str, str]]]:
    """Ids that put every word of every role into every slot of a kind at least once."""
    shapes = SHAPES if relation else (*SHAPES, HAZARD)
    rows = []
    for shape, colour in itertools.product(shapes, COLOURS):
        index = len(rows)
        first = {
            "shape": shape,
            "colour": colour,
            "background": COLOURS[index % len(COLOURS)],
            "size": SIZES[index % 2],
            "place": PLACES[index % len(PLACES)],
        }
        other = {**first, "shape": SHAPES[(index + 3) % 8], "colour": COLOURS[(index + 7) % 10]}
        rows.append([first, other] if relation else [first])
    return rows


def test_languages_are_those_of_the_m18_model():
    assert MODELS["altdiffusion-m18"].languages == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_fills_every_template_cleanly(language):
    rules = load_grammar(language)
    rng = random.Random(0)
    for template in rules.templates:
        for ids, wording in zip(
            fillings(template.relation), itertools.cycle(template.wordings), strict=False
        ):
            text = rules.fill(wording, ids, rng)
            assert text == text.strip() and "  " not in text, text
            assert not set(text) & set("{}$@~*:"), text
            assert not any(" " + mark in text for mark in ",.;"), text


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_are_composed_text(language):
    text = json.dumps(language_file(language), ensure_ascii=False)
    assert text == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_enough_templates_and_about_every_eighth_is_held_out(language):
    templates = load_grammar(language).templates
    for relation in KINDS:
        train = [t for t in templates if t.relation == relation and not t.held_out]
        modest = [t for t in train if t.detail in ("short", "background")]
        assert len(train) >= (20 if relation is None else 14)
        assert 0.35 <= len(modest) / len(train) <= (0.45 if relation is None else 0.7)
    held_out = sum(template.held_out for template in templates)
    assert 0.10 <= held_out / len(templates) <= 0.16


@pytest.mark.parametrize("relation", KINDS)
@pytest.mark.parametrize("split", ["train", "held-out"])
def test_all_languages_offer_the_same_details(relation, split):
    offered = {details(language, relation, split) for language in LANGUAGES}
    assert len(offered) == 1
    needed = {"short", "background", "full"} if split == "train" or relation is None else set()
    assert needed <= set(offered.pop())


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_phrasings_are_new_but_their_words_are_not(language):
    templates = load_grammar(language).templates
    wordings = {True: set(), False: set()}
    for template in templates:
        before = len(wordings[template.held_out])
        wordings[template.held_out].update(template.wordings)
        assert len(wordings[template.held_out]) == before + len(template.wordings)
    assert not wordings[True] & wordings[False]

    def fixed(held_out: bool) -> set[str]:
        text = " ".join(p for w in wordings[held_out] for p in w if isinstance(p, str))
        spaced = language not in ("zh", "ja", "th")
        return {part.strip(".,\u060c").lower() for part in (text.split() if spaced else text)}

    def forms(held_out: bool) -> set[tuple[str, str]]:
        slots = (p for w in wordings[held_out] for p in w if isinstance(p, Slot))
        return {(slot.role, slot.form) for slot in slots}

    assert fixed(True) <= fixed(False)
    assert forms(True) <= forms(False)


def plain(text: str) -> str:
    """Return a text without its case and punctuation."""
    kept = (" " if unicodedata.category(mark)[0] == "P" else mark for mark in text.casefold())
    return " ".join("".join(kept).split())


def filled(rules: Grammar, *, held_out: bool) -> set[str]:
    """Return what every wording of a split says of a few scenes, without case and punctuation."""
    return {
        plain(rules.fill(wording, ids, Usual()))
        for template in rules.templates
        if template.held_out == held_out
        for ids in fillings(template.relation)[:9:4]
        for wording in template.wordings
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_phrasings_differ_from_the_trained_in_more_than_punctuation(language):
    rules = load_grammar(language)
    assert not filled(rules, held_out=True) & filled(rules, held_out=False)


def test_the_check_of_held_out_phrasings_sees_a_copy():
    data = language_file("fr")
    data["templates"]["one"].append("Fond {background:m} {a:@} {shape} {colour:@}.")
    rules = grammar_files.parse_grammar("fr", data)
    assert filled(rules, held_out=True) & filled(rules, held_out=False)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_tokenizer_of_nano_knows_every_word_and_fits_every_caption(language):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER))
    rng = random.Random(1)
    texts = list(all_words(language))
    texts += [
        caption(random_scene(rng, split="any"), language, rng, split="all").text
        for _ in range(1000)
    ]
    for text, ids in zip(texts, pieces.encode(texts), strict=True):
        assert pieces.unk_id() not in ids, text
        assert len(ids) + 2 <= CONTEXT_LENGTH, text


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_stands_for_two_ids(language):
    words = load_grammar(language).words
    for role, names in grammar_files.WORDS_OF.items():
        owner: dict[str, str] = {}
        for name in names:
            for synonym in words[name]:
                for form, text in synonym.items():
                    if form != "is":
                        assert owner.setdefault(text, name) == name, (role, text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_different_claims_never_give_the_same_text(language):
    rng = random.Random(3)
    meaning = {}
    for _ in range(1500):
        made = caption(random_scene(rng, split="any"), language, rng, split="all")
        assert meaning.setdefault(made.text, made.claims) == made.claims, made.text
    assert len(meaning) > 1200


@pytest.mark.parametrize("language", LANGUAGES)
def test_claims_are_exactly_what_the_template_says(language):
    rng = random.Random(4)
    for relation in KINDS:
        for scene in scenes(rng, relation, 60):
            made = caption(scene, language, rng, split="all")
            template = next(t for t in load_grammar(language).templates if t.name == made.template)
            said = {(p.role, p.thing) for p in template.wordings[-1] if isinstance(p, Slot)}
            assert made.language == language
            assert made.claims.relation == scene.relation
            assert made.claims.background == (
                scene.background if ("background", 0) in said else None
            )
            for index, thing in enumerate(scene.things):
                assert made.claims.things[index] == ClaimedThing(
                    thing.shape,
                    thing.colour,
                    thing.size if ("size", index) in said else None,
                    thing.place if ("place", index) in said else None,
                )


def test_what_is_claimed_is_in_the_text():
    rng = random.Random(5)
    words = load_grammar("en").words
    for scene in scenes(rng, None, 300):
        made = caption(scene, "en", rng, split="all")
        thing = made.claims.things[0]
        for name in (thing.shape, thing.colour, thing.size, thing.place, made.claims.background):
            assert name is None or any(w["*"] in made.text.lower() for w in words[name])
        hidden = [w["*"] for size in SIZES for w in words[size]] if thing.size is None else []
        assert not set(hidden) & set(made.text.split())


def test_splits_and_details_choose_the_templates():
    rng = random.Random(6)
    for language, relation in itertools.product(LANGUAGES, KINDS):
        scene = scenes(rng, relation, 1)[0]
        by_name = {template.name: template for template in load_grammar(language).templates}
        for split in ("train", "held-out"):
            for detail in (None, *details(language, relation, split)):
                template = by_name[
                    caption(scene, language, rng, split=split, detail=detail).template
                ]
                assert template.held_out == (split == "held-out")
                assert template.relation == relation
                assert detail in (None, template.detail)


def test_the_same_seed_gives_the_same_captions():
    def run(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [caption(random_scene(rng), tag, rng).text for tag in LANGUAGES * 5]

    assert run(7) == run(7)
    assert run(7) != run(8)
    assert list(corpus(300, 1)) == list(corpus(300, 1))
    assert list(corpus(300, 1)) != list(corpus(300, 2))


def test_parallel_texts_make_the_same_claims(monkeypatch):
    rng = random.Random(9)
    seen = []
    real = captions.caption

    def watched(*args, **kwargs):
        seen.append(real(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(captions, "caption", watched)
    for split, relation in itertools.product(("train", "held-out", "all"), KINDS):
        for scene in scenes(rng, relation, 20):
            seen.clear()
            texts = parallel(scene, rng, split=split)
            assert tuple(texts) == LANGUAGES
            assert len({made.claims for made in seen}) == 1
    assert list(parallel(scene, rng, languages=["uk", "th"], detail="full")) == ["uk", "th"]
    with pytest.raises(InvalidRequest, match="languages is empty"):
        parallel(scene, rng, languages=[])


def test_the_corpus_covers_every_language_and_the_hazard_sign():
    lines = list(corpus(18_000, 0))
    assert len(lines) == 18_000 and all(lines)
    for index, language in enumerate(LANGUAGES):
        own = lines[index :: len(LANGUAGES)]
        assert sum(word(language, HAZARD) in line for line in own) >= 2
        assert len(set(own) & set(all_words(language))) >= 30


@pytest.mark.parametrize("language", LANGUAGES)
def test_bare_words_and_hazard_signs(language):
    bare = [word(language, name) for name in (*SHAPES, HAZARD, *COLOURS)]
    assert len(set(bare)) == len(bare) and all(bare)
    assert set(bare) <= set(all_words(language))
    rng = random.Random(10)
    made = caption(random_hazard_scene(rng), language, rng)
    assert made.claims.things[0].shape == HAZARD


def usual_text(language: str, row: dict) -> str:
    """Render a gold row with the usual synonym everywhere."""
    things = tuple(Thing(*values) for values in row["things"])
    scene = Scene(row["background"], things, row.get("relation"))
    rules = load_grammar(language)
    template = next(t for t in rules.templates if t.name == row["template"])
    return captions._render(scene, language, template, Usual()).text


@pytest.mark.parametrize("language", LANGUAGES)
def test_agreement_case_and_elision_are_as_proof_read(language):
    rows = GOLD[language]
    assert len(rows) >= 3
    for row in rows:
        assert usual_text(language, row) == row["text"]


def test_synonyms_are_rarer_than_the_usual_word():
    rng = random.Random(11)
    scene = Scene("white", (Thing("circle", "purple", "small", "centre"),))
    texts = [caption(scene, "en", rng, detail="short").text for _ in range(2000)]
    usual = sum("purple" in text for text in texts)
    assert 0.66 < usual / len(texts) < 0.74
    assert sum("violet" in text for text in texts) == len(texts) - usual


def test_ten_thousand_captions_a_second():
    rng = random.Random(12)
    drawn = [random_scene(rng) for _ in range(200)]
    for language in LANGUAGES:
        load_grammar(language)
    start = time.process_time()
    for scene in drawn:
        for language in LANGUAGES:
            caption(scene, language, rng)
    rate = len(drawn) * len(LANGUAGES) / (time.process_time() - start)
    assert rate >= 10_000


def test_unknown_names_are_named():
    rng = random.Random(0)
    scene = random_scene(rng, objects=1)
    with pytest.raises(UnknownName, match="'xx' is unknown"):
        caption(scene, "xx", rng)
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        caption(scene, "en", rng, split="trian")
    with pytest.raises(UnknownName, match="did you mean 'full'"):
        caption(scene, "en", rng, detail="ful")
    with pytest.raises(UnknownName, match="did you mean 'above'"):
        details("en", "abov")
    with pytest.raises(UnknownName, match="did you mean 'circle'"):
        word("en", "circel")


BROKEN = {
    "form of a noun": (("words", "heart"), {"is": "n", "word": "x"}, "no form 'nom'"),
    "form of an adjective": (("words", "red"), {"word": "x"}, "no form 'nom.m'"),
    "class without an article": (("words", "star"), {"is": "q", "*": "x"}, "'nom.q'"),
    "bare word": (("words", "red"), {"nom.m": "x"}, "no form 'word'"),
    "missing word": (("words", "ring"), None, "no word for shape ring"),
    "unknown slot": (("templates", "one", 0), "{thing:nom} {plcae}", "no word or phrase 'plcae'"),
    "open brace": (("templates", "one", 0), "{thing:nom} {place", "bad slot"),
    "no colour": (("templates", "one", 0), "{shape:nom}", "does not name"),
    "one size": (("templates", "above", 0), "{sized0:nom} {thing1:nom}", "size of one thing only"),
    "second thing": (("templates", "one", 0), "{thing:nom} {colour1:nom.@}", "second thing"),
    "place": (("templates", "above", 0), "{thing0:nom} {place0} {thing1:nom}", "names a place"),
    "no form": (("templates", "one", 0), "{thing}", "needs a form"),
    "circle of phrases": (("phrases", "thing"), "{thing:$} {thing:$}", "contain each other"),
    "uneven phrase": (("phrases", "ground"), ["auf", "{background:bg}"], "claim different things"),
    "split": (("templates", "one", 0), {"text": "{thing:nom}", "split": "test"}, "'test'"),
    "unknown key": (("tempaltes",), {}, "tempaltes"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_place(name):
    path, value, message = BROKEN[name]
    data = copy.deepcopy(language_file("de"))
    grammar_files.parse_grammar("de", data)
    spot = data
    for key in path[:-1]:
        spot = spot[key]
    if value is None:
        del spot[path[-1]]
    else:
        spot[path[-1]] = value
    with pytest.raises(FileRefused, match=message):
        grammar_files.parse_grammar("de", data)


def test_a_missing_or_unreadable_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(grammar_files, "_FOLDER", tmp_path)
    read = load_grammar.__wrapped__
    with pytest.raises(FileRefused, match=r"en\.json: FileNotFoundError"):
        read("en")
    for text in ("{", "[]", '{"language": "en"}', '{"language": "fr"}', '{"words": 1}'):
        (tmp_path / "en.json").write_text(text, encoding="utf-8")
        with pytest.raises(FileRefused, match=r"en\.json"):
            read("en")
