"""The three encoder families against diffusers' and transformers' classes, same wide weights."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest
import tiny
import torch
from multilingual_diffusion.pipeline_core.text.encoders import ENCODERS
from multilingual_diffusion.pipeline_core.text.tokenizers import open_tokenizer

PROMPTS = json.loads((Path(__file__).parent / "data" / "text_prompts.json").read_text("utf-8"))
XLMR_CONFIG = {**tiny.XLMR, "vocab_size": 300}
CONFIGS = {
    "altdiffusion": {**XLMR_CONFIG, "project_dim": tiny.PROJECT},
    "altdiffusion-m18": {**XLMR_CONFIG, "project_dim": tiny.WIDTH},
    "chinese-clip": {**tiny.CHINESE, "vocab_size": 300},
}
REFERENCES = {
    "altdiffusion": functools.partial(tiny.roberta_series, m18=False),
    "altdiffusion-m18": functools.partial(tiny.roberta_series, m18=True),
    "chinese-clip": functools.partial(tiny.chinese_clip, vocab_size=300),
}
FAMILIES = list(ENCODERS)


@functools.cache
def reference(family):
    return REFERENCES[family]()


@functools.cache
def tensors(family):
    """The published keys: the reference's own, with buffers and branches that files also hold."""
    values = dict(reference(family).state_dict())
    if family == "altdiffusion":
        values["pre_LN.weight"] = torch.ones(tiny.WIDTH)
    return values


def load(family, dtype=None):
    """Build on meta, assign, restore buffers: the loader's way."""
    with torch.device("meta"):
        module = ENCODERS[family].build(CONFIGS[family])
    unused = [re.compile(pattern) for pattern in ENCODERS[family].unused(CONFIGS[family])]
    wanted = {
        key: value if dtype is None else value.to(dtype)
        for key, value in tensors(family).items()
        if not any(pattern.fullmatch(key) for pattern in unused)
    }
    module.load_state_dict(wanted, strict=True, assign=True)
    module.after_loading()
    return module


def batch(family):
    """Ids and mask [20, window] of the prompts, by a tokenizer of few pieces."""
    window, start, end, pad = (52, 101, 102, 0) if family == "chinese-clip" else (77, 0, 2, 1)
    tokenizer = open_tokenizer(tiny.sentencepiece_file())
    rows = []
    for _, prompt in PROMPTS:
        ids = [start, *tokenizer.tokenize(prompt).ids[: window - 2], end]
        rows.append(ids + [pad] * (window - len(ids)))
    ids = torch.tensor(rows)
    mask = ids != pad
    lengths = mask.sum(1).tolist()
    assert min(lengths) == 2 and max(lengths) == window and len(set(lengths)) >= 10
    return ids, mask


@torch.no_grad()
def expected(family, ids, mask):
    if family == "chinese-clip":
        return reference(family)(ids, mask, torch.zeros_like(ids))[0]
    return reference(family)(ids, mask).projection_state


@torch.no_grad()
def difference(family, module):
    ids, mask = batch(family)
    return (module(ids, mask) - expected(family, ids, mask)).abs().max().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_prompts_equal_the_reference(family):
    assert len(PROMPTS) == 20 and len({language for language, _ in PROMPTS if language}) == 18
    assert difference(family, load(family)) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_state_dict_keys_are_the_published_ones(family):
    keys = set(load(family).state_dict())
    assert keys <= set(tensors(family))
    left = set(tensors(family)) - keys
    patterns = ENCODERS[family].unused(CONFIGS[family])
    assert all(any(re.fullmatch(pattern, key) for pattern in patterns) for key in left)
    assert not any(re.fullmatch(pattern, key) for pattern in patterns for key in keys)


def test_m18_leaves_out_its_last_layer_and_the_pooled_branch():
    keys = load("altdiffusion-m18").state_dict()
    assert not [
        key for key in keys if key.startswith(("roberta.encoder.layer.2.", "transformation."))
    ]
    assert "roberta.encoder.layer.1.output.dense.weight" in keys
    assert {"pre_LN.weight", "transformation_pre.weight"} <= set(keys)


