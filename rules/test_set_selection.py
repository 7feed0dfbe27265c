"""The checkpoint that is kept is chosen by the test set.

## What it does

Finds a training script that evaluates on data made with `train=False` or `split="test"` and keeps a checkpoint where
that result is the best so far.

## Why is this bad

The reported test result is then the maximum over all epochs of a noisy number, and too good: part of the test set has
become training data for the choice of the epoch. With another split for the choice the number falls, often by more than
the differences that papers report.

## Example

```python
test_loader = DataLoader(CIFAR10("data", train=False, transform=transform), batch_size=256)
for epoch in range(epochs):
    train(model, train_loader)
    accuracy = test(model, test_loader)
    if accuracy > best:
        best = accuracy
        torch.save(model.state_dict(), "best.pt")
```

Use instead:

```python
train_set, held_out = random_split(CIFAR10("data", train=True, transform=transform), [45000, 5000])
held_out_loader = DataLoader(held_out, batch_size=256)
for epoch in range(epochs):
    train(model, train_loader)
    accuracy = test(model, held_out_loader)
    if accuracy > best:
        best = accuracy
        torch.save(model.state_dict(), "best.pt")
```

Silent where nothing is kept by the comparison, where the data is called a validation split, and where the file does not
train. Off by default: for data sets without a validation split this is common practice, and an example need not care.

## Fix safety

No fix: where the held-out data comes from is for the author to say.

## Verified by

Nothing is rewritten, so nothing is run.

## References

- <https://scikit-learn.org/stable/common_pitfalls.html#data-leakage>
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Severity
from torchlint.nodes import find, literal, walk, walk_scope
from torchlint.rule import Category, Context, Finding, Rule
from torchlint.semantics import Effect, LoaderCall
from torchlint.semantics.loading import LoaderLoop, dataset_value, is_held_out, loader_loops
from torchlint.semantics.names import Function

RULE = Rule(
    "TL208",
    Category.EVALUATION,
    Severity.INFO,
    triggers=(r"DataLoader\b", r"\btorch\.save\(", r"[lL]oader\b", r"\.backward\("),
    requires=(r"\bDataLoader\b", r"\.backward\(", r"\btorch\.save\(", r"train\s*=\s*False|['\"]test['\"]"),
    since="0.2",
    default=False,
)

_ORDERS = (cst.GreaterThan, cst.LessThan, cst.GreaterThanEqual, cst.LessThanEqual)


@RULE.on
def check(loader: LoaderCall, context: Context) -> Iterator[Finding]:
    sem = context.sem
    if not _is_test_set(loader, context):
        return
    for loop in loader_loops(sem):
        if loop.loader is not loader.node or sem.events(loop.function, Effect.BACKWARD, Effect.STEP):
            continue
        for chosen in _choices(loop, context):
            yield Finding(
                chosen.test,
                "the test set chooses which checkpoint is kept",
                "the best of many test results is reported, which is better than the model is",
                "choose by a part of the training data that is held out, and test the chosen model once",
            )
            return


def _is_test_set(loader: LoaderCall, context: Context) -> bool:
    """A split called test, or `train=False` of torchvision, which with one's own class may mean any held-out part."""
    made = dataset_value(context.sem, loader)
    called = isinstance(made.node, cst.Call) and any(literal(a.value) == "test" for a in made.node.args)
    return is_held_out(context.sem, loader, ("test",)) and (called or made.origin.startswith("torchvision."))


def _choices(loop: LoaderLoop, context: Context) -> Iterator[cst.If]:
    """The `if better:` that save a checkpoint, behind the loop or where the result of its function is compared."""
    sem = context.sem
    assigned = {name for node in walk_scope(loop.node.body) for name in _bound(node)}
    yield from _saving(loop.function, assigned, context)
    for site in sem.call_sites(loop.function):
        if site.loops:
            bound = {
                name
                for node in walk_scope(site.function.body)
                if isinstance(node, cst.Assign) and any(call is site.node for call in find(node.value, cst.Call))
                for name in _bound(node)
            }
            yield from _saving(site.function, bound, context)


def _saving(function: Function, names: set[str], context: Context) -> Iterator[cst.If]:
    """The ifs that order one of the names, or what is computed from them, and save when it wins."""
    names = set(names)
    for node in walk_scope(function.body):
        if isinstance(node, cst.Assign) and _reads(node.value, names):
            names.update(_bound(node))
        if isinstance(node, cst.If) and _orders(node.test, names):
            calls = find(node.body, cst.Call)
            if any(context.sem.qualified(call.func) == "torch.save" for call in calls):
                yield node


def _orders(test: cst.BaseExpression, names: set[str]) -> bool:
    """Whether the test compares one of the names with what may be the best so far, or is such a comparison's name."""
    if isinstance(test, cst.Name):
        return test.value in names
    comparisons = [n for n in walk(test) if isinstance(n, cst.Comparison)]
    return any(isinstance(c.comparisons[0].operator, _ORDERS) and _reads(c, names) for c in comparisons)


def _reads(node: cst.CSTNode, names: set[str]) -> bool:
    return any(isinstance(n, cst.Name) and n.value in names for n in walk(node))


def _bound(node: cst.CSTNode) -> Iterator[str]:
    targets = [t.target for t in node.targets] if isinstance(node, cst.Assign) else []
    if isinstance(node, cst.AugAssign):
        targets = [node.target]
    for target in targets:
        for name in [target] if isinstance(target, cst.Name) else getattr(target, "elements", ()):
            plain = name if isinstance(name, cst.Name) else name.value
            if isinstance(plain, cst.Name):
                yield plain.value
