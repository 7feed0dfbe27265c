"""Forms of code that some rules cannot do without, told from Python's own syntax tree before libcst is asked for one.

A rule names the forms in `Rule.shapes`: a function that matches a trigger but has none of them cannot hold a finding.
Each test here asks for less than the rule does and never for more, so it may only save work.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from torchlint.vectorise.pure import JOINS, PURE, WRITES

_FROM_TORCH = re.compile(r"\bfrom\s+torch[\w.]*\s+import\s*(\([^)]*\)|(?:[^\n\\]|\\.)*)", re.DOTALL)
_RENAMED = re.compile(r"\b(\w+)\s+as\s+(\w+)")
_LOSS = re.compile(r"Loss\b|_loss\b|cross_entropy|kl_div")
_MADE = re.compile(r"\b(?:zeros|ones|empty|full|rand|randn)\s*\(")
_SIZES = re.compile(r"\.shape|\.size\s*\(|\blen\s*\(|" + _MADE.pattern)
# Builtins that a row's work may call.
_ALLOWED = {"float", "int", "abs"}
_LEAVES_GRAPH = frozenset(
    ("item", "detach", "data", "tolist", "numpy", "shape", "size", "device", "dtype", "grad_fn", "requires_grad")
)
_FACTORY_NAMES = """
    zeros ones full eye empty arange range tril_indices triu_indices linspace logspace hann_window hamming_window
    blackman_window bartlett_window kaiser_window rand randn randint randperm normal tensor Tensor FloatTensor
    DoubleTensor HalfTensor LongTensor IntTensor ShortTensor ByteTensor BoolTensor
"""
_FACTORIES = frozenset(_FACTORY_NAMES.split())
_CAT = frozenset(("cat", "concat", "concatenate", "hstack", "vstack", "dstack", "row_stack"))
_CAT_NAMES = re.compile("|".join(sorted(_CAT)))

# Class → (fields with one node, fields with lists of nodes).
_fields: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {}
_LISTS = frozenset(
    """body orelse finalbody handlers decorator_list targets values elts keys args keywords generators ifs comparators
    items cases patterns kwd_patterns bases posonlyargs kwonlyargs defaults kw_defaults type_params""".split()
)
_PLAIN = frozenset(("ctx", "names", "op", "ops", "id", "attr", "name", "asname", "level", "module", "kind", "n", "s"))


def _fields_of(cls: type[ast.AST]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    single, several = [], []
    for name in cls._fields:
        if name in _PLAIN or (cls is ast.Constant) or name in ("type_comment", "conversion", "is_async", "simple"):
            continue
        if name in _LISTS and not (cls in (ast.Lambda, ast.IfExp) and name in ("body", "orelse", "args")):
            if not (cls in (ast.FunctionDef, ast.AsyncFunctionDef) and name == "args"):
                several.append(name)
                continue
        single.append(name)
    found = _fields[cls] = (tuple(single), tuple(several))
    return found


def below(node: ast.AST) -> list[ast.AST]:
    """The nodes right below a node, operators and contexts left out."""
    single, several = _fields.get(node.__class__) or _fields_of(node.__class__)
    result = []
    for name in several:
        result += getattr(node, name)
    for name in single:
        value = getattr(node, name)
        if isinstance(value, ast.AST):
            result.append(value)
    return result


def descend(roots: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes at and below these, in no order."""
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node is None:  # the missing key of `{**d}` and the missing default of a keyword
            continue
        yield node
        stack += below(node)


