"""Runs in the real server: what it tells, what it keeps, how it stops, and that it says why."""

from __future__ import annotations

import io
import time

from comfyui import graphs
from comfyui.server import Server, executed_nodes
from PIL import Image


def saved(server: Server, prompt: graphs.Prompt) -> bytes:
    (picture,) = server.pictures(server.run(prompt))["save"]
    return picture


def test_only_what_changed_runs_again(comfyui: Server) -> None:
    first = graphs.picture(seed=11)
    assert {"sampler", "decode", "save"} <= executed_nodes(comfyui.run(first), first)
    assert executed_nodes(comfyui.run(first), first) == set()
    other = graphs.picture(seed=12)
    assert executed_nodes(comfyui.run(other), other) == {"sampler", "decode", "save"}


def test_steps_are_told_and_no_preview_comes_unasked(comfyui: Server) -> None:
    steps = 6
    with comfyui.listen("steps") as listener:
        comfyui.run(graphs.picture(steps=steps, seed=21), client="steps")
        listener.wait_for(lambda event: event["type"] == "execution_success")
    told = [each for each in listener.told("progress") if each["node"] == "sampler"]
    values = [each["value"] for each in told]
    assert values == sorted(set(values)) and values[-1] == steps  # newer hosts leave some out
    assert {each["max"] for each in told} == {steps}
    assert listener.told("preview") == []
    assert {each["node"] for each in listener.told("executed")} == {"save"}


def test_an_interrupt_stops_within_a_step_and_harms_nothing(comfyui: Server) -> None:
    steps, prompt = 900, graphs.picture(seed=31)
    before = saved(comfyui, prompt)
    with comfyui.listen("stop") as listener:
        prompt_id = comfyui.submit(graphs.picture(steps=steps, seed=32), client="stop")
        listener.wait_for(lambda event: event["type"] == "progress")
        comfyui.interrupt()
        asked = time.monotonic()
        entry = comfyui.wait(prompt_id)
        waited = time.monotonic() - asked
        listener.wait_for(lambda event: event["type"] == "execution_interrupted")
    reached = max(each["value"] for each in listener.told("progress"))
    assert reached < steps / 4 and waited < 10
    assert not any(output.get("images") for output in entry["outputs"].values())
    comfyui.free()
    assert saved(comfyui, prompt) == before


def test_after_free_everything_runs_again_and_equals(comfyui: Server) -> None:
    prompt = graphs.picture(seed=41)
    before = saved(comfyui, prompt)
    comfyui.free()
    time.sleep(1.5)  # the server looks after its queue once a second
    entry = comfyui.run(prompt)
    assert executed_nodes(entry, prompt) == set(prompt)
    assert comfyui.pictures(entry)["save"] == [before]


def safety_graph(model: str) -> graphs.Prompt:
    prompt = graphs.picture(model, seed=51)
    prompt["check"] = graphs.node(
        "MultilingualSafetyCheck",
        images=["decode", 0], safety_checker=["model", 3], policy="black", adjustment=0.0,
    )  # fmt: skip
    prompt["save"]["inputs"].update(images=["check", 0], safety_record=["check", 4])
    return prompt


def test_a_checker_that_is_missing_fails_the_run(comfyui: Server) -> None:
    checked = comfyui.run(safety_graph("checked"))
    assert checked["outputs"]["save"]["images"]
    entry = comfyui.wait(comfyui.submit(safety_graph("group/bare")))
    assert entry["status"]["status_str"] == "error" and entry["outputs"] == {}
    error = dict(entry["status"]["messages"])["execution_error"]
    assert error["node_type"] == "MultilingualSafetyCheck"
    assert "bare has no safety_checker" in error["exception_message"]


def test_a_flagged_picture_is_saved_black(comfyui: Server) -> None:
    prompt = safety_graph("checked")
    prompt["check"]["inputs"]["adjustment"] = 1.0  # everything is flagged
    entry = comfyui.run(prompt)
    (picture,) = comfyui.pictures(entry)["save"]
    assert picture != comfyui.pictures(comfyui.run(safety_graph("checked")))["save"][0]
    with Image.open(io.BytesIO(picture)) as image:
        assert image.getextrema() == ((0, 0),) * 3
