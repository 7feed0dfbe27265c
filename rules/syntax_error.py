"""A file that Python cannot parse.

## What it does
Reports files that are not valid Python: syntax errors, bytes that are not text in the declared encoding, NUL bytes,
merge conflict markers, Python 2 code, notebook magics pasted into a script, and nesting too deep to parse. Where it is
only the old argument of `.cuda(async=True)` that Python 3.7 made a keyword, the rest of the file is checked, without
fixes.

## Why is this bad
Nothing else in most such files can be checked, so a run that passed over it silently would look cleaner than it is.

## Example
```python
def train(model:
    model.train()
```

## Fix safety
There is no fix: what the author meant is not known.

## Verified by
Nothing is written, so there is nothing to verify.

## References
- https://docs.python.org/3/reference/lexical_analysis.html
"""

from torchlint.diagnostic import Severity
from torchlint.rule import Category, Rule

RULE = Rule("TL001", Category.FILES, Severity.ERROR, triggers=(), since="0.1")
