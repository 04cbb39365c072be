"""LoRAs and embeddings in nodes: beside a branch without, headless, and in the host's places."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import node_graphs as graphs
import pytest
import tiny
import torch
from multilingual_diffusion.nodes import NODE_CLASS_MAPPINGS, host
from multilingual_diffusion.pipeline_core import ImageRequest, load_pipeline
from multilingual_diffusion.pipeline_core.errors import FileRefused, InvalidRequest, ModelNotFound
from multilingual_diffusion.pipeline_core.training.lora import add_lora, write_lora
from multilingual_diffusion.pipeline_core.workflow import Executor, parse_api
from node_graphs import call, sample
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = graphs.write_models(tmp_path_factory.mktemp("models"))
    for seed, name in enumerate(("style.safetensors", "sub/other.safetensors")):
        trained = tiny.unet()
        torch.manual_seed(seed)
        add_lora(trained, rank=2)
        for key, value in trained.named_parameters():
            if ".up." in key:
                torch.nn.init.normal_(value, std=0.3)
        write_lora(trained, root / "loras" / name)
    torch.save({"x": torch.ones(1)}, root / "loras" / "old.pt")
    (root / "embeddings").mkdir()
    save_file({"<cat-toy>": torch.randn(3, tiny.WIDTH)}, root / "embeddings" / "cat.safetensors")
    return root


@pytest.fixture(autouse=True)
def folders(root: Path, tmp_path: Path):
    with graphs.folders(root, tmp_path), torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def parts(root: Path):
    with graphs.folders(root, root / "output"):
        return call("MultilingualModelLoader", model="group/bare")


def load(unet, name: str, strength: float = 1.0, **inputs):
    return call("MultilingualLoraLoader", unet=unet, lora_name=name, strength=strength, **inputs)


def test_the_choice_lists_the_folder() -> None:
    choices = NODE_CLASS_MAPPINGS["MultilingualLoraLoader"].INPUT_TYPES()["required"]["lora_name"]
    assert choices[0] == ["old.pt", "style.safetensors", "sub/other.safetensors"]
    models = NODE_CLASS_MAPPINGS["MultilingualModelLoader"].INPUT_TYPES()["required"]["model"][0]
    assert models == ["nano", "checked", "group/bare"]


def test_one_branch_with_loras_and_one_without(parts, root: Path) -> None:
    text_encoder, unet, *_ = parts
    plain = sample(parts, seed=3)["samples"]
    one, report = load(unet, "style.safetensors", 0.6)
    both, _ = load(one, "sub/other.safetensors", -0.5)
    assert report == "style.safetensors at 0.6: 128 layers changed"
    with_one = sample((text_encoder, one), seed=3)["samples"]
    with_both = sample((text_encoder, both), seed=3)["samples"]
    assert not torch.allclose(with_one, plain, atol=1e-2)
    assert not torch.allclose(with_both, with_one, atol=1e-2)
    assert torch.equal(sample(parts, seed=3)["samples"], plain)  # the branch without is as before
    pipeline = load_pipeline(root / "group" / "bare",
                             loras=[(root / "loras" / "style.safetensors", 0.6)])  # fmt: skip
    request = ImageRequest(
        prompts=[graphs.PROMPT], negative_prompts=["blue"], seed=3, steps=graphs.STEPS,
        width=graphs.WIDTH, height=graphs.HEIGHT, guidance_scale=7.5, sampler="dpmpp_2m",
    )  # fmt: skip
    assert torch.allclose(pipeline.sample(request).samples, with_one, atol=1e-5)


def test_strength_0_is_the_unet_that_came_in(parts) -> None:
    unet, report = load(parts[1], "style", 0.0)
    assert unet is parts[1] and report == "style.safetensors at 0: nothing changed"


def test_what_a_workflow_file_may_not_ask(parts, root: Path) -> None:
    inside = root / "loras" / "style.safetensors"
    for name in ("absent", str(inside), "../loras/style.safetensors", "../group/bare/unet"):
        with pytest.raises((ModelNotFound, InvalidRequest)):
            load(parts[1], name)
    with pytest.raises(InvalidRequest, match="strength is nan"):
        load(parts[1], "style", float("nan"))
    with pytest.raises(FileRefused, match="pickle, which can carry code"):
        load(parts[1], "old.pt")


def test_a_prompt_that_names_an_embedding(parts, root: Path) -> None:
    text = "a (embedding:cat:1.2) on a hill"
    (found,) = call("MultilingualTextEncode", text_encoder=parts[0], text=text)
    dirs = [root / "embeddings"]
    pipeline = load_pipeline(root / "group" / "bare", embedding_dirs=dirs)
    assert torch.equal(found[0][0], pipeline.encode([text]).embeddings)
    (plain,) = call("MultilingualTextEncode", text_encoder=parts[0], text="a cat on a hill")
    assert not torch.allclose(found[0][0], plain[0][0], atol=1e-2)
    report, tokens, *_ = call("MultilingualTokenMeter", text_encoder=parts[0], text=text)
    assert "embedding:cat takes 3 tokens" in report
    again = call("MultilingualTokenMeter", text_encoder=parts[0], text="a <cat-toy> on a hill")
    assert "<cat-toy> takes 3 tokens" in again[0] and again[1] == tokens
    with pytest.raises(ModelNotFound, match="no embedding 'dog'"):
        call("MultilingualTextEncode", text_encoder=parts[0], text="embedding:dog")


def test_headless_in_a_graph(root: Path) -> None:
    graph = {
        "1": {"class_type": "MultilingualUNetLoader", "inputs": {"model": "group/bare"}},
        "2": {
            "class_type": "MultilingualLoraLoader",
            "inputs": {"unet": ["1", 0], "lora_name": "style.safetensors", "strength": 1.0},
        },
        "3": {"class_type": "Show", "inputs": {"text": ["2", 1]}},
    }

    class Show:
        RETURN_TYPES = ()
        FUNCTION = "execute"
        CATEGORY = "test"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"text": ("STRING", {"default": "", "forceInput": True})}}

        def execute(self, text):
            return {"ui": {"text": [text]}}

    result = Executor({**NODE_CLASS_MAPPINGS, "Show": Show}).run(parse_api(graph))
    assert result.ui["3"]["text"] == ["style.safetensors at 1: 128 layers changed"]


def test_the_changed_network_rests_where_the_host_says(parts, monkeypatch) -> None:
    """With a host: its own patcher, in the first one's places; nothing stays shared elsewhere."""
    made = []
    monkeypatch.setattr(host, "make_patcher", lambda *given: made.append(given) or "patcher")
    cpu = torch.device("cpu")
    first = SimpleNamespace(load_device=torch.device("cuda", 0), offload_device=cpu)
    unet, _ = load(dataclasses.replace(parts[1], patcher=first), "style")
    assert unet.patcher == "patcher" and unet.source == parts[1].source
    ((network, place),) = made
    assert network is unet.part.network is not parts[1].part.network
    assert (place.compute, place.rest) == (first.load_device, cpu)