class Whole:
    """What the text of a file says to all of its stretches."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def _from_torch(self) -> list[str]:
        return _FROM_TORCH.findall(self.text) if "from torch" in self.text else []

    @cached_property
    def renamed(self) -> bool:
        """Whether names of torch may go by other names here, so that spelling says nothing."""
        return any(
            a != b and (a in PURE or a in JOINS or a in _FACTORIES)
            for names in self._from_torch
            for a, b in _RENAMED.findall(names)
        )

    @cached_property
    def functions(self) -> frozenset[str]:
        return frozenset(re.findall(r"\bdef\s+(\w+)", self.text))

    @cached_property
    def callable(self) -> frozenset[str]:
        """The names of functions that the file defines or takes from torch."""
        return self.functions.union(*(re.findall(r"\w+", names) for names in self._from_torch))

    @cached_property
    def has_loss(self) -> bool:
        return _LOSS.search(self.text) is not None

    @cached_property
    def trains(self) -> bool:
        return "backward" in self.text


class Code:
    """A stretch of code: a function, or what lies outside of all functions of a file."""

    def __init__(self, roots: list[ast.AST], text: str, whole: Whole) -> None:
        self.roots = roots
        self.text = text
        self.whole = whole

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(descend(self.roots))

    def has(self, shape: str) -> bool:
        return _TESTS[shape](self) or (shape in _SPELLED and self.whole.renamed)


# -- loops over rows ----------------------------------------------------------------------------------------------


def _row_loop(code: Code) -> bool:
    for node in code.nodes:
        kind = node.__class__
        if kind is ast.For:
            assert isinstance(node, ast.For)
            if _is_row_loop(node, code):
                return True
        elif kind is ast.Call:
            assert isinstance(node, ast.Call)
            if _last(node.func) in _JOINING and node.args and _is_row_comprehension(node.args[0], code):
                return True
        elif kind is ast.ListComp or kind is ast.GeneratorExp:
            assert isinstance(node, (ast.ListComp, ast.GeneratorExp))
            if _gives_number(node.elt) and _is_row_comprehension(node, code):
                return True
    return False


_JOINING = frozenset(("stack", "cat", "tensor", "vstack", "hstack", "sum"))


def _is_row_comprehension(node: ast.AST, code: Code) -> bool:
    if not isinstance(node, (ast.ListComp, ast.GeneratorExp)) or len(node.generators) != 1:
        return False
    inner = node.generators[0]
    if inner.ifs or inner.is_async:
        return False
    names = _walked(inner.target, inner.iter, code)
    if names is None or not _is_pure(node.elt, code) or not _mentions(node.elt, names):
        return False
    # A bare `x[i]` only takes the tensor apart.
    return any(isinstance(n, (ast.Call, ast.BinOp, ast.UnaryOp, ast.Compare)) for n in descend([node.elt]))


def _is_row_loop(loop: ast.For, code: Code) -> bool:
    names = _walked(loop.target, loop.iter, code)
    if names is None or loop.orelse:
        return False
    sinks, seen = False, False
    for statement in loop.body:
        simple = [statement]
        if isinstance(statement, ast.If):
            if not _is_pure(statement.test, code):
                return False
            seen = seen or _mentions(statement.test, names)
            simple = statement.body + statement.orelse
        for small in simple:
            value, sink = _step(small, names, code)
            if value is None:
                return False
            sinks = sinks or sink
            seen = seen or _mentions(value, names)
    return sinks and seen


def _step(node: ast.stmt, names: set[str], code: Code) -> tuple[ast.expr | None, bool]:
    """What a statement of a turn computes, and whether it keeps the result; None where the rule gives up."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Subscript) and _is_pure(node.value, code) and _mentions(target, names):
            return node.value, True
        if isinstance(target, ast.Name) and _is_pure(node.value, code):
            grows = isinstance(node.value, ast.BinOp) and isinstance(node.value.left, ast.Name)
            return node.value, grows and node.value.left.id == target.id  # type: ignore[attr-defined]
    elif isinstance(node, ast.AugAssign):
        if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)) and _is_pure(node.value, code):
            own = isinstance(node.target, ast.Subscript) and _mentions(node.target, names)
            return (node.value, True) if own or isinstance(node.target, ast.Name) else (None, False)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        call, method = node.value, node.value.func.attr
        if method == "append" and len(call.args) == 1 and isinstance(node.value.func.value, ast.Name):
            if _is_pure(call.args[0], code) and (
                _gives_number(call.args[0]) or _is_joined(node.value.func.value.id, code)
            ):
                return call.args[0], True
        elif method in WRITES:
            owner = node.value.func.value
            if isinstance(owner, ast.Subscript) or (isinstance(owner, ast.Name) and owner.id in names):
                return call, True
    return None, False


def _is_joined(name: str, code: Code) -> bool:
    """Whether a list is given to something that joins its items."""
    return any(
        isinstance(n, ast.Call)
        and _last(n.func) in JOINS
        and any(isinstance(a, ast.Name) and a.id == name for a in (*n.args, *(k.value for k in n.keywords)))
        for n in code.nodes
    )


