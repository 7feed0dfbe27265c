"""Reaching definitions: which assignments a name may have its value from at a place, in one function.

The evaluator knows what kind a value has; this says which expressions it may come from. A branch adds to what reaches
behind it, a plain assignment replaces it, `layers.append(x)` and `net.add_module("n", x)` are definitions of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import libcst as cst

from torchlint.nodes import children, dotted, literal
from torchlint.semantics.names import Function

Path = tuple["int | str", ...]
_LOOPS_TWICE = 3  # loops this deep are gone through once only: what they teach is rarely asked for
_GROWING = ("append", "add_module", "register_module")
# Expressions that read a place, or bind one; the others only hold some of these.
_READING = frozenset(
    (
        cst.Name,
        cst.Attribute,
        cst.Subscript,
        cst.Lambda,
        cst.Arg,
        cst.NamedExpr,
        cst.ListComp,
        cst.SetComp,
        cst.GeneratorExp,
        cst.DictComp,
    )
)


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """One assignment. `value`: the item of `node` at `path`; `grown`: `node` was appended to what `before` says;
    `loop`: an item of the iterable `node`; `parameter`: the function's, `changed`: `+=` or a store into the thing;
    `unknown`: a `with`, an import, a definition."""

    kind: Literal["value", "grown", "loop", "parameter", "changed", "unknown"]
    node: cst.BaseExpression | None = field(default=None, repr=False)
    path: Path = ()
    name: str = ""
    before: tuple[Definition, ...] = field(default=(), repr=False)
    statement: cst.CSTNode | None = field(default=None, repr=False)


Env = dict[str, tuple[Definition, ...]]


def key_of(node: cst.CSTNode) -> str | None:
    """The text under which a place is kept: `x`, `self.x`, `out['logits']`, `outs[0]`; None for anything else."""
    if isinstance(node, cst.Subscript) and len(node.slice) == 1 and isinstance(node.slice[0].slice, cst.Index):
        base, item = key_of(node.value), literal(node.slice[0].slice.value)
        return f"{base}[{item!r}]" if base is not None and isinstance(item, (int, str)) else None
    return dotted(node)


class Reaching:
    """The definitions of one function. `uses`: place that is read → definitions that reach it; `final`: those that
    reach the function's end; `every`: all of a name, in source order; `returned`: what the function returns; `items`:
    name that is read → what reaches its items that were stored by key (`out["logits"] = x`)."""

    def __init__(self, function: Function) -> None:
        self.uses: dict[cst.CSTNode, tuple[Definition, ...]] = {}
        self.every: Env = {}
        self.items: dict[cst.CSTNode, Env] = {}
        self.returned: list[cst.BaseExpression | None] = []
        self._jumps: list[list[Env]] = []
        self._exits: list[Env] = []
        self._made: dict[tuple[cst.CSTNode, str], Definition] = {}
        self._stored: set[str] = set()  # names of which an item was stored by key
        self._owners: set[str] = set()  # places of which an attribute or an item is kept, too
        env: Env = {name: (Definition("parameter", name=name),) for name in function.params}
        body = function.node if isinstance(function.node, cst.Module) else function.node.body
        end = self._block(body.body, env)
        self.final = _merged([*self._exits, end])

    # -- statements -------------------------------------------------------------------------------------------------

    def _block(self, body: Sequence[cst.CSTNode], env: Env | None) -> Env | None:
        """What reaches the end of the statements, None if they all leave."""
        for statement in body:
            if env is None:
                return None
            if isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    env = self._small(small, env) if env is not None else None
            elif isinstance(statement, cst.BaseSmallStatement):
                env = self._small(statement, env)
            else:
                env = self._compound(statement, env)
        return env

    def _compound(self, node: cst.CSTNode, env: Env) -> Env | None:
        if isinstance(node, cst.If):
            self._read(node.test, env)
            taken = self._block(node.body.body, dict(env))
            other: Env | None = dict(env)
            if isinstance(node.orelse, cst.If):
                other = self._compound(node.orelse, dict(env))
            elif node.orelse is not None:
                other = self._block(node.orelse.body.body, dict(env))
            return _joined(taken, other)
        if isinstance(node, (cst.For, cst.While)):
            return self._loop(node, env)
        if isinstance(node, cst.With):
            for item in node.items:
                self._read(item.item, env)
                if item.asname is not None:
                    self._bind(item.asname.name, "unknown", None, (), env, node)
            return self._block(node.body.body, env)
        if isinstance(node, (cst.Try, cst.TryStar)):
            ends = [self._block(node.body.body, dict(env))]
            ends += [self._block(h.body.body, _joined(dict(env), ends[0])) for h in node.handlers]
            if node.orelse is not None:
                ends[0] = self._block(node.orelse.body.body, ends[0])
            after = _joined(*ends)
            return self._block(node.finalbody.body.body, after) if node.finalbody is not None else after
        if isinstance(node, cst.Match):
            self._read(node.subject, env)
            return _joined(dict(env), *(self._block(c.body.body, dict(env)) for c in node.cases))
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            self._define(node.name.value, Definition("unknown", statement=node), env)
        return env

    def _loop(self, node: cst.For | cst.While, env: Env) -> Env:
        if isinstance(node, cst.For):
            self._read(node.iter, env)
        else:
            self._read(node.test, env)
        before = dict(env)
        turns = 2 if len(self._jumps) < _LOOPS_TWICE else 1
        for _ in range(turns):
            inside = dict(env)
            if isinstance(node, cst.For):
                self._bind(node.target, "loop", node.iter, (), inside, node)
            self._jumps.append([])
            end = self._block(node.body.body, inside)
            env = _merged([before, end, *self._jumps.pop()])
        if node.orelse is not None:
            env = self._block(node.orelse.body.body, env) or env
        return env

    def _small(self, node: cst.CSTNode, env: Env) -> Env | None:
        if isinstance(node, cst.Assign):
            self._read(node.value, env)
            for target in node.targets:
                self._bind(target.target, "value", node.value, (), env, node)
        elif isinstance(node, cst.AnnAssign):
            if node.value is not None:
                self._read(node.value, env)
                self._bind(node.target, "value", node.value, (), env, node)
        elif isinstance(node, cst.AugAssign):
            self._read(node.value, env)
            self._read(node.target, env)
            if (key := key_of(node.target)) is not None:
                self._define(key, self._definition("changed", node.value, (), key, env.get(key, ()), node), env)
        elif isinstance(node, cst.Expr):
            self._read(node.value, env)
            self._call_statement(node, env)
        elif isinstance(node, cst.Return):
            if node.value is not None:
                self._read(node.value, env)
            if not any(r is node.value for r in self.returned) or node.value is None:
                self.returned.append(node.value)
            self._exits.append(env)
            return None
        elif isinstance(node, cst.Raise):
            return None
        elif isinstance(node, (cst.Break, cst.Continue)):
            if self._jumps:
                self._jumps[-1].append(env)
            return None
        elif isinstance(node, cst.Assert):
            self._read(node.test, env)
        return env

    def _call_statement(self, node: cst.Expr, env: Env) -> None:
        """`layers.append(x)` grows the list; `x.sigmoid_()` makes x what the call gives."""
        call = node.value
        if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
            return
        key, attr = key_of(call.func.value), call.func.attr.value
        if key is None:
            return
        if attr in _GROWING and call.args and not call.args[-1].star:
            added = call.args[-1].value
            self._define(key, self._definition("grown", added, (), key, env.get(key, ()), node), env)
        elif attr in ("extend", "insert", "update", "pop", "clear", "remove"):
            self._define(key, self._definition("changed", call, (), key, env.get(key, ()), node), env)
        elif attr.endswith("_") and not attr.startswith("_"):
            self._define(key, self._definition("value", call, (), key, (), node), env)

    def _bind(
        self,
        target: cst.CSTNode,
        kind: Literal["value", "loop", "unknown"],
        node: cst.BaseExpression | None,
        path: Path,
        env: Env,
        statement: cst.CSTNode,
    ) -> None:
        if isinstance(target, (cst.Tuple, cst.List)):
            starred = False
            for i, element in enumerate(target.elements):
                starred = starred or isinstance(element, cst.StarredElement)
                self._bind(element.value, "unknown" if starred else kind, node, (*path, i), env, statement)
            return
        key = key_of(target)
        if key is not None:
            self._define(key, self._definition(kind, node, path, key, (), statement), env)
            if isinstance(target, cst.Subscript):
                self._stored.add(key.partition("[")[0])
        elif isinstance(target, cst.Subscript):  # a store into the thing: it is no longer only what it was made as
            self._read(target, env)
            if (key := key_of(target.value)) is not None:
                self._define(key, self._definition("changed", node, path, key, env.get(key, ()), statement), env)

    def _definition(
        self,
        kind: Literal["value", "grown", "loop", "parameter", "changed", "unknown"],
        node: cst.BaseExpression | None,
        path: Path,
        key: str,
        before: tuple[Definition, ...],
        statement: cst.CSTNode,
    ) -> Definition:
        """One definition per assigning place, however often a loop's body is gone through."""
        made = self._made.get((statement, key))
        if made is None or made.before != before:
            kept = tuple(d for d in before if d.statement is not statement)
            made = self._made[statement, key] = Definition(kind, node, path, key, kept, statement)
        return made

    def _define(self, key: str, definition: Definition, env: Env) -> None:
        if key in self._owners:
            for known in [k for k in env if k.startswith((key + ".", key + "["))]:
                del env[known]
        elif key[-1] == "]" or "." in key:
            self._owners.update(key[:i] for i, character in enumerate(key) if character in ".[")
        env[key] = (definition,)
        others = tuple(d for d in self.every.get(key, ()) if d.statement is not definition.statement)
        self.every[key] = (*others, definition)

    # -- expressions ------------------------------------------------------------------------------------------------

    def _read(self, node: cst.CSTNode, env: Env) -> None:
        """Note for every place that the expression reads what reaches it."""
        if node.__class__ not in _READING:
            for child in children(node):
                self._read(child, env)
            return
        if isinstance(node, cst.Name):
            if node.value in env:
                self.uses[node] = env[node.value]
                if node.value in self._stored:
                    self.items[node] = {k: v for k, v in env.items() if k.startswith(node.value + "[")}
            return
        if isinstance(node, (cst.Attribute, cst.Subscript)):
            key = key_of(node)
            if key is not None and key in env:
                self.uses[node] = env[key]
            self._read(node.value, env)
            if isinstance(node, cst.Subscript):
                for element in node.slice:
                    self._read(element.slice, env)
            return
        if isinstance(node, cst.Lambda):
            hidden = {p.name.value for p in node.params.params}
            self._read(node.body, {k: v for k, v in env.items() if k not in hidden})
            return
        if isinstance(node, cst.Arg):
            self._read(node.value, env)
        elif isinstance(node, cst.NamedExpr):
            self._read(node.value, env)
            self._bind(node.target, "value", node.value, (), env, node)
        elif isinstance(node, (cst.ListComp, cst.SetComp, cst.GeneratorExp, cst.DictComp)):
            self._comprehension(node, dict(env))

    def _comprehension(self, node: cst.ListComp | cst.SetComp | cst.GeneratorExp | cst.DictComp, env: Env) -> None:
        clause: cst.CompFor | None = node.for_in
        while clause is not None:
            self._read(clause.iter, env)
            self._bind(clause.target, "loop", clause.iter, (), env, clause)
            for condition in clause.ifs:
                self._read(condition.test, env)
            clause = clause.inner_for_in
        for part in (node.key, node.value) if isinstance(node, cst.DictComp) else (node.elt,):
            self._read(part, env)


def _joined(*envs: Env | None) -> Env | None:
    """What reaches a place to which several ways lead; None if none of them does."""
    reaching = [e for e in envs if e is not None]
    return _merged(reaching) if reaching else None


def _merged(envs: Iterable[Env | None]) -> Env:
    result: Env = {}
    for env in envs:
        for key, definitions in (env or {}).items():
            known = result.get(key)
            if known is None:
                result[key] = definitions
            elif known is not definitions:  # on most ways nothing was bound anew
                result[key] = known + tuple(d for d in definitions if not any(d is k for k in known))
    return result
