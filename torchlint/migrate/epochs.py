"""`set_epoch` at the top of the loop over epochs: which loop that is, and how the loader is called there."""

from __future__ import annotations

import libcst as cst

from torchlint.diagnostic import Edit
from torchlint.migrate.script import Loop, Script
from torchlint.nodes import dotted, walk, walk_scope


class NotUnderstood(Exception):
    """The script has a shape that the rewrite does not know; the message says which."""


def counts_once(loop: Loop) -> bool:
    """`for epoch in range(1)`: one epoch needs no new order."""
    return isinstance(loop, cst.For) and isinstance(loop.iter, cst.Call) and [
        a.value.value for a in loop.iter.args if isinstance(a.value, cst.Integer)
    ] == ["1"]  # fmt: skip


def set_epoch(
    script: Script, loop: Loop, via: cst.CSTNode, loader: cst.BaseExpression, optional: bool = False
) -> list[Edit]:
    """The edits that announce each epoch to the loader's sampler. `via`: what in the loop's body trains.

    With `optional`, the sampler may be another one that knows no epochs.
    """
    file = script.file
    if not isinstance(loop, cst.For) or not isinstance(loop.target, (cst.Name, cst.Attribute, cst.Subscript)):
        raise NotUnderstood(f"the epoch loop at line {file.row(loop)} counts in an unknown way")
    if not isinstance(loop.body, cst.IndentedBlock):
        raise NotUnderstood("the epoch loop stands on one line")
    if script.loops_around(loop):
        raise NotUnderstood("training happens in more than two nested loops")
    edits: list[Edit] = []
    counter = file.code(loop.target)
    if counter == "_":
        if any(isinstance(n, cst.Name) and n.value == "epoch" for n in script.nodes):
            raise NotUnderstood("the epoch loop has no counter")
        counter = "epoch"
        edits.append(file.replace(loop.target, counter))
    name = called(script, loader, via)
    if isinstance(loop.iter, cst.Call) and (script.qualified(loop.iter.func) or "").startswith("numpy."):
        counter = f"int({counter})"  # the sampler's generator takes no numpy numbers
    lines = [f"{name}.sampler.set_epoch({counter})"]
    if optional:
        lines = [f'if hasattr({name}.sampler, "set_epoch"):', file.indent_unit + lines[0]]
    edits.append(file.insert_first(loop.body, lines))
    return edits


def called(script: Script, loader: cst.BaseExpression, via: cst.CSTNode) -> str:
    """How the loader of a batch loop is called at `via`, the loop itself or the call that leads to it."""
    here, there = script.scope(loader), script.scope(via)
    code = script.file.code(loader)
    if dotted(loader) is None:
        raise NotUnderstood(f"`{code}` has no name of its own")
    if here is there:
        if _made_within(script, loader, via):
            raise NotUnderstood("the loader is made anew in every epoch")
        return code
    if isinstance(here, cst.FunctionDef) and isinstance(loader, cst.Name) and isinstance(via, cst.Call):
        if any(p.name.value == loader.value for p in here.params.params):
            handed = script.passed(via, here, loader.value)
            if handed is not None and dotted(handed) is not None:
                return script.file.code(handed)
            raise NotUnderstood("the loader reaches the training function in an unknown way")
    if code.startswith("self.") and script.owner(loader) is script.owner(via) is not None:
        return code
    bound = script.assigned(loader)
    if bound and all(isinstance(script.scope(v), cst.Module) for v, _ in bound):
        return code
    raise NotUnderstood("the loader is made inside the training function")


def _made_within(script: Script, loader: cst.BaseExpression, via: cst.CSTNode) -> bool:
    loop = script.file.enclosing(via, (cst.For, cst.While))
    inside = {id(n) for n in walk(loop)} if loop is not None else set()
    return any(id(value) in inside for value, _ in script.assigned(loader))


def leaves_early(script: Script, loop: Loop) -> cst.CSTNode | None:
    """A `break` or `return` of the epoch loop itself, which processes could take at different times."""
    for node in walk_scope(loop.body):
        if isinstance(node, (cst.Break, cst.Return)) and script.file.enclosing(node, (cst.For, cst.While)) is loop:
            return node
    return None
