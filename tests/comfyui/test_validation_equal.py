"""What the host answers to a prompt that is wrong, we answer: the same JSON.

Two differences are meant: where the host's check of a node raises, its other errors and those
behind it are lost, and we report them too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfyui.validation_cases import DOCUMENTED, RANDOM_PROMPTS

EXCEPTIONS = {"exception_during_validation", "exception_during_inner_validation"}


@pytest.fixture(scope="module")
def answers(run_in_comfyui: Callable[..., Any]) -> dict[str, list[Any]]:
    found = run_in_comfyui(Path(__file__).parent / "validation_cases.py")
    if not found:
        pytest.skip("this ComfyUI answers in an older form")
    return found


def kinds(answer: dict[str, Any]) -> set[str]:
    error = answer["error"] or {}
    nodes = answer["node_errors"].values()
    return {error.get("type", "")} | {each["type"] for node in nodes for each in node["errors"]}


def holds(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Tell whether every error of theirs is among ours."""
    return all(
        node in ours["node_errors"]
        and all(error in ours["node_errors"][node]["errors"] for error in entry["errors"])
        for node, entry in theirs["node_errors"].items()
    )


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_answer(name: str, answers: dict[str, list[Any]]) -> None:
    theirs, ours, _ = answers[name]
    assert ours == theirs
    kind = name.split()[0]
    assert kind in kinds(theirs) if "_" in kind else theirs == {"error": None, "node_errors": {}}


def test_random_prompts_get_the_same_answer(answers: dict[str, list[Any]]) -> None:
    seen: set[str] = set()
    for name, (theirs, ours, prompt) in answers.items():
        if not name.startswith("random"):
            continue
        seen |= kinds(theirs)
        if kinds(theirs) & EXCEPTIONS:
            assert holds(ours, theirs) and ours["error"]["type"] == theirs["error"]["type"], prompt
        else:
            assert ours == theirs, prompt
    assert len(answers) == len(DOCUMENTED) + RANDOM_PROMPTS
    assert seen >= {
        "", "required_input_missing", "bad_linked_input", "return_type_mismatch",
        "invalid_input_type", "value_smaller_than_min", "value_bigger_than_max",
        "value_not_in_list", *EXCEPTIONS - {"exception_during_validation"},
    }  # fmt: skip
