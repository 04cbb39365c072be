"""Runs inside ComfyUI: the host's own answer to prompts, and ours, over the same node classes.

The classes are those of `test_workflow_validate.py`. `main()` returns, for each prompt by name, the
host's answer and ours as a server would send them, and the prompt; nothing where the answers of
this ComfyUI are of an older form.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
from typing import Any

from multilingual_diffusion.pipeline_core.workflow import InvalidWorkflow, parse_api, validate
from test_workflow_validate import CLASSES, graph

Answer = dict[str, Any]

REFERENCE = (0, 33)
RANDOM_PROMPTS = 1000
# Outputs, a list that a browser fetches, and functions of a class's own: of these last the host
# asks even those that an input is missing for, and reports what they then raise.
NOT_RANDOM = {"Show", "ShowTwo", "Remote", "Custom", "Refuses", "Raises", "Typed"}


def feeding(kind: str, **inputs: Any) -> Answer:
    """A node `1` of this class before the output."""
    return graph(n1=(kind, inputs), n2=("Show", {"value": ["1", 0]}))


# One or more for every documented error type
DOCUMENTED: dict[str, Answer] = {
    "valid": feeding("Value", value=3),
    "required_input_missing": feeding("Value"),
    "bad_linked_input": feeding("Value", value=["1"]),
    "return_type_mismatch": feeding("Value", value=["3", 0]) | graph(n3=("Text", {"text": "x"})),
    "invalid_input_type": feeding("Value", value="abc"),
    "invalid_input_type of None": feeding("Value", value=None),
    "invalid_input_type of a text": feeding("Rounded", x="y"),
    "value_smaller_than_min": feeding("Value", value=-1),
    "value_bigger_than_max": feeding("Value", value=9),
    "value_not_in_list": feeding("Mode", mode="zzz") | graph(n2=("Any", {"any": ["1", 0]}))
    | graph(n3=("Show", {"value": ["2", 0]})),
    "value_not_in_list of COMBO": feeding("NewMode", mode="zzz"),
    "value_not_in_list of many": feeding("Long", mode="zzz"),
    "value_not_in_list of several": feeding("Many", mode={"__value__": ["x", "q", "r"]}),
    "custom_validation_failed": feeding("Custom", a=1, b=2),
    "custom_validation_failed by types": feeding("Typed", a=["3", 0])
    | graph(n3=("Value", {"value": 1})),
    "custom validation allows": feeding("Custom", a=9, b=2),
    "exception_during_validation": graph(n1=("Show", {"value": ["99", 0]})),
    "exception_during_inner_validation": feeding("Value", value=["99", 0]),
    "exception_during_inner_validation of a slot": feeding("Value", value=["3", 7])
    | graph(n3=("Value", {"value": 1})),
    "exception_during_inner_validation of a function": feeding("Raises", a=1),
    "dependency_cycle": graph(
        n1=("Value", {"value": ["2", 0]}), n2=("Value", {"value": ["1", 0]}),
        n3=("Show", {"value": ["2", 0]}),
    ),
    "dependency_cycle of one": graph(
        n1=("Value", {"value": ["1", 0]}), n2=("Show", {"value": ["1", 0]})
    ),
    "missing_node_type": feeding("Nobody", value=1),
    "missing_node_type without class_type": {"1": {"inputs": {}}},
    "missing_node_type with a title": {
        "1": {"class_type": "Nobody", "inputs": {}, "_meta": {"title": "My node"}}
    },
    "prompt_no_outputs": graph(n1=("Value", {"value": 1})),
    "prompt_outputs_failed_validation": graph(n1=("Show", {})),
}  # fmt: skip


CONSTANTS = (
    -1, 0, 2, 9, "x", "zzz", "3", True, None, 0.5, {"__value__": ["x", "q"]}, ["1"], [], ["99", 0],
)  # fmt: skip


def random_prompt(source: random.Random) -> Answer:
    """A graph of up to six nodes without cycles before one output."""
    kinds = sorted(set(CLASSES) - NOT_RANDOM)
    names = ("value", "text", "mode", "a", "b", "any", "on", "x", "foo")
    count = source.randint(1, 6)
    prompt: Answer = {}
    for number in range(count):
        inputs: dict[str, Any] = {}
        for name in source.sample(names, source.randint(2, len(names))):
            before = str(source.randrange(number)) if number else "99"
            links = [*[[before, 0]] * 8, [before, 1]]
            inputs[name] = source.choice([*CONSTANTS, *links])
        prompt[str(number)] = {"class_type": source.choice(kinds), "inputs": inputs}
    prompt["out"] = {"class_type": "Show", "inputs": {"value": [str(count - 1), 0]}}
    return prompt


def host_answer(prompt: Answer) -> Answer:
    import execution

    ok, error, _, node_errors = asyncio.run(
        execution.validate_prompt("test", copy.deepcopy(prompt), None)
    )
    return {"error": None if ok else error, "node_errors": node_errors}


def own_answer(prompt: Answer) -> Answer:
    try:
        checked = validate(parse_api(prompt), CLASSES)
    except InvalidWorkflow as exc:
        return exc.to_json()
    return {"error": None, "node_errors": checked.node_errors}


def plain(answer: Answer) -> Answer:
    """Return the answer as JSON, less what no two runs share: the lines of a traceback."""
    answer = json.loads(json.dumps(answer))
    for entry in answer["node_errors"].values():
        for error in entry["errors"]:
            error["extra_info"].pop("traceback", None)
        entry["errors"].sort(key=lambda error: json.dumps(error, sort_keys=True))
    return answer


def main() -> dict[str, list[Answer]]:
    import comfyui_version

    import nodes

    version = comfyui_version.__version__.split(".")
    if tuple(int(part) for part in version[:2]) < REFERENCE:
        return {}
    nodes.NODE_CLASS_MAPPINGS.update(CLASSES)
    source = random.Random(0)
    prompts = DOCUMENTED | {
        f"random {number}": random_prompt(source) for number in range(RANDOM_PROMPTS)
    }
    return {
        name: [plain(host_answer(prompt)), plain(own_answer(prompt)), prompt]
        for name, prompt in prompts.items()
    }
