"""Broken graphs: the server's answer and the headless executor's are the same JSON."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from comfyui import graphs
from comfyui.server import Refused, Server
from multilingual_diffusion.__main__ import load_nodes
from multilingual_diffusion.nodes import host
from multilingual_diffusion.pipeline_core.workflow import InvalidWorkflow, parse_api, validate

Break = Callable[[graphs.Prompt], Any]


def put(node: str, **inputs: Any) -> Break:
    return lambda prompt: prompt[node]["inputs"].update(inputs)


def drop(node: str, name: str) -> Break:
    return lambda prompt: prompt[node]["inputs"].pop(name)


def add(**nodes: Any) -> Break:
    return lambda prompt: prompt.update(copy.deepcopy(nodes))


def both(*breaks: Break) -> Break:
    return lambda prompt: [each(prompt) for each in breaks]


UNKNOWN = {"class_type": "MultilingualNothing", "inputs": {}, "_meta": {"title": "What"}}
SECOND_SAVE = graphs.node("MultilingualSaveImage", images=["decode", 0], filename_prefix="t")

BROKEN: dict[str, Break] = {
    "no output": lambda prompt: prompt.pop("save"),
    "input missing": drop("sampler", "cfg"),
    "input missing at the output": drop("save", "images"),
    "socket missing": drop("decode", "vae"),
    "link of one": put("decode", latent=["sampler"]),
    "link of three": put("decode", latent=["sampler", 0, 1]),
    "other type": put("decode", vae=["model", 0]),
    "output linked to a widget": put("sampler", steps=["positive", 0]),
    "no number": put("sampler", steps="many"),
    "no fraction": put("sampler", cfg="strong"),
    "number missing": put("sampler", seed=None),
    "too small": put("sampler", steps=0),
    "too large": put("sampler", denoise=1.5),
    "choice unknown": put("sampler", sampler="dimm"),
    "model unknown": put("model", model="../checked"),
    "policy that passes silently": both(
        add(check=graphs.node(
            "MultilingualSafetyCheck", images=["decode", 0], safety_checker=["model", 3],
            policy="auto", adjustment=0.0,
        )),
        put("save", images=["check", 0]),
    ),
    "checker missing": both(
        add(check=graphs.node(
            "MultilingualSafetyCheck", images=["decode", 0], policy="black", adjustment=0.0
        )),
        put("save", images=["check", 0]),
    ),
    "link to nowhere": put("decode", latent=["nowhere", 0]),
    "link to nowhere from the output": put("save", images=["nowhere", 0]),
    "behind a link of another type": both(
        put("decode", latent=["positive", 0]), drop("positive", "text")
    ),
    "several at once": both(
        put("sampler", steps=-3, cfg=1000.0, schedule="?"),
        put("empty", width=7),
        drop("negative", "text"),
    ),
    "one output of two": both(add(other=SECOND_SAVE), drop("other", "filename_prefix")),
    "two outputs of two": both(add(other=SECOND_SAVE), drop("sampler", "denoise")),
}  # fmt: skip
# Told in other words by hosts before 0.4; the executor tells as the newer do.
NEWER: dict[str, Break] = {
    "choice that is a number": put("sampler", schedule=7),
    "class unknown": add(unknown=UNKNOWN),
    "class missing": add(unknown={"inputs": {}}),
    "cycle": both(
        add(back=graphs.node(
            "MultilingualVAEEncode", images=["decode", 0], vae=["model", 2], tiling=False
        )),
        put("sampler", latent_image=["back", 0]),
    ),
    "cycle of itself": put("sampler", latent_image=["sampler", 0]),
}  # fmt: skip


def broken(change: Break) -> graphs.Prompt:
    prompt = graphs.picture()
    change(prompt)
    return prompt


def told_by_server(server: Server, prompt: graphs.Prompt) -> dict[str, Any]:
    """Return error and node errors; without an error the rest of the graph has run."""
    body = {"prompt": prompt, "client_id": "tests"}
    try:
        answer = server.fetch_json("/prompt", body)
    except Refused as refused:
        assert refused.status == 400
        return refused.answer
    server.wait(answer["prompt_id"])
    return {"error": None, "node_errors": answer["node_errors"]}


def told_headless(server: Server, prompt: graphs.Prompt) -> dict[str, Any]:
    nodes = load_nodes()
    models = (server.base / "models" / "multilingual",)
    with host.use_folders(host.HeadlessFolders(models=models)):
        try:
            checked = validate(parse_api(prompt), nodes.classes, titles=nodes.titles)
        except InvalidWorkflow as error:
            return error.to_json()
    return {"error": None, "node_errors": checked.node_errors}


def comparable(told: Any) -> Any:
    """Return it less what is each program's own: frames, and the order of what the host keeps in
    sets."""
    if isinstance(told, dict):
        return {
            key: sorted(map(comparable, each), key=repr)
            if key in ("errors", "dependent_outputs")
            else comparable(each)
            for key, each in told.items()
            if key != "traceback"
        }
    return told


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_graph_is_told_in_the_same_json(name: str, comfyui: Server) -> None:
    prompt = broken(BROKEN[name])
    found = told_by_server(comfyui, copy.deepcopy(prompt))
    assert found["error"] or found["node_errors"]
    assert comparable(told_headless(comfyui, prompt)) == comparable(found)


@pytest.mark.parametrize("name", NEWER)
def test_what_newer_hosts_say(name: str, comfyui: Server) -> None:
    prompt = broken(NEWER[name])
    found = told_by_server(comfyui, copy.deepcopy(prompt))
    if comfyui.version < (0, 4):
        assert found["error"]["type"] in ("invalid_prompt", "prompt_outputs_failed_validation")
        return
    assert comparable(told_headless(comfyui, prompt)) == comparable(found)
