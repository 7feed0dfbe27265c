"""What the code means: qualified names, value kinds, effects of calls, the loops that train and evaluate.

`Semantics` is computed once per file and asked by rules. Nothing here knows a rule.
"""

from torchlint.semantics.effects import Effect, Event, GradMode, Guard
from torchlint.semantics.kinds import UNKNOWN, Graph, Kind, Value
from torchlint.semantics.loops import EvalRegion, LoaderCall, TrainingLoop
from torchlint.semantics.model import Semantics
from torchlint.semantics.names import Class, Function

__all__ = [
    "UNKNOWN",
    "Class",
    "Effect",
    "EvalRegion",
    "Event",
    "Function",
    "GradMode",
    "Graph",
    "Guard",
    "Kind",
    "LoaderCall",
    "Semantics",
    "TrainingLoop",
    "Value",
]