def _walked(target: ast.expr, source: ast.expr, code: Code) -> set[str] | None:
    """The names that a loop header binds, None where it cannot be a walk along an axis of a tensor."""
    name = _last(source.func) if isinstance(source, ast.Call) else ""
    if name in ("tqdm", "track", "trange") and isinstance(source, ast.Call) and source.args:
        return _walked(target, source.args[0], code) or _walked_by(target)
    if name == "range" and isinstance(source, ast.Call) and isinstance(source.func, ast.Name):
        args = source.args
        if len(args) == 2 and isinstance(args[0], ast.Constant) and args[0].value == 0:
            args = args[1:]
        if len(args) != 1 or source.keywords or not isinstance(target, ast.Name):
            return None
        sizes = _MADE if isinstance(args[0], ast.Constant) else _SIZES
        return {target.id} if sizes.search(code.text) else None
    if isinstance(source, (ast.List, ast.Tuple, ast.Constant, ast.Dict, ast.Set, ast.JoinedStr)):
        return None
    parts = source.args if isinstance(source, ast.Call) and name in ("zip", "enumerate") else [source]
    if any(isinstance(p, ast.Call) and _last(p.func) in _NO_TENSORS for p in parts):
        return None
    return _walked_by(target)


_NO_TENSORS = frozenset(
    "items keys values parameters named_parameters modules named_modules children named_children sorted".split()
)


def _walked_by(target: ast.expr) -> set[str] | None:
    if isinstance(target, ast.Name):
        return {target.id}
    if isinstance(target, ast.Tuple):
        return {n.id for n in descend([target]) if isinstance(n, ast.Name)}
    return None


def _mentions(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(n, ast.Name) and n.id in names for n in descend([node]))


def _gives_number(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return bool(node.elts) and all(map(_gives_number, node.elts))
    if not isinstance(node, ast.Call):
        return False
    return _last(node.func) in ("item", "float", "int")


def _is_pure(node: ast.AST, code: Code) -> bool:
    """Whether an expression is of the kinds that are computed row by row."""
    if isinstance(node, (ast.Name, ast.Constant)):
        return True
    if isinstance(node, ast.Attribute):
        return _is_pure(node.value, code)
    if isinstance(node, ast.Subscript):
        return _is_pure(node.value, code)
    if isinstance(node, ast.BinOp):
        return _is_pure(node.left, code) and _is_pure(node.right, code)
    if isinstance(node, ast.UnaryOp):
        return not isinstance(node.op, ast.Not) and _is_pure(node.operand, code)
    if isinstance(node, ast.Compare):
        return _is_pure(node.left, code) and all(_is_pure(c, code) for c in node.comparators)
    if isinstance(node, (ast.Tuple, ast.List)):
        return all(_is_pure(e, code) for e in node.elts)
    if not isinstance(node, ast.Call):
        return False
    if any(k.arg is None for k in node.keywords):
        return False
    if not all(_is_pure(a, code) for a in (*node.args, *(k.value for k in node.keywords))):
        return False
    if isinstance(node.func, ast.Name):
        # Own functions and names imported from torch; a loss may be kept under any name.
        name = node.func.id
        return name in _ALLOWED or code.whole.has_loss or name in code.whole.callable
    if isinstance(node.func, ast.Attribute):
        return node.func.attr in PURE or code.whole.has_loss or node.func.attr in code.whole.functions
    return False


def _last(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _pairs(code: Code) -> bool:
    """A loop whose only statement is a loop that stores one item."""
    for node in code.nodes:
        if isinstance(node, ast.For) and len(node.body) == 1 and isinstance(node.body[0], ast.For):
            inner = node.body[0].body
            if len(inner) == 1 and isinstance(inner[0], ast.Assign) and isinstance(inner[0].targets[0], ast.Subscript):
                return True
    return False


def _scatter(code: Code) -> bool:
    """A counted loop whose only statement stores into `out[i, …]`."""
    for node in code.nodes:
        if isinstance(node, ast.For) and len(node.body) == 1 and isinstance(node.body[0], ast.Assign):
            target = node.body[0].targets[0]
            if (
                isinstance(target, ast.Subscript)
                and isinstance(target.slice, ast.Tuple)
                and len(target.slice.elts) == 2
            ):
                if isinstance(node.iter, ast.Call) and _last(node.iter.func) in ("range", "enumerate"):
                    return True
    return False


# -- growing tensors and totals -------------------------------------------------------------------------------------


def _cat_growth(code: Code) -> bool:
    """`x = torch.cat([x, …])` or with `x` at the other end, bare or as one side of a conditional expression."""
    for node in code.nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            sides = [node.value]
            while sides:
                value = sides.pop()
                if isinstance(value, ast.IfExp):
                    sides += [value.body, value.orelse]
                elif isinstance(value, ast.Call):
                    given = [*value.args[:1], *(k.value for k in value.keywords if k.arg == "tensors")]
                    for items in given:
                        if isinstance(items, (ast.List, ast.Tuple)) and len(items.elts) > 1:
                            name = _dotted(node.targets[0])
                            if name and name in (_dotted(items.elts[0]), _dotted(items.elts[-1])):
                                return True
    return False


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _growth(code: Code) -> bool:
    """A value with a possible autograd graph that is added to a total or appended to a list, turn by turn."""
    trained = code.whole.trains
    stack: list[tuple[ast.AST, bool]] = [(root, False) for root in code.roots]
    while stack:
        node, inside = stack.pop()
        if node is None:
            continue
        kind = node.__class__
        if kind in (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda):
            inside = False
        elif kind is ast.While or kind is ast.For or kind is ast.AsyncFor:
            # Without a backward only a loop over a loader keeps graphs that nothing uses.
            inside = trained or (kind is ast.For and _may_go_over_loader(node.iter))  # type: ignore[attr-defined]
        elif kind is ast.AugAssign or kind is ast.Assign or kind is ast.Call:
            grown = _grown(node)
            if grown is not None and (inside or (trained and grown == "self")):
                return True
        stack += [(n, inside) for n in below(node)]
    return False


def _may_go_over_loader(node: ast.expr) -> bool:
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("items", "keys", "values")
    ):
        return False
    return not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range") and not (
        isinstance(node, (ast.List, ast.Tuple, ast.Constant, ast.Dict, ast.Set))
    )


