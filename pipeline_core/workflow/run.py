"""One run of one workflow: order, lazy inputs, lists, expansion, async nodes, and its events."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import Cancelled, WorkflowError
from .api_format import parse_value
from .async_nodes import AsyncNodes, finished
from .cache import NodeResult
from .definitions import NodeDefinition, definition_from_class
from .events import CURRENT_NODE, Announcer
from .failures import NodeFailed
from .graph import Link
from .node_code import attempt, exception_name, format_frames
from .node_inputs import NodeInputs
from .run_state import RunMemory, RunResult
from .running_graph import RunningGraph
from .schedule import Schedule
from .signature import Signature
from .validate import Validation
from .values import (
    Answer,
    ExecutionBlocker,
    Expansion,
    call_over_lists,
    join_results,
    join_ui,
    read_answer,
)


class Run:
    """Runs a validated workflow once."""

    def __init__(
        self,
        checked: Validation,
        node_classes: Mapping[str, type],
        memory: RunMemory,
        announcer: Announcer,
        extra_pnginfo: Mapping[str, Any] | None,
    ) -> None:
        self._checked = checked
        self._classes = node_classes
        self._definitions = dict(checked.definitions)
        self._memory = memory
        self._announcer = announcer
        self._graph = RunningGraph(checked.workflow, self._define)
        self._results: dict[str, NodeResult] = {}
        self._inputs = NodeInputs(self._graph, self._results, extra_pnginfo)
        self._signatures: dict[str, Signature] = {}
        self._answers: dict[str, list[Answer]] = {}  # of nodes that expanded and wait
        self._async = AsyncNodes()
        self._schedule = Schedule(self._needed_sources, self._is_done, self._is_urgent)
        self._result = RunResult(announcer.prompt_id, node_errors=checked.node_errors)

    def execute(self) -> RunResult:
        """Run everything; raises what `Executor.run` documents."""
        self._announcer.tell("execution_start")
        try:
            self._sign(self._checked.outputs)
            self._reuse()
            self._schedule.add(self._checked.outputs)
            self._run_all()
        except Cancelled:
            self._announcer.tell("execution_interrupted", executed=self._result.executed)
            raise
        finally:
            self._async.close()
            self._remember()
        self._result.outputs.update(
            (key, self._results[key].outputs) for key in self._checked.outputs
        )
        self._announcer.tell("executing", node=None, display_node=None)
        self._announcer.tell("execution_success")
        return self._result

    def _define(self, class_type: str) -> NodeDefinition:
        if class_type not in self._definitions:
            if class_type not in self._classes:
                raise WorkflowError(f"it expanded to a node of unknown class {class_type!r}")
            node_class = self._classes[class_type]
            self._definitions[class_type] = definition_from_class(class_type, node_class)
        return self._definitions[class_type]

    # -- signatures and the cache

    def _sign(self, keys: Iterable[str]) -> None:
        """Compute the signatures of the nodes and of all that they need."""
        for key in self._graph.in_order(keys, self._signatures):
            definition = self._graph.definition(key)
            node_class = self._classes[definition.name]
            by_id = "UNIQUE_ID" in definition.hidden.values()
            self._signatures[key] = self._memory.signatures.sign(
                key,
                self._graph.node(key),
                definition,
                [self._signatures.get(link.node) for _, link in self._graph.links(key)],
                self._inputs.is_changed(key, definition, node_class),
                by_id=by_id or bool(getattr(node_class, "NOT_IDEMPOTENT", False)),
            )

    def _reuse(self) -> None:
        """Take over what the cache has; nothing before it needs to run."""
        found = [key for key, signature in self._signatures.items() if self._cached(signature)]
        self._announcer.tell("execution_cached", nodes=found)
        waiting, seen = list(self._checked.outputs), set(self._checked.outputs)
        while waiting:
            key = waiting.pop()
            if self._take_cached(key):
                continue
            new = [link.node for _, link in self._graph.links(key) if link.node not in seen]
            seen.update(new)
            waiting += dict.fromkeys(new)

    def _cached(self, signature: Signature) -> NodeResult | None:
        return self._memory.results.get(signature)

    def _take_cached(self, key: str) -> bool:
        result = self._cached(self._signatures[key])
        if result is None:
            return False
        self._results[key] = result
        self._result.cached.append(key)
        if result.ui:
            self._show(key, result.ui)
        return True

    def _remember(self) -> None:
        """Keep for the next run what this one used, and no more."""
        self._memory.results.end_run(set(self._signatures.values()))
        self._memory.signatures.forget_all_but(set(self._signatures))
        used = {(key, self._graph.node(key).class_type) for key in self._signatures}
        for name in self._memory.instances.keys() - used:
            del self._memory.instances[name]

    # -- order

    def _is_done(self, key: str) -> bool:
        return key in self._results

    def _is_urgent(self, key: str) -> bool:
        definition = self._graph.definition(key)
        node_class = self._classes[definition.name]
        name = str(getattr(node_class, "FUNCTION", ""))
        is_async = inspect.iscoroutinefunction(getattr(node_class, name, None))
        return is_async or definition.is_output

    def _needed_sources(self, key: str) -> list[str]:
        """Return what a node needs at once: the sources of all inputs that are not lazy."""
        inputs = self._graph.definition(key).inputs
        return [
            link.node
            for name, link in self._graph.links(key)
            if not inputs[name].options.get("lazy")
        ]

    def _run_all(self) -> None:
        while True:
            self._announcer.check_cancelled()
            key = self._schedule.next()
            if key is not None:
                self._async.give_time()
                self._guarded(key, lambda k=key: self._step(k))
            elif self._async.running():
                for done, future in self._async.wait():
                    self._guarded(done, lambda d=done, f=future: self._finish(d, finished(f)))
            elif self._schedule.waiting():
                stuck = self._schedule.waiting()
                names = ", ".join(stuck[:20])
                self._fail(stuck[0], WorkflowError(f"nodes wait for each other: {names}"))
            else:
                return

    # -- one node

    def _guarded(self, key: str, action: Callable[[], None]) -> None:
        """Do something for a node; what it raises names the node."""
        outcome = attempt(action)
        if outcome.error is not None:
            self._fail(key, outcome.error)

    def _fail(self, key: str, exc: Exception) -> NoReturn:
        node, real = self._graph.node(key), self._graph.get_real_node_id(key)
        reason = str(exc) if isinstance(exc, WorkflowError) else f"{type(exc).__name__}: {exc}"
        self._announcer.tell(
            "execution_error",
            node_id=real,
            node_type=self._graph.node(real).class_type,
            executed=self._result.executed,
            exception_message=str(exc),
            exception_type=exception_name(exc),
            traceback=format_frames(exc),
            current_inputs={name: _described(value) for name, value in node.inputs.items()},
            current_outputs=list(self._results),
        )
        title = node.title or self._graph.definition(key).title
        raise NodeFailed(key, node.class_type or "", title, " ".join(reason.split())) from exc

    def _step(self, key: str) -> None:
        if key in self._answers:
            self._store(key, self._answers.pop(key))
            return
        if self._take_cached(key):
            self._schedule.finish(key)
            return
        definition = self._graph.definition(key)
        inputs, missing = self._inputs.gather(key, definition)
        instance = self._instance(key, definition)
        if missing and self._waits_for_lazy(key, definition, instance, inputs, missing):
            return
        shown_as = self._graph.get_display_node_id(key)
        self._announcer.tell("executing", node=key, display_node=shown_as)
        function = getattr(instance, str(getattr(instance, "FUNCTION", "")), None)
        if not callable(function):
            raise WorkflowError("its FUNCTION names no method")
        token = CURRENT_NODE.set((self._announcer, key))
        try:
            returned = call_over_lists(
                function,
                inputs,
                input_is_list=definition.input_is_list,
                on_blocked=lambda blocker: self._blocked(key, blocker),
            )
            if any(inspect.isawaitable(each) for each in returned):
                self._async.start(key, [_awaited(each) for each in returned])
                return
        finally:
            CURRENT_NODE.reset(token)
        self._finish(key, returned)

    def _finish(self, key: str, returned: Sequence[Any]) -> None:
        """Take what the calls of a node gave back: results, or graphs to run first."""
        definition = self._graph.definition(key)
        answers = [read_answer(each, definition) for each in returned]
        expansions = [each.result for each in answers if isinstance(each.result, Expansion)]
        if not expansions:
            self._store(key, answers)
            return
        added = [new for each in expansions for new in self._graph.add(each.nodes, key)]
        links = [parse_value(value) for each in expansions for value in each.results]
        sources = [link for link in links if type(link) is Link]
        for link in sources:
            self._graph.check_link(link, "its result")
        needed = [link.node for link in sources]
        shown = [new for new in added if self._graph.definition(new).is_output]
        self._sign([*needed, *shown])
        self._answers[key] = answers
        self._schedule.add(shown)
        self._schedule.wait_again(key, needed)

    def _store(self, key: str, answers: Sequence[Answer]) -> None:
        """Join the answers of a node's calls into its result."""
        definition = self._graph.definition(key)
        rows = [self._row(each.result, definition) for each in answers if each.result is not None]
        result = NodeResult(join_results(rows, definition), join_ui([each.ui for each in answers]))
        self._results[key] = result
        self._memory.results.put(self._signatures[key], result)
        self._result.executed.append(key)
        if result.ui:
            self._show(key, result.ui)
        self._schedule.finish(key)

    def _row(self, given: Sequence[Any] | Expansion, definition: NodeDefinition) -> Sequence[Any]:
        """Return the results of one call; those of an expansion come from the added nodes."""
        if not isinstance(given, Expansion):
            return given
        row: list[Any] = []
        for slot, value in enumerate(given.results):
            link = parse_value(value)
            is_list = slot < len(definition.output_is_list) and definition.output_is_list[slot]
            if type(link) is not Link:
                row.append(value)
                continue
            values = self._results[link.node].outputs[link.slot]
            if not is_list and len(values) != 1:
                raise WorkflowError(
                    f"output {slot} of its expansion has {len(values)} values; "
                    "declare it in OUTPUT_IS_LIST"
                )
            row.append(values if is_list else values[0])
        return row

    def _show(self, key: str, ui: Mapping[str, Any]) -> None:
        self._result.ui[key] = ui
        shown_as = self._graph.get_display_node_id(key)
        self._announcer.tell("executed", node=key, display_node=shown_as, output=ui)

    def _blocked(self, key: str, blocker: Any) -> ExecutionBlocker:
        """Report a blocker's message once; what hangs on it is then blocked silently."""
        if blocker.message is not None:
            self._announcer.tell(
                "execution_error",
                node_id=key,
                node_type=self._graph.node(key).class_type,
                executed=self._result.executed,
                exception_message=f"Execution Blocked: {blocker.message}",
                exception_type="ExecutionBlocked",
                traceback=[],
                current_inputs={},
                current_outputs=[],
            )
        return ExecutionBlocker()

    def _instance(self, key: str, definition: NodeDefinition) -> Any:
        """Return the node's object: made once and kept between runs, as on the host."""
        name = (key, definition.name)
        if name not in self._memory.instances:
            self._memory.instances[name] = self._classes[definition.name]()
        return self._memory.instances[name]

    def _waits_for_lazy(
        self,
        key: str,
        definition: NodeDefinition,
        instance: Any,
        inputs: Mapping[str, Sequence[Any]],
        missing: Sequence[str],
    ) -> bool:
        """Ask the node which lazy inputs it needs; let it wait for them."""
        function = getattr(instance, "check_lazy_status", None)
        if function is None:
            return False
        said = call_over_lists(
            function,
            inputs,
            input_is_list=definition.input_is_list,
            on_blocked=lambda blocker: None,
        )
        wanted = set(itertools.chain.from_iterable(each for each in said if each))
        names = [name for name in missing if name in wanted]
        if names:
            sources = [link.node for _, link in self._graph.links(key, names)]
            self._schedule.wait_again(key, sources)
        return bool(names)


async def _awaited(value: Awaitable[Any] | Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _described(value: Any) -> Any:
    plain = isinstance(value, (str, int, float, bool, type(None)))
    return value if plain else f"<{type(value).__name__}>"
