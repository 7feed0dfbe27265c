"""A rule failed on this file.

## What it does
Reports that a rule raised an exception, with the rule, the exception and the place in the rule's source. The other
rules go on, and so does the rest of the run.

## Why is this bad
The file was checked less than the run promises. The mistake is in the rule, not in the checked file: please report it.

## Example
`missing-zero-grad (TL101) failed on this file: KeyError: 'loss' at missing_zero_grad.py:41`

## Fix safety
There is no fix. `--ignore` the rule until it is repaired.

## Verified by
Nothing is written, so there is nothing to verify.

## References
None.
"""

from torchlint.diagnostic import Severity
from torchlint.rule import Category, Rule

RULE = Rule("TL002", Category.FILES, Severity.ERROR, triggers=(), since="0.1")
