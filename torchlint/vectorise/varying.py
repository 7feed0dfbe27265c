"""How an expression differs from turn to turn of a loop: not at all, by position, by its values, or by its length.

What differs by position or by its values alone has one shape in every turn, and so a form for all turns at once. An
expression of which that cannot be told raises `Unclear`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import libcst as cst

from torchlint.nodes import dotted, find, literal
from torchlint.semantics.certain import TELLING, surely_tensor, told_by_method, walkable
from torchlint.semantics.kinds import Kind
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Function
from torchlint.semantics.origins import asked_as_tensor
from torchlint.semantics.rows import PROGRESS, bound_names, may_be_tensor, taken_apart
from torchlint.vectorise.pure import BATCHED, BUILTINS, LIGHT, PURE, REDUCES, SHAPING, SIZING, TAKES_BATCHES, UNEVEN
from torchlint.vectorise.stretches import are_steady, follow


class Unclear(Exception):
    """The turn does something whose form for all turns cannot be told; the argument says what."""


class How(enum.IntEnum):
    SAME = 0  # one value for all turns
    PLACE = 1  # an integer worked out from the counters
    VALUES = 2  # of one shape, with other values in each turn
    LENGTH = 3  # as many entries as a row's own mask says


@dataclass(frozen=True)
class Seen:
    """What a turn sees. `loops`: those whose turns change it. `fresh`: made in the turn, so that it may be changed in
    place. `whole`: integers, so that they say where. `sequence`: what a list that the turn fills gives when joined.
    `listed`: an item of what may be a list."""

    how: How = How.SAME
    loops: frozenset[int] = frozenset()
    fresh: bool = False
    whole: bool = False
    sequence: bool = False
    listed: bool = False


SAME = Seen()
_NEUTRAL = frozenset("shape device dtype ndim requires_grad is_cuda is_leaf layout".split())
_VIEWS = frozenset("T mT H data real imag".split())
_WHOLE = frozenset("argmax argmin argsort long int item randint searchsorted bucketize count numel size".split())
_TUPLES = frozenset("sort topk max min median mode kthvalue cummax cummin svd qr eigh symeig slogdet lu unbind".split())
# Functions of Python and NumPy that make a number of a number.
_MATH = ("math.",)
_DRAWS = frozenset(
    "normal bernoulli multinomial dropout dropout1d dropout2d dropout3d alpha_dropout rrelu gumbel_softmax".split()
)
# What makes a tensor of a size that is given, as a function of torch or a method.
_MADE = frozenset("zeros ones full empty eye arange linspace new_zeros new_ones new_full new_empty new".split())
_IDENTITY = frozenset(("torch.autograd.Variable", "torch.autograd.variable.Variable"))
_KEPT = (Kind.UNKNOWN, Kind.TENSOR, Kind.PARAMETER, Kind.BATCH)
_ARITHMETIC = (cst.Add, cst.Subtract, cst.Multiply, cst.FloorDivide, cst.Modulo)


def joined(*parts: Seen) -> Seen:
    """What is computed from these, entry by entry."""
    how = max((p.how for p in parts), default=How.SAME)
    loops = frozenset[int]().union(*(p.loops for p in parts))
    return Seen(how, loops, fresh=True)


class Expressions:
    """Reads the expressions of a turn. `names`: what the turn knows of names; `changing`: the names that some turn
    assigns, which say nothing before this one has."""

    def __init__(self, sem: Semantics) -> None:
        self.sem = sem
        self.names: dict[str, Seen] = {}
        self.changing: set[str] = set()
        self.running: set[str] = set()
        self.filled: set[str] = set()  # lists that the turns fill
        self.totals: set[str] = set()  # attributes that the turns add to
        self.places: dict[str, cst.BaseExpression] = {}  # name → what gives its integer
        self.striding: set[str] = set()  # counters that leave places out
        self.walked: list[tuple[cst.BaseExpression, frozenset[int]]] = []  # certain tensors, and the loops that pick
        self.read: list[cst.BaseExpression] = []  # names and attributes that all turns share, wherever they are read
        self.several: list[tuple[cst.BaseExpression, frozenset[int]]] = []  # what else is picked by several indices
        self.listed = False  # whether items are picked of what may be a list
        self.worked = False  # whether anything is computed from what differs

    # -- leaves -------------------------------------------------------------------------------------------------------

    def seen(self, node: cst.BaseExpression) -> Seen:
        """Raises Unclear."""
        if isinstance(node, cst.Name):
            return self._name(node)
        if isinstance(node, (cst.Integer, cst.Float, cst.SimpleString, cst.Ellipsis, cst.ConcatenatedString)):
            return SAME
        if isinstance(node, cst.Attribute):
            return self._attribute(node)
        if isinstance(node, cst.Subscript):
            return self._item(node)
        if isinstance(node, cst.BinaryOperation):
            return self._arithmetic(node)
        if isinstance(node, cst.UnaryOperation):
            return self.computed(self.seen(node.expression))
        if isinstance(node, cst.Comparison):
            return self._comparison(node)
        if isinstance(node, cst.BooleanOperation):
            return self.computed(self.seen(node.left), self.seen(node.right))
        if isinstance(node, cst.IfExp):
            return self.computed(*map(self.seen, (node.test, node.body, node.orelse)))
        if isinstance(node, (cst.Tuple, cst.List)) and all(isinstance(e, cst.Element) for e in node.elements):
            parts = [self.seen(e.value) for e in node.elements]
            if any(p.how is How.LENGTH for p in parts):
                raise Unclear("parts of their own length")
            return replace(joined(*parts), sequence=isinstance(node, cst.List) and not parts)
        if isinstance(node, (cst.ListComp, cst.GeneratorExp)):
            return self._comprehension(node)
        if isinstance(node, cst.Call):
            return self._call(node)
        raise Unclear(type(node).__name__)

    def computed(self, *parts: Seen) -> Seen:
        found = joined(*parts)
        self.worked = self.worked or found.how > How.PLACE
        return found

    def _name(self, node: cst.Name) -> Seen:
        known = self.names.get(node.value)
        if node.value in self.running or (known is None and node.value in self.changing | self.filled):
            raise Unclear(f"{node.value} as an earlier turn left it")
        if known is not None:
            return known
        self.read.append(node)
        return SAME

    def _attribute(self, node: cst.Attribute) -> Seen:
        base = self.seen(node.value)
        if base.how is How.SAME:
            if dotted(node) in self.totals:
                raise Unclear("a total of the turns before")
            self.read.append(node)
            return SAME
        if base.how is How.LENGTH or node.attr.value not in _NEUTRAL | _VIEWS:
            raise Unclear(f"attribute {node.attr.value}")
        return SAME if node.attr.value in _NEUTRAL else replace(base, fresh=False)

    def _arithmetic(self, node: cst.BinaryOperation) -> Seen:
        left, right = self.seen(node.left), self.seen(node.right)
        whole = isinstance(node.operator, _ARITHMETIC) and (left.whole or right.whole)
        if max(left.how, right.how) is How.PLACE and isinstance(node.operator, _ARITHMETIC):
            other = node.right if left.how is How.PLACE else node.left
            if not self.sem.value(other).is_tensor:
                return Seen(How.PLACE, left.loops | right.loops, whole=True)
        found = self.computed(left, right)
        # `len(x) - 1`, `labels.long() + 1`: what is whole stays so, if nothing says that the other side is none.
        return replace(found, whole=whole and found.how is not How.LENGTH)

    def _comparison(self, node: cst.Comparison) -> Seen:
        parts = [self.seen(node.left), *(self.seen(c.comparator) for c in node.comparisons)]
        if any(isinstance(c.operator, (cst.In, cst.NotIn, cst.Is, cst.IsNot)) for c in node.comparisons):
            if any(p.how is not How.SAME for p in parts):
                raise Unclear("a question about an object")
        if len(parts) == 2 and isinstance(node.comparisons[0].operator, cst.Equal):
            sides = (node.left, node.comparisons[0].comparator)
            for side, seen, other in zip(sides, parts, parts[::-1]):
                if seen.how is How.SAME and other.how is How.PLACE and self._is_compared(node, side):
                    self.walked.append((side, other.loops))
                    self.worked = True
                    return Seen(How.VALUES, other.loops, fresh=True)
        return self.computed(*parts)

    def _is_compared(self, node: cst.Comparison, side: cst.BaseExpression) -> bool:
        """Whether all of a tensor is compared with the counter, with one class per turn: it is one for certain, or what
        comes of the comparison is treated as one."""
        if surely_tensor(side, self.sem):
            return True
        parent = self.sem.file.parent(node)
        if isinstance(parent, cst.Attribute):
            return parent.attr.value in TELLING
        name = parent.targets[0].target if isinstance(parent, cst.Assign) else None
        if not isinstance(name, cst.Name) or not may_be_tensor(side, self.sem):
            return False
        return asked_as_tensor(self.sem.evaluator, self.sem.function(node), name.value)

    # -- items --------------------------------------------------------------------------------------------------------

    def _item(self, node: cst.Subscript) -> Seen:
        base = self.seen(node.value)
        if base.sequence:
            raise Unclear("an item of a list that the turn fills")
        parts = [e.slice for e in node.slice]
        indices = [self.index(part, base, len(parts)) for part in parts]
        found = joined(base, *indices)
        listed = base.how is How.SAME and bool(found.loops) and not self._picked(node, found.loops)
        self.listed = self.listed or (listed and self.sem.value(node).kind is not Kind.NUMBER)
        if base.how is How.LENGTH:
            if self.is_pair(node.value) and len(parts) == 1:
                return replace(base, fresh=True)  # `torch.sort(x)[0]`
            if found.loops == base.loops and all(isinstance(p, cst.Index) for p in parts) and len(parts) == 1:
                return replace(found, how=How.VALUES, fresh=False)  # the first of them, or the last
            raise Unclear("a part of what has its own length")
        how = max(base.how, *(How.VALUES if i.how is How.PLACE else i.how for i in indices))
        whole = self.is_pair(node.value) and literal(getattr(parts[0], "value", None)) == 1
        return Seen(how, found.loops, whole=base.whole or whole, listed=listed)

    def index(self, part: cst.BaseSlice, base: Seen, count: int) -> Seen:
        if isinstance(part, cst.Slice):
            bounds = [self.seen(b) for b in (part.lower, part.upper, part.step) if b is not None]
            found = joined(*bounds)
            if found.how is How.SAME:
                return SAME
            if self._is_chunk(part):
                raise Unclear("a chunk per turn")
            if part.step is not None or not are_steady(part, self.places, self._counts):
                raise Unclear("stretches of their own length")
            return Seen(How.PLACE, found.loops)
        if not isinstance(part, cst.Index) or part.star:
            raise Unclear("an index")
        found = self.seen(part.value)
        if found.how in (How.SAME, How.PLACE):
            return found
        self.worked = True  # entries are looked up
        if found.how is How.LENGTH:
            raise Unclear("an index of its own length")
        if found.whole or self.sem.value(part.value).kind is Kind.NUMBER:
            return found
        if base.listed or (base.how is How.SAME and count == 1):
            raise Unclear("as many entries of one tensor as a turn chooses")
        return replace(found, how=How.LENGTH)  # a mask, for all that is known

    def _picked(self, node: cst.Subscript, loops: frozenset[int]) -> bool:
        """Notes which tensor the loops pick entries of, if it is one: a list's items need not be of one size."""
        value = self.sem.value(node.value)
        several = len(node.slice) > 1
        if value.kind not in _KEPT:
            if (apart := taken_apart(node.value, self.sem)) is None or several:
                raise Unclear(f"items of a {value.kind.value}")
            self.walked.append((apart[0], loops))
            return True
        if walkable(node.value, self.sem) or (several and told_by_method(node, self.sem)):
            self.walked.append((node.value, loops))
            return True
        if several and not isinstance(node.value, cst.Subscript):
            self.several.append((node.value, loops))
        return several

    def is_pair(self, node: cst.BaseExpression) -> bool:
        """Whether an expression is the pair that `torch.sort(x)` or `x.max(1)` gives."""
        if not isinstance(node, cst.Call) or not isinstance(node.func, (cst.Attribute, cst.Name)):
            return False
        last = (self.sem.qualified(node.func) or dotted(node.func) or "").rpartition(".")[2]
        last = node.func.attr.value if isinstance(node.func, cst.Attribute) else last
        if last in ("max", "min", "median"):
            of_torch = (self.sem.qualified(node.func) or "").startswith("torch.")
            return len(node.args) > (1 if of_torch else 0)
        return last in _TUPLES

    def _is_chunk(self, part: cst.Slice) -> bool:
        """`i : i + n` in `for i in range(0, len(x), n)`: as much as there is room for, or as is exact."""
        names = {n.value for n in find(part, cst.Name)}
        names |= {n.value for name in names & self.places.keys() for n in find(self.places[name], cst.Name)}
        return not names.isdisjoint(self.striding)

    def is_place(self, part: cst.BaseSlice) -> bool:
        """Whether every turn has a place of its own: `i`, and of stretches those that follow one another."""
        return not isinstance(part, cst.Slice) or follow(part, self.places, self._counts)

    def _counts(self, node: cst.BaseExpression) -> bool | None:
        """Whether a name counts turns (True) or is a number that all turns share (False)."""
        seen = self.seen(node)
        if seen.how is How.PLACE and isinstance(node, cst.Name):
            return True
        return False if seen.how is How.SAME else None

    # -- calls --------------------------------------------------------------------------------------------------------

    def _comprehension(self, node: cst.ListComp | cst.GeneratorExp) -> Seen:
        inner = node.for_in
        if inner.ifs or inner.inner_for_in is not None or inner.asynchronous is not None:
            raise Unclear("a comprehension that chooses")
        kept = {name: self.names.get(name) for name in bound_names(inner.target)}
        self.header(inner.target, inner.iter, None)
        found = self.seen(node.elt)
        for name, seen in kept.items():
            self.names.pop(name, None)
            if seen is not None:
                self.names[name] = seen
        if found.how is How.LENGTH:
            raise Unclear("parts of their own length")
        return Seen(How.VALUES if found.loops else found.how, found.loops, fresh=True)

    def header(self, target: cst.BaseExpression, source: cst.BaseExpression, loop: int | None) -> None:
        """Binds the names of a loop's header. `loop`: its number; None inside one turn, where all that it goes over
        makes one value."""
        own = frozenset() if loop is None else frozenset((loop,))
        qualified = self.sem.qualified(source.func) or "" if isinstance(source, cst.Call) else ""
        if (
            isinstance(source, cst.Call)
            and source.args
            and (qualified in PROGRESS or dotted(source.func) == "reversed")
        ):
            self.header(target, source.args[0].value, loop)
            return
        call = source if isinstance(source, cst.Call) and isinstance(source.func, cst.Name) else None
        name = call.func.value if call is not None and isinstance(call.func, cst.Name) else ""
        if call is not None and any(a.star or a.keyword is not None for a in call.args):
            raise Unclear("a header with keywords")
        if qualified == "torch.arange" and isinstance(source, cst.Call):
            call, name = source, "range"
        if call is not None and name == "range":
            bounds = [self.seen(a.value) for a in call.args]
            if any(b.how > How.PLACE for b in bounds) or not isinstance(target, cst.Name):
                raise Unclear("as many turns as the data says")
            self.bind(target.value, Seen(How.PLACE, own.union(*(b.loops for b in bounds)), whole=True))
            if len(call.args) == 3 and literal(call.args[2].value) not in (1, -1):
                self.striding.add(target.value)
            return
        parts = [e.value for e in target.elements] if isinstance(target, cst.Tuple) else []
        if call is not None and name == "enumerate" and len(parts) == 2 and len(call.args) == 1:
            if not isinstance(parts[0], cst.Name):
                raise Unclear("a header")
            self.bind(parts[0].value, Seen(How.PLACE, own, whole=True))
            self.header(parts[1], call.args[0].value, loop)
            return
        if call is not None and name == "zip" and len(parts) == len(call.args):
            for part, arg in zip(parts, call.args):
                self.header(part, arg.value, loop)
            return
        if not isinstance(target, cst.Name):
            raise Unclear("items that are taken apart")
        if isinstance(source, (cst.Tuple, cst.List)):
            self.bind(target.value, replace(self.seen(source), sequence=False))
            return
        self.bind(target.value, self._row_of(source, own))

    def _row_of(self, source: cst.BaseExpression, own: frozenset[int]) -> Seen:
        """What each turn gets of what is walked over."""
        if (apart := taken_apart(source, self.sem)) is not None:
            source = apart[0]
        base = self.seen(source)
        value = self.sem.value(source)
        if base.how is How.LENGTH or base.sequence or base.how is How.PLACE or value.kind not in _KEPT:
            raise Unclear("a walk over no tensor")
        if base.how is How.SAME:
            if not walkable(source, self.sem):
                raise Unclear("a walk over what may be a list")
            self.walked.append((source, own))
        return Seen(How.VALUES, base.loops | own)

    def bind(self, name: str, seen: Seen) -> None:
        self.names[name] = seen
        self.places.pop(name, None)

    def _call(self, node: cst.Call) -> Seen:
        if any(a.star for a in node.args):
            raise Unclear("starred arguments")
        name = self.sem.qualified(node.func)
        if isinstance(node.func, cst.Name) and node.func.value in ("isinstance", "hasattr", "callable"):
            return SAME
        args = [self.seen(a.value) for a in node.args]
        if isinstance(node.func, cst.Name) and node.func.value in BUILTINS and name in (None, node.func.value):
            return self._builtin(node.func.value, node, args)
        if name in _IDENTITY and args:
            return args[0]
        if name is not None and name.startswith("torch."):
            return self._operation(name.rpartition(".")[2], node, args, 1, name)
        if name is not None and name.startswith(_MATH):
            return self.computed(*args)
        callee = self.sem.callee(node)
        if callee is not None:
            return self.function(callee, node, args)
        made = self.sem.value(node.func)
        if made.kind is Kind.LOSS_FN or (name is None and TAKES_BATCHES.match(made.origin)):
            return self.computed(*args)
        if made.kind is Kind.MODULE:
            return self.module(node, args)
        if name is not None or not isinstance(node.func, cst.Attribute):
            raise Unclear(f"call of {name or dotted(node.func)}")
        return self._method(node, node.func, args)

    def _method(self, node: cst.Call, func: cst.Attribute, args: list[Seen]) -> Seen:
        owner, last = self.seen(func.value), func.attr.value
        if last in ("count", "index") and _is_listed(func.value):
            return replace(self.computed(owner, *args), how=How.VALUES, whole=True)
        if last in ("size", "dim", "numel", "nelement", "element_size") and owner.how is not How.LENGTH:
            return joined(*args)
        if last.endswith("_") and owner.fresh:
            last = last.removesuffix("_")  # it changes what the turn has made
        return self._operation(last, node, [owner, *args], 0, "")

    def _operation(self, last: str, node: cst.Call, args: list[Seen], given: int, name: str) -> Seen:
        """An operation of torch. `given`: how many arguments of the call are tensors for certain."""
        functional = name.startswith(("torch.nn.functional.", "torch.linalg.", "torch.fft.", "torch.special."))
        if last in _DRAWS or last.startswith("rand"):
            raise Unclear("random numbers")
        if last not in PURE | BATCHED and last not in LIGHT - UNEVEN and not (functional and last not in UNEVEN):
            if last == "masked_select" and args and args[0].how is How.VALUES:
                return Seen(How.LENGTH, joined(*args).loops, fresh=True)
            if last == "masked_select" and args and args[0].how is How.LENGTH:
                return replace(args[0], loops=joined(*args).loops)
            raise Unclear(f"call of {last}")
        if last in UNEVEN and not (last == "where" and len(node.args) + (1 - given) >= 3):
            raise Unclear(f"call of {last}")
        sizes = args[1:]
        if last in _MADE:
            sizes = args[1 - given : 2 - given] if last.endswith("full") else args[1 - given :]
        if last in SHAPING | SIZING | _MADE and any(a.how is not How.SAME for a in sizes):
            raise Unclear(f"{last} with other sizes in each turn")
        found = self.computed(*args)
        if last == "item" or (last in REDUCES and found.how is How.LENGTH):
            found = replace(found, how=min(found.how, How.VALUES))
        elif found.how is How.LENGTH and last in ("stack", "matmul", "mm", "dot", "view", "reshape", "cat"):
            if last not in ("cat", "dot") and not (last in ("view", "reshape") and _flattens(node)):
                raise Unclear(f"{last} of what has its own length")
            found = replace(found, how=How.VALUES) if last == "dot" else found
        return replace(found, whole=last in _WHOLE or (last in _PASS_ON and bool(args) and args[0].whole))

    def _builtin(self, name: str, node: cst.Call, args: list[Seen]) -> Seen:
        if name == "len" and args:
            if args[0].how is How.LENGTH:
                return Seen(How.VALUES, args[0].loops, whole=True)
            return SAME
        if name in ("range", "enumerate", "zip", "set", "dict"):
            raise Unclear(f"a {name} as a value")
        if name in ("list", "tuple"):
            return replace(args[0], fresh=True) if args else Seen(fresh=True, sequence=True)
        if name in ("sum", "max", "min") and len(args) == 1:
            return replace(self.computed(*args), how=min(args[0].how, How.VALUES))
        found = self.computed(*args)
        if found.how is How.LENGTH:
            raise Unclear(f"{name} of what has its own length")
        return replace(found, whole=name in ("int", "round", "bool"))

    # -- what only a turn knows ---------------------------------------------------------------------------------------

    def function(self, callee: Function, node: cst.Call, args: list[Seen]) -> Seen:
        """A call of a function of this file."""
        raise Unclear("an own function")

    def module(self, node: cst.Call, args: list[Seen]) -> Seen:
        """A call of a module."""
        raise Unclear("a module")


_PASS_ON = frozenset("view reshape squeeze unsqueeze cpu cuda to detach clone flatten contiguous".split())


def _flattens(node: cst.Call) -> bool:
    return len(node.args) == 1 and literal(node.args[0].value) == -1


def _is_listed(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "tolist"


def base_of(node: cst.BaseExpression) -> cst.BaseExpression:
    """`x` of `x[i][j]`."""
    while isinstance(node, cst.Subscript):
        node = node.value
    return node
