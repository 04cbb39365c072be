"""`multilingual-diffusion evaluate`: what a model understands, read from its pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .cpu import tuned_cpu

SHEET_COLUMNS = 9  # languages, a picture each

Subparsers = Any  # argparse names the type of its sub-parsers privately


def add_measures(parser: argparse.ArgumentParser) -> None:
    """Add what can be measured."""
    measures = parser.add_subparsers(required=True, metavar="measure", dest="measure")
    _add_obedience(measures)
    _add_negatives(measures)
    _add_grafts(measures)
    _add_dual(measures)


def _add_obedience(measures: Subparsers) -> None:
    parser = measures.add_parser("obedience", help="do pictures of the small world obey prompts?")
    parser.add_argument(
        "--prompts",
        choices=("trained", "held-out", "phrasings", "mixed"),
        default="trained",
        help="combinations trained or held out, phrasings never trained, or two languages in one",
    )
    _add_pictures(parser)
    parser.set_defaults(run=run_obedience)


def _add_negatives(measures: Subparsers) -> None:
    parser = measures.add_parser("negatives", help="does a negative prompt keep a colour out?")
    _add_pictures(parser)
    parser.set_defaults(run=run_negatives)


def _add_grafts(measures: Subparsers) -> None:
    parser = measures.add_parser("grafts", help="what does each way of grafting keep and give?")
    parser.add_argument("--community", required=True, metavar="MODEL", help="what is grafted")
    parser.add_argument("--base", required=True, metavar="MODEL", help="what it was tuned from")
    parser.add_argument(
        "--strengths", nargs="+", type=float, default=[0.5, 1.0], metavar="S", help="of delta-all"
    )
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw a row of pictures for each")
    _add_pictures(parser)
    parser.set_defaults(run=run_grafts)


def _add_dual(measures: Subparsers) -> None:
    parser = measures.add_parser(
        "dual", help="does a trigger word act on CLIP's side of dual conditioning?"
    )
    parser.add_argument("--community", required=True, metavar="MODEL", help="whose LoRA it is")
    parser.add_argument("--lora", required=True, metavar="FILE", help="made by stage `trigger`")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        default=[0.2, 0.3, 0.5],
        metavar="W",
        help="CLIP's share",
    )
    _add_pictures(parser)
    parser.set_defaults(run=run_dual)


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="nano", help="a name or a path")
    parser.add_argument("--languages", nargs="+", metavar="TAG", help="default: all 18")
    parser.add_argument("--count", type=int, default=50, help="prompts of each language")
    parser.add_argument("--sampler", default="dpmpp_2m")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, help="default: the model's own")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print all rates as JSON")


@tuned_cpu()
def run_obedience(args: argparse.Namespace) -> int:
    """Print the share of pictures that show what their prompts say."""
    from .evaluation import ObedienceTest, measure_obedience

    test = ObedienceTest(**_settings(args), prompts=args.prompts)
    tally = _measure(measure_obedience, test, args)
    print(json.dumps(_rates(tally), indent=2) if args.json else _table(tally))
    return 0


@tuned_cpu()
def run_negatives(args: argparse.Namespace) -> int:
    """Print how often a colour is seen, with and without its name in the negative prompt."""
    from .evaluation import PictureSettings
    from .negatives import NAMED, WITHOUT, measure_negatives

    tally = _measure(measure_negatives, PictureSettings(**_settings(args)), args)
    names = (WITHOUT, NAMED)
    rates = {
        language: {name: tally.rate(language, name).share for name in names}
        for language in tally.languages
    }
    rates["mean"] = {name: tally.mean(name) for name in names}
    if args.json:
        print(json.dumps(rates, indent=2))
        return 0
    print("share of pictures that show a colour, in per cent")
    print(f"{'language':10}{'without':>11}{'in negative':>13}")
    for language, rate in rates.items():
        print(f"{language:10}{100 * rate[WITHOUT]:>11.1f}{100 * rate[NAMED]:>13.1f}")
    return 0


@tuned_cpu()
def run_grafts(args: argparse.Namespace) -> int:
    """Print obedience in all languages, in English, and the style kept, one line a graft."""
    from .evaluation import ObedienceTest
    from .grafting import GraftSubjects, count_pictures, measure_grafts, usual_recipes

    recipes = usual_recipes(args.strengths)
    subjects = GraftSubjects(args.community, args.base, args.model, recipes)
    test = ObedienceTest(**_settings(args))
    with _progress(count_pictures(subjects, test), args) as bar:
        measured = list(measure_grafts(subjects, test, bar.update))
    if args.sheet is not None:
        _write_rows([row.samples for row in measured], args.sheet)
    rows = [_graft_row(row) for row in measured]
    print(json.dumps(rows, indent=2) if args.json else _table_of_rows(rows))
    return 0


@tuned_cpu()
def run_dual(args: argparse.Namespace) -> int:
    """Print obedience and the share of pictures that a trigger word changed, a line each way."""
    from .dual import DualSubjects, count_pictures, measure_dual
    from .evaluation import PictureSettings

    subjects = DualSubjects(args.community, args.model, args.lora, tuple(args.weights))
    settings = PictureSettings(**_settings(args))
    with _progress(count_pictures(subjects, settings), args) as bar:
        rows = [
            {
                "way": row.title,
                "triggered": 100 * row.triggered.share,
                **{name: 100 * row.tally.mean(name) for name in row.tally.attributes},
            }
            for row in measure_dual(subjects, settings, bar.update)
        ]
    print(json.dumps(rows, indent=2) if args.json else _table_of_rows(rows))
    return 0


def _write_rows(rows: list[Any], path: Path) -> None:
    """Draw a row of pictures for each way that was measured in all languages, side by side."""
    import torch

    from .sheets import write_sheet

    widest = max(map(len, rows))
    kept = [row[:SHEET_COLUMNS] for row in rows if len(row) == widest]
    write_sheet(torch.cat(kept), path, min(widest, SHEET_COLUMNS))


def _graft_row(row: Any) -> dict[str, Any]:
    tally = row.tally
    return {
        "graft": row.title,
        "all languages": 100 * tally.mean(),
        "worst": 100 * tally.rate(tally.worst()).share,
        "en": 100 * tally.rate("en").share,
        "colour": 100 * tally.mean("colour"),
        "shape": 100 * tally.mean("shape"),
        "style": 100 * row.style,
    }


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `PictureSettings` that the arguments give.

    Raises:
        InvalidRequest: a language has no captions.
    """
    from .evaluation import check_languages
    from .world.captions import LANGUAGES

    languages = tuple(args.languages or LANGUAGES)
    check_languages(languages, LANGUAGES)
    same = ("count", "sampler", "steps", "width", "height", "seed")
    values = {name: getattr(args, name) for name in same}
    return {**values, "languages": languages, "guidance_scale": args.guidance}