def _grown(node: ast.AST) -> str | None:
    """The first name of what grows by something that may carry a graph; None if it is no growth."""
    if isinstance(node, ast.AugAssign):
        return _root(node.target) if isinstance(node.op, ast.Add) and _carries(node.value) else None
    if isinstance(node, ast.Call):
        if (
            not isinstance(node.func, ast.Attribute)
            or node.func.attr != "append"
            or len(node.args) + len(node.keywords) != 1
        ):
            return None
        return _root(node.func.value) if _carries((*node.args, *(k.value for k in node.keywords))[0]) else None
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.value, ast.BinOp):
        root = _root(node.targets[0])
        if isinstance(node.value.op, ast.Add) and root in (_root(node.value.left), _root(node.value.right)):
            return root
    return None


def _root(node: ast.AST) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _carries(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _carries(node.left) or _carries(node.right)
    if isinstance(node, ast.UnaryOp):
        return _carries(node.operand)
    if isinstance(node, ast.Call):
        return _last(node.func) not in (
            _LEAVES_GRAPH if isinstance(node.func, ast.Attribute) else ("len", "float", "int")
        )
    if isinstance(node, ast.Attribute):
        return node.attr not in _LEAVES_GRAPH
    return isinstance(node, (ast.Name, ast.Subscript))


# -- made, then moved -----------------------------------------------------------------------------------------------


def _made_then_moved(code: Code) -> bool:
    """`.to(…)` or `.cuda(…)` of what a factory makes, or of a name that one was bound to."""
    moved: list[ast.expr] = []
    made: set[str] = set()
    for node in code.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "cuda"):
            moved.append(node.func.value)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _has_factory(node.value):
            made.add(node.targets[0].id)
    return any(source.id in made if isinstance(source, ast.Name) else _has_factory(source) for source in moved)


def _has_factory(node: ast.expr) -> bool:
    return any(
        isinstance(n, ast.Call) and _last(n.func) in _FACTORIES and not any(k.arg == "device" for k in n.keywords)
        for n in descend([node])
    )


_TESTS: dict[str, Callable[[Code], bool]] = {
    "row-loop": _row_loop,
    "pairs": _pairs,
    "scatter": _scatter,
    "cat-growth": _cat_growth,
    "growth": _growth,
    "made-then-moved": _made_then_moved,
}
_SPELLED = ("row-loop", "made-then-moved")  # those that look at the names of torch's functions
