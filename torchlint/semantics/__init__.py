"""What the code means: qualified names, value kinds, effects of calls, the loops that train and evaluate.

`Semantics` is computed once per file and asked by rules. Nothing here knows a rule.
"""

from torchlint.semantics.kinds import UNKNOWN, Graph, Kind, Value
from torchlint.semantics.model import Semantics

__all__ = ["UNKNOWN", "Graph", "Kind", "Semantics", "Value"]