def _measure(measure: Any, test: Any, args: argparse.Namespace) -> Any:
    from ..assemble import load_pipeline

    pipeline = load_pipeline(args.model, parts=("text_encoder", "unet", "vae"))
    with _progress(len(test.languages) * test.count, args) as bar:
        return measure(pipeline, test, on_pictures=bar.update)


def _progress(total: int, args: argparse.Namespace) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="pictures", disable=args.json)


def _rates(tally: Any) -> dict[str, dict[str, float]]:
    return {
        language: {name: tally.rate(language, name).share for name in tally.attributes}
        for language in tally.languages
    }


def _table(tally: Any) -> str:
    """Return one line a language, one column an attribute, in per cent."""
    names = tally.attributes
    lines = ["".join(["language  ", *(f"{name:>11}" for name in names)])]
    for language in tally.languages:
        cells = [f"{100 * tally.rate(language, name).share:>11.1f}" for name in names]
        lines.append("".join([f"{language:10}", *cells]))
    means = [f"{100 * tally.mean(name):>11.1f}" for name in names]
    lines.append("".join([f"{'mean':10}", *means]))
    low, high = tally.overall("all").interval
    worst = tally.worst()
    lines.append(
        f"all right: {100 * tally.mean():.2f} % mean (95 % interval {100 * low:.1f} .. "
        f"{100 * high:.1f}), worst {worst} {100 * tally.rate(worst).share:.1f} %"
    )
    return "\n".join(lines)


def _table_of_rows(rows: list[dict[str, Any]]) -> str:
    """Return rows of one title and numbers in per cent."""
    title, *names = rows[0]
    lines = [f"{title:34}" + "".join(f"{name:>14}" for name in names)]
    for row in rows:
        lines.append(f"{row[title]:34}" + "".join(f"{row[name]:>14.1f}" for name in names))
    return "\n".join(lines)