def test_single_pass_of_512_tokens_equals_the_reference():
    ids = torch.randint(4, 300, (2, 512), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[0, -1], ids[1, 300:] = 0, 2, 1
    mask = ids != 1
    with torch.no_grad():
        found = load("altdiffusion-m18")(ids, mask)
    assert (found - expected("altdiffusion-m18", ids, mask)).abs().max() <= 1e-5


class WithoutMask(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, ids, mask):
        return self.module(ids, torch.ones_like(mask))


@pytest.mark.parametrize("family", FAMILIES)
def test_leaving_out_the_mask_is_noticed(family):
    assert difference(family, WithoutMask(load(family))) > 1e-2


def test_leaving_out_pre_ln_is_noticed():
    module = load("altdiffusion-m18")
    module.pre_LN = torch.nn.Identity()
    assert difference("altdiffusion-m18", module) > 1e-2


def test_the_last_layer_instead_of_the_penultimate_is_noticed():
    config = {**CONFIGS["altdiffusion-m18"], "num_hidden_layers": 4}
    module = ENCODERS["altdiffusion-m18"].build(config)
    module.load_state_dict({key: tensors("altdiffusion-m18")[key] for key in module.state_dict()})
    assert difference("altdiffusion-m18", module) > 1e-2


def test_the_m2_rule_on_m18_weights_is_noticed():
    module = ENCODERS["altdiffusion"].build(CONFIGS["altdiffusion-m18"])
    module.load_state_dict({key: tensors("altdiffusion-m18")[key] for key in module.state_dict()})
    assert difference("altdiffusion-m18", module) > 1e-2


def test_positions_that_count_pads_are_noticed(monkeypatch):
    from multilingual_diffusion.pipeline_core.text.encoders import altdiffusion

    module = load("altdiffusion")
    monkeypatch.setattr(
        altdiffusion, "roberta_positions", lambda ids, pad: torch.arange(77).expand_as(ids)
    )
    assert difference("altdiffusion", module) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_word_table_is_neither_moved_nor_cast(family):
    module = load(family)
    table = module.tower.embeddings.word_embeddings.weight
    storage = table.data_ptr()
    module.to(torch.float16).half().to("cpu", torch.bfloat16).to("meta")
    after = module.tower.embeddings.word_embeddings.weight
    assert after is table and after.data_ptr() == storage
    assert (after.device.type, after.dtype) == ("cpu", torch.float32)
    assert (module.device.type, module.dtype) == ("meta", torch.bfloat16)
    rest = [value for name, value in module.named_parameters() if "word_embeddings" not in name]
    assert rest and all(value.is_meta for value in rest)
    # what leaves the CPU for the network's device are the rows of the prompt, not the table
    ids, mask = batch(family)
    assert module(ids, mask).device.type == "meta"


@pytest.mark.parametrize("family", FAMILIES)
def test_half_table_under_a_full_network(family):
    half = load(family, torch.float16)
    half.to(torch.float32)
    ids, mask = batch(family)
    with torch.no_grad():
        states = half(ids, mask)
    assert half.tower.embeddings.word_embeddings.weight.dtype == torch.float16
    assert states.dtype == torch.float32
    assert (states - expected(family, ids, mask)).abs().max() <= 2e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_buffers_are_right_after_a_meta_build(family):
    embeddings = load(family).tower.embeddings
    own = reference(family).roberta if family != "chinese-clip" else reference(family)
    for name in ("position_ids", "token_type_ids"):
        assert torch.equal(getattr(embeddings, name), getattr(own.embeddings, name))


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_config_keys_do_not_reach_transformers(family):
    config = {**CONFIGS[family], "is_decoder": True, "auto_map": {"AutoModel": "evil.Model"}}
    with torch.device("meta"):
        module = ENCODERS[family].build(config)
    assert sorted(module.state_dict()) == sorted(load(family).state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_come_from_the_given_namespace(family):
    made = []

    class Operations:
        @staticmethod
        def Linear(*args, **kwargs):
            made.append("Linear")
            return torch.nn.Linear(*args, **kwargs)

        @staticmethod
        def LayerNorm(*args, **kwargs):
            made.append("LayerNorm")
            return torch.nn.LayerNorm(*args, **kwargs)

    ENCODERS[family].build(CONFIGS[family], operations=Operations)
    wanted = {
        "altdiffusion": ["Linear"],
        "altdiffusion-m18": ["LayerNorm", "Linear"],
        "chinese-clip": [],
    }
    assert sorted(made) == wanted[family]
