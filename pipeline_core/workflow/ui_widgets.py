"""Which widgets the browser gives a node, and which value of a file belongs to which.

`widgets_values` is a bare list in the order of the widgets, with extra places for companions
(`control_after_generate`, upload buttons ...), and some inputs bring more widgets by their value.
Facts: the front end's widget constructors (comfyui-frontend-package 1.49.6), not its code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .definitions import InputDefinition, NodeDefinition, read_input
from .ui_graph import UiNode, UiSlot

DYNAMIC_COMBO, AUTOGROW, MATCH_TYPE = (
    "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3", "COMFY_MATCHTYPE_V3"
)  # fmt: skip

_BOX = {"x": 0, "y": 0, "width": 512, "height": 512}
_CURVE = {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"}
_DEFAULTS: dict[str, Any] = {
    "INT": 0, "FLOAT": 0, "BOOLEAN": False, "STRING": "", "MARKDOWN": "", "TEXTAREA": "",
    "COLOR": "#000000", "COLORS": [], "CURVE": _CURVE, "RANGE": {"min": 0.0, "max": 1.0},
    "BOUNDING_BOX": _BOX, "BOUNDING_BOXES": [], "PAINTER": "", "COMPOSITOR": {},
    "VIDEO_EDIT": {}, "GALLERIA": [], "CHART": {}, "IMAGECOMPARE": ["", ""], "WEBCAM": "",
    "AUDIO_RECORD": "", "LOAD_3D": "", "PREVIEW_3D": "", "COMBO": None, DYNAMIC_COMBO: None,
}  # fmt: skip
_NOT_SAVED = {"IMAGECOMPARE"}
_BOX_FIELDS = len(_BOX)  # a box has a hidden number widget for each of its fields
_LOAD_3D_BUTTONS = {
    "upload 3d model": "upload3dmodel", "upload extra resources": "uploadExtraResources",
    "clear": "clear",
}  # fmt: skip


class NodeWidgets(NamedTuple):
    """The widgets that are sent, by name, and the inputs behind them (None: the browser's own)."""

    values: dict[str, Any]
    inputs: dict[str, InputDefinition | None]


def read_widgets(node: UiNode, definition: NodeDefinition) -> NodeWidgets:
    """Return the node's widgets with the values of the file, defaults where it has none."""
    saved = node.widgets_values
    if isinstance(saved, Mapping):
        places: Iterator[Any] = iter(())
    else:
        saved = _without_old_places(list(saved or ()), definition)
        places = iter(saved)
    widgets = NodeWidgets({}, {})
    waiting = [*definition.inputs.values()][::-1]
    while waiting:
        each = waiting.pop()
        if not is_widget(each):
            continue
        for name, default in _buttons_before(each, definition):
            _add(widgets, name, None, next(places, default))
        value = _default(each)
        if isinstance(saved, Mapping):
            value = saved.get(each.name, value)
        elif _kind(each) not in _NOT_SAVED:
            value = next(places, value)
        if value is None and _kind(each) in ("COMBO", DYNAMIC_COMBO):
            value = _default(each)
        _add(widgets, each.name, each, value)
        for _ in range(_companions(each)):
            next(places, None)
        waiting += reversed(inputs_behind(definition.name, each, value))
    if definition.name == "CustomCombo":
        _add_options(widgets, list(places))
    return widgets


def is_widget(each: InputDefinition) -> bool:
    """Tell whether the browser shows a widget for the input (which also has a socket)."""
    return _kind(each) in _DEFAULTS and not each.options.get("forceInput")


def inputs_behind(node: str, each: InputDefinition, value: Any) -> list[InputDefinition]:
    """Return the inputs that the value of a dynamic combo brings; [] for any other input."""
    if _kind(each) != DYNAMIC_COMBO:
        return []
    options = each.options.get("options") or ()
    chosen = next((option for option in options if option.get("key") == value), {})
    inputs = chosen.get("inputs") or {}
    return [
        read_input(node, f"{each.name}.{name}", spec, required=section == "required")
        for section in ("required", "optional")
        for name, spec in (inputs.get(section) or {}).items()
    ]


def input_slots(node: UiNode, definition: NodeDefinition, widgets: NodeWidgets) -> list[UiSlot]:
    """Return the input sockets in the browser's order: plain ones, widgets', the file's own."""
    filed = {slot.name: slot for slot in node.inputs}
    plain = [each for each in definition.inputs.values() if not is_widget(each)]
    slots: dict[str, UiSlot] = {}
    for each in plain:
        for name in _grown_names(each, filed) if _kind(each) == AUTOGROW else (each.name,):
            slots[name] = UiSlot(name, _socket_type(each, filed.get(name)), _link(filed, name))
    for name, each in widgets.inputs.items():
        if each is not None:
            slots[name] = UiSlot(name, _socket_type(each, None), _link(filed, name), name)
    for name, slot in filed.items():
        # a converted widget that the class no longer has is gone, and its link with it
        if name not in slots and (slot.widget is None or slot.widget in widgets.values):
            slots[name] = slot
    return list(slots.values())


def _add(widgets: NodeWidgets, name: str, each: InputDefinition | None, value: Any) -> None:
    widgets.values[name] = value
    widgets.inputs[name] = each


def _kind(each: InputDefinition) -> str:
    if isinstance(each.type, list):
        return "COMBO"
    return each.options.get("widgetType") or each.type


def _default(each: InputDefinition) -> Any:
    kind, default = _kind(each), each.options.get("default")
    if kind == DYNAMIC_COMBO:
        return next((option.get("key") for option in each.options.get("options") or ()), None)
    if kind == "COMBO":
        return default or next(iter(each.choices or ()), None)
    return _DEFAULTS[kind] if default is None else default


def _companions(each: InputDefinition) -> int:
    """Return how many places of widgets_values follow the input's own."""
    kind = _kind(each)
    control = each.options.get("control_after_generate")
    if kind == "INT" and control is None:
        control = each.name in ("seed", "noise_seed")
    if kind == "BOUNDING_BOX":
        return _BOX_FIELDS
    if kind == "AUDIO_RECORD":
        return 1
    if kind == "COMBO" and control:
        return 1 if each.options.get("multi_select") else 2  # the control, and a filter text
    return int(bool(control) and kind in ("INT", "FLOAT"))


def _buttons_before(each: InputDefinition, definition: NodeDefinition) -> Sequence[tuple[str, str]]:
    """Return the buttons that the browser sends along like widgets (a 3D loader's)."""
    shown = _kind(each) == "LOAD_3D" and "model_file" in definition.inputs
    return list(_LOAD_3D_BUTTONS.items()) if shown else ()


def _without_old_places(values: list[Any], definition: NodeDefinition) -> list[Any]:
    """Drop the places that inputs with forceInput had in files of front ends before 1.16."""
    forced: list[bool] = []
    for each in definition.inputs.values():
        if is_widget(each) or each.options.get("forceInput"):
            forced.append(bool(each.options.get("forceInput")))
            if each.options.get("control_after_generate"):
                forced.append(False)
    if len(forced) != len(values):
        return values
    return [value for value, is_forced in zip(values, forced, strict=True) if not is_forced]


def _add_options(widgets: NodeWidgets, rest: list[Any]) -> None:
    """Add what a CustomCombo has beyond its class: the place of the choice, and its options."""
    # the browser adds an empty option when the last one is filled, so the first empty one is last
    options = [*itertools.takewhile(bool, rest[1:]), ""]
    choice = widgets.values.get("choice")
    _add(widgets, "index", None, options.index(choice) if choice in options else -1)
    for number, option in enumerate(options, start=1):
        _add(widgets, f"option{number}", None, option)


def _grown_names(each: InputDefinition, filed: Mapping[str, UiSlot]) -> list[str]:
    """Return the sockets of an autogrow input: those it starts with, then those of the file."""
    template = each.options.get("template") or {}
    inputs = template.get("input") or {}
    inner = [name for section in ("required", "optional") for name in inputs.get(section) or {}]
    names, count = template.get("names"), int(template.get("min", 1)) + 1
    stems = [str(template.get("prefix", ""))] if len(inner) == 1 else inner
    grown = list(names[:count]) if names else [f"{s}{n}" for n in range(count) for s in stems]
    first = [f"{each.name}.{name}" for name in grown]
    return list(dict.fromkeys([*first, *(n for n in filed if n.startswith(f"{each.name}."))]))


def _socket_type(each: InputDefinition, filed: UiSlot | None) -> str:
    if filed is not None and each.type in (MATCH_TYPE, AUTOGROW):
        return filed.type
    return "COMBO" if isinstance(each.type, list) else each.type


def _link(filed: Mapping[str, UiSlot], name: str) -> str | None:
    return filed[name].link if name in filed else None
