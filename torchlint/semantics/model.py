"""`Semantics`: everything that rules may ask about one file, computed on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar, cast

import libcst as cst

from torchlint.semantics.effects import Effect, Event
from torchlint.semantics.evaluate import Evaluator
from torchlint.semantics.frames import Summary
from torchlint.semantics.kinds import UNKNOWN, Value
from torchlint.semantics.names import OWN, Class, Function, Names
from torchlint.semantics.reaching import Reaching
from torchlint.source import File

T = TypeVar("T")


class Semantics:
    """The meaning of one file.

    `grad_disabling` and `loader_names` are the user's own decorators / context managers and loader classes, qualified.
    """

    def __init__(self, file: File, grad_disabling: Sequence[str] = (), loader_names: Sequence[str] = ()) -> None:
        self.file = file
        self._grad_disabling = tuple(grad_disabling)
        self._loader_names = tuple(loader_names)
        self._objects: dict[type, list[object]] = {}
        self._once: dict[object, object] = {}

    @cached_property
    def whole(self) -> Semantics:
        """That of the file with nothing blanked: this one, where its tree was not thinned."""
        file = self.file.whole()
        return self if file is self.file else Semantics(file, self._grad_disabling, self._loader_names)

    @cached_property
    def names(self) -> Names:
        return Names(self.file.tree)

    @cached_property
    def evaluator(self) -> Evaluator:
        evaluator = Evaluator(self.names, self._grad_disabling, self._loader_names)
        evaluator.run()
        return evaluator

    def forget(self) -> None:
        """Let go of all that was worked out, which refers to itself in circles: it is freed at once, without a search.

        Nothing may be asked afterwards.
        """
        made = self.__dict__
        whole, names, evaluator = made.get("whole"), made.get("names"), made.get("evaluator")
        self.file.forget()
        made.clear()
        if whole is not None and whole is not self:
            whole.forget()
        if evaluator is not None:
            evaluator.__dict__.clear()
        if names is not None:
            for cls in names.classes.values():
                cls.methods.clear()

    # -- questions ----------------------------------------------------------------------------------------------------

    def value(self, node: cst.CSTNode) -> Value:
        """What is known about an expression; UNKNOWN where nothing is."""
        return self.evaluator.values.get(node, UNKNOWN)

    def function(self, node: cst.CSTNode) -> Function:
        """The function in whose body the node stands; the module's pseudo-function at the top level."""
        for ancestor in self.file.ancestors(node):
            if isinstance(ancestor, cst.FunctionDef):
                found = self.names.function_of.get(ancestor)
                if found is not None:
                    return found
        return self.names.module

    def qualified(self, node: cst.CSTNode) -> str | None:
        """The import-resolved name of a name or attribute chain: `torch.nn.functional.relu`; `~.Net` for own
        definitions.

        None for anything that is a value rather than an imported or defined name.
        """
        root = node
        while isinstance(root, cst.Attribute):
            root = root.value
        if not isinstance(root, cst.Name):
            return None
        names = self.names
        if root.value not in names.roots_of_names and not names.stars:
            return None  # told without looking for the function around it
        return names.qualify(node, self.function(node))

    @property
    def functions(self) -> Iterable[Function]:
        """All functions of the file, the module's top level first."""
        return [self.names.module, *self.names.functions.values()]

    @property
    def classes(self) -> Iterable[Class]:
        return self.names.classes.values()

    def summary(self, function: Function) -> Summary:
        """What calling the function does, in order, and what it returns."""
        return self.evaluator.summary(function)

    def events(self, function: Function, *effects: Effect) -> list[Event]:
        """The function's events in order, those of own callees included; only the given effects, if any are."""
        events = self.evaluator.summary(function).events
        return [e for e in events if e.effect in effects] if effects else events

    def call_sites(self, function: Function) -> list[Event]:
        """Where this file calls the function. `grad`, `loops`, `guards` are those of the call."""
        return self.evaluator.call_sites.get(function, [])

    def reaching(self, function: Function) -> Reaching:
        """Which assignments reach the places at which the function reads names."""
        known = self.file.kept.get(function.node)
        if known is None:
            known = self.file.kept[function.node] = Reaching(function)
        return known

    def callee(self, call: cst.Call) -> Function | None:
        """The function of this file that a call certainly reaches."""
        value = self.value(call.func)
        if value.origin.startswith(OWN):
            found = self.names.functions.get(value.origin.removeprefix(OWN))
            if found is not None:
                return found
        name = self.qualified(call.func)
        return self.names.functions.get(name.removeprefix(OWN)) if name and name.startswith(OWN) else None

    def class_of(self, origin: str) -> Class | None:
        """The class of this file that a value's `origin` names."""
        return self.names.classes.get(origin.removeprefix(OWN)) if origin.startswith(OWN) else None

    def once(self, work: Callable[[Semantics], T]) -> T:
        """What `work` makes of this file, worked out on the first call and kept as long as the file is."""
        if work not in self._once:
            self._once[work] = work(self)
        return cast("T", self._once[work])

    # -- recognised objects -------------------------------------------------------------------------------------------

    def objects(self, kind: type[T]) -> Iterator[T]:
        """Every recognised object of a semantic class (`TrainingLoop`, `EvalRegion`, `LoaderCall`), in source order."""
        from torchlint.semantics import loops

        if kind not in self._objects:
            self._objects[kind] = loops.recognise(self, kind)
        yield from cast("list[T]", self._objects[kind])
