"""A seed for one random generator, in a program that draws from others too.

## What it does

Finds a file that trains and seeds torch, NumPy or `random`, but not all of these that it draws from:
`torch.manual_seed(seed)` while `np.random.permutation(...)` deals out the samples, or `np.random.seed(seed)` while
torch initialises the model and shuffles the batches.

## Why is this bad

The run looks reproducible and is not: the same seed gives other splits, other augmentations or another initialisation
each time.

## Example

```python
torch.manual_seed(args.seed)
order = np.random.permutation(len(samples))
```

Use instead:

```python
torch.manual_seed(args.seed)
np.random.seed(args.seed)
order = np.random.permutation(len(samples))
```

Silent where the file or a helper that it calls seeds everything (`seed_everything`, `set_seed`), where generators of
their own are used (`np.random.default_rng`), in tests, and in files that do not train: libraries seed for one sample.

Off by default: not everybody who seeds wants the whole run to repeat.

## Fix safety

Unsafe: other random numbers are drawn, as they must be.

## Verified by

`fixtures/partial_seeding/run.py`: two runs with one seed draw the same numbers.

## References

- <https://docs.pytorch.org/docs/stable/notes/randomness.html>
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from torchlint.diagnostic import Applicability, Fix, Severity
from torchlint.nodes import argument, dotted, literal
from torchlint.rule import Category, Context, Finding, Rule, unsafe

RULE = Rule(
    "TL901",
    Category.REPRODUCIBILITY,
    Severity.WARNING,
    # Where a generator is seeded, and wherever one may be drawn from.
    triggers=(r"\bmanual_seed\(", r"\brandom\b", r"\brand", r"\bshuffle\b", r"\bseed\(", r"\bnn\.[A-Z]\w*\("),
    requires=(r"\bmanual_seed\(|\bseed\(", r"\.backward\("),
    since="0.2",
    fixes=(Applicability.UNSAFE,),
    default=False,
)


@dataclass(frozen=True)
class _Generator:
    """One of the global generators: the qualified names of what seeds it and of what draws from it."""

    name: str
    seeds: re.Pattern[str]
    draws: re.Pattern[str]
    seed: str  # the function that seeds it, as an attribute of the module that draws


_GENERATORS = (
    _Generator(
        "torch",
        re.compile(r"^torch\.(random\.)?(manual_seed|seed)$"),
        re.compile(
            r"^torch\.(rand|randn|randint|rand_like|randn_like|randperm|bernoulli|multinomial)$"
            r"|^torch\.nn\.(Linear|Bilinear|Conv\w+|Embedding|LSTM|GRU|RNN|Transformer\w*|MultiheadAttention)$"
            r"|^torch\.nn\.init\.(xavier|kaiming|uniform|normal|trunc|orthogonal)\w*$|^torch\.utils\.data\.DataLoader$"
        ),
        "manual_seed",
    ),
    _Generator(
        "NumPy",
        re.compile(r"^numpy\.random\.seed$"),
        re.compile(
            r"^numpy\.random\.(rand|randn|randint|random|random_sample|choice|shuffle|permutation|uniform|normal|beta|binomial)$"
        ),
        "seed",
    ),
    _Generator(
        "`random`",
        re.compile(r"^random\.seed$"),
        re.compile(r"^random\.(random|randint|randrange|choice|choices|sample|shuffle|uniform|gauss|betavariate)$"),
        "seed",
    ),
)
_ELSEWHERE = re.compile(
    r"seed_?everything|seed_all|seed_torch|(set|setup|fix|init)_\w*seed|set_determinism|fork_rng|get_rng_state|set_rng_state|\.set_state\("
)


@RULE.on
def check(module: cst.Module, context: Context) -> Iterator[Finding]:
    base = context.file.path.replace("\\", "/").rpartition("/")[2]
    if context.file.mentions(_ELSEWHERE) or base.startswith("test_") or base.endswith("_test.py"):
        return
    if ".backward(" not in context.file.text:
        return  # nothing is trained here
    calls = list(_calls(context))
    seeded = [(call, generator) for call, name in calls for generator in _GENERATORS if generator.seeds.match(name)]
    if not seeded:
        return
    last, by = seeded[-1]
    done = {generator.name for _, generator in seeded}
    missing: list[tuple[_Generator, cst.Call]] = []
    for generator in _GENERATORS:
        drawn = next((call for call, name in calls if generator.draws.match(name) and _draws(call, name)), None)
        if drawn is not None and generator.name not in done:
            missing.append((generator, drawn))
    if missing:
        names = " and ".join(generator.name for generator, _ in missing)
        yield Finding(
            last,
            f"{by.name} is seeded here, {names} {'is' if len(missing) == 1 else 'are'} not",
            f"`{dotted(missing[0][1].func)}` draws other numbers in every run",
            " and ".join(f"call `{_seeding(generator, drawn)}`" for generator, drawn in missing) + " as well",
            _fix(last, missing, context),
        )


def _seeding(generator: _Generator, drawn: cst.Call) -> str:
    """What seeds the generator, under the name that the drawing call has for its module."""
    if generator.seed == "manual_seed":
        return "torch.manual_seed"
    owner = (dotted(drawn.func) or "").rpartition(".")[0]
    return f"{owner}.{generator.seed}" if owner else generator.seed


def _calls(context: Context) -> Iterator[tuple[cst.Call, str]]:
    """The file's calls with their qualified names."""
    sem = context.sem
    for call, function in sem.evaluator.function_at.items():
        name = sem.names.qualify(call.func, function)
        if name is not None:
            yield call, name


def _draws(call: cst.Call, name: str) -> bool:
    """Whether the call draws from the global generator."""
    if argument(call, "generator") is not None:
        return False
    if not name.endswith(".DataLoader"):
        return True
    shuffle = argument(call, "shuffle", 2)
    return shuffle is not None and literal(shuffle.value) is True


def _fix(call: cst.Call, missing: list[tuple[_Generator, cst.Call]], context: Context) -> Fix | None:
    """Seed the others with the same value, in the next lines."""
    statement = context.file.statement(call)
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1 or len(call.args) != 1:
        return None
    only, seed = statement.body[0], call.args[0].value
    if not isinstance(only, cst.Expr) or only.value is not call or not (dotted(seed) or isinstance(seed, cst.Integer)):
        return None
    functions = [_seeding(generator, drawn) for generator, drawn in missing]
    if not all("." in f and f.partition(".")[0] in context.sem.names.imports for f in functions):
        return None
    lines = [f"{function}({context.file.code(seed)})" for function in functions]
    return unsafe("Seed with the same value", context.file.insert_after(statement, lines))
