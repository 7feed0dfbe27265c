"""Files and services that a script writes to: once, and not once per process.

What opens a file opens nothing in the other processes, an object that is only ever told things (a SummaryWriter, a
logger) is replaced there by one that does not listen, and a call that only writes is left to the first process. Only a
script that needs an answer from what it writes with is left alone.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterator

import libcst as cst

from torchlint.diagnostic import Edit
from torchlint.migrate.epochs import NotUnderstood
from torchlint.migrate.plan import Step, value_of
from torchlint.nodes import argument, dotted, has_star, literal, walk

_BUILTINS = frozenset(dir(builtins))
# Names of other files' functions and classes that write, as far as a name can say it.
_SAVING = re.compile(r"save|write|dump|logger$|visuali[sz]e|plot|checkpoint", re.I)
# A name that says what a call gives, not that it writes: `save_path_formatter`, `get_log_dir`.
_GIVES = re.compile(r"path|dir$|dir_|directory|folder|file_?name|_name|_args|parse", re.I)
_LIBRARIES = ("torch", "torchvision", "matplotlib", "numpy")  # what writes in these is listed below
# Objects that are told what to write.
_LISTENERS = re.compile(r"(^|[.])(SummaryWriter|Visdom)$")
# Calls that write, and return nothing that a script needs.
_CALLS = re.compile(
    r"^(shutil\.(copy\w*|move|rmtree)|os\.(remove|rename|replace|unlink)|numpy\.save\w*|joblib\.dump"
    r"|torchvision\.utils\.save_image|matplotlib\.pyplot\.savefig)$"
)
_METHODS = ("savefig", "to_csv", "write_text", "write_bytes")
# Calls that write to a file that was opened for them.
_INTO = {"json.dump": 1, "pickle.dump": 1, "yaml.dump": 1, "yaml.safe_dump": 1, "csv.writer": 0, "csv.DictWriter": 0}
# What an open file, or a csv writer on it, is told.
_TOLD = ("write", "writelines", "writerow", "writerows", "writeheader", "flush", "close")
_SERVICES = re.compile(r"^(mlflow|neptune|comet_ml)\.")
_LOG_FILES = {"logging.FileHandler": 0, "logging.basicConfig": -1}


class Writers(Step):
    def run(self) -> None:
        self.guarded: list[cst.SimpleStatementLine] = []
        for call in self.script.calls:
            self.call(call, self.script.qualified(call.func) or "")
        for group in self.groups():
            self.plan.helpers.add("main")
            self.edits.extend(self.file.reindent(group, "if is_main():"))

    def call(self, call: cst.Call, name: str) -> None:
        if dotted(call.func) == "open" and not self.script.assigned(call.func):
            self.opens(call)
        elif name in _LOG_FILES:
            self.log_file(call, name)
        elif name == "wandb.init":
            self.service(call)
        elif name in _INTO:
            self.writes_into(call, name)
        elif _LISTENERS.search(name):
            self.listener(call, name)
        elif _CALLS.match(name) or (isinstance(call.func, cst.Attribute) and call.func.attr.value in _METHODS):
            self.only_on_main(call)
        elif self.is_foreign(call, name) and _SAVING.search((name or dotted(call.func) or "").rpartition(".")[2]):
            if isinstance(self.file.parent(call), cst.Expr):
                self.only_on_main(call)
            elif not _GIVES.search(name.rpartition(".")[2]):
                self.listener(call, name)
        elif _SERVICES.match(name):
            raise self.everywhere(call)

    def everywhere(self, call: cst.Call) -> NotUnderstood:
        return NotUnderstood(f"every process would write with {dotted(call.func)} (line {self.file.row(call)})")

    def is_foreign(self, call: cst.Call, name: str) -> bool:
        """Whether the call runs code of the project that is not in this file."""
        root = name.lstrip(".").partition(".")[0]
        if not name:
            return (
                isinstance(call.func, cst.Name)
                and not self.script.assigned(call.func)
                and call.func.value not in _BUILTINS
            )
        return not name.startswith("~.") and root not in sys.stdlib_module_names and root not in _LIBRARIES

    # -- files ------------------------------------------------------------------------------------------------------

    def opens(self, call: cst.Call) -> None:
        """`open(path, "w")` opens nothing elsewhere; what is then written to it goes nowhere."""
        mode = value_of(argument(call, "mode", 1))
        text = "r" if mode is None else literal(mode)
        if not isinstance(text, str) or has_star(call) or not call.args:
            raise self.everywhere(call)
        if "+" in text and not self.only_told(call):
            raise self.everywhere(call)
        if not any(c in text for c in "wax"):
            return
        path = self.file.code(call.args[0].value)
        for other in self.script.calls:
            if dotted(other.func) == "open" and other.args and other is not call:
                read = argument(other, "mode", 1)
                reads = read is None or "r" in self.file.code(read.value)
                if reads and self.file.code(other.args[0].value) == path:
                    raise NotUnderstood(f"every process would read {path}, which the first one writes")
        self.plan.helpers |= {"main", "open"}
        self.edits.append(self.file.replace(call.func, "open_on_main"))

    def only_told(self, call: cst.Call) -> bool:
        """`with open(path, "a+") as f:` or `f = open(path, "a+")`, where f is written to and never read."""
        held_by = self.file.parent(call)
        block: cst.CSTNode | None = None
        queue: list[str | None] = []
        if isinstance(held_by, cst.WithItem) and held_by.asname is not None:
            block, queue = self.file.parent(held_by), [dotted(held_by.asname.name)]
        elif isinstance(held_by, cst.Assign) and len(held_by.targets) == 1:
            block, queue = self.script.scope(call), [dotted(held_by.targets[0].target)]
        if block is None or None in queue:
            return False
        inside = {id(n) for n in walk(block)}
        held: set[str] = set()
        while queue:
            name = queue.pop()
            if name is None or name in held:
                continue
            held.add(name)
            for node in self.uses(name):
                parent = self.file.parent(node)
                if id(node) not in inside or (isinstance(parent, cst.AsName) and self.file.parent(parent) is held_by):
                    continue
                into = self.file.parent(parent) if isinstance(parent, cst.Arg) else None
                if isinstance(into, cst.Call) and (self.script.qualified(into.func) or "") in _INTO:
                    made = self.file.parent(into)
                    queue += [dotted(t.target) for t in made.targets] if isinstance(made, cst.Assign) else []
                elif not (isinstance(parent, cst.Attribute) and parent.attr.value in _TOLD):
                    return False
        return True

    def writes_into(self, call: cst.Call, name: str) -> None:
        """`json.dump(x, f)`: nothing to do where `f` is from an `open`, which was seen to."""
        into = argument(call, "stream" if name.startswith("yaml.") else "fp", _INTO[name])
        if into is None:
            return  # `yaml.dump(x)` gives a string
        if self.opened(into.value):
            return
        self.only_on_main(call)

    def opened(self, expr: cst.BaseExpression) -> bool:
        calls = [expr, *self.script.origins(expr)]
        for node in self.file.ancestors(expr):
            if isinstance(node, cst.With):
                calls += [i.item for i in node.items if i.asname and dotted(i.asname.name) == dotted(expr)]
        return any(isinstance(c, cst.Call) and dotted(c.func) == "open" for c in calls)

    def log_file(self, call: cst.Call, name: str) -> None:
        position = _LOG_FILES[name]
        path = argument(call, "filename", position if position >= 0 else None)
        if path is None:
            return
        self.plan.helpers.add("main")
        self.edits.append(self.file.replace(path.value, f"{self.file.code(path.value)} if is_main() else os.devnull"))

    # -- services and objects that are told things --------------------------------------------------------------------

    def service(self, call: cst.Call) -> None:
        """Weights & Biases has a mode in which nothing happens."""
        if has_star(call, "**") or argument(call, "mode") is not None:
            raise self.everywhere(call)
        self.plan.helpers.add("main")
        mode = 'mode=None if is_main() else "disabled"'
        if call.args:
            end = self.file.span(call.args[-1].value)[1]
            self.edits.append(Edit(end, end, f", {mode}"))
        else:
            self.edits.append(self.file.replace(call, f"{self.file.code(call.func)}({mode})"))

    def listener(self, call: cst.Call, name: str) -> None:
        parent = self.file.parent(call)
        target = parent.targets[0].target if isinstance(parent, cst.Assign) and len(parent.targets) == 1 else None
        text = dotted(target) if target is not None else None
        if text is None or not (isinstance(target, cst.Name) or text.startswith("self.")):
            raise self.everywhere(call)
        answered = self.answered(text)
        if answered is not None:
            raise NotUnderstood(
                f"line {self.file.row(answered)} needs an answer from {text}, which every process would write with"
            )
        self.plan.helpers |= {"main", "unheard"}
        self.edits.append(self.file.replace(call, f"{self.file.code(call)} if is_main() else Unheard()"))

    def answered(self, text: str) -> cst.CSTNode | None:
        """A use of the name that is more than telling it something, also in functions that it is handed to."""
        names, queue = {text}, [text]
        while queue:
            current = queue.pop()
            for node in self.uses(current):
                handed = self.told(node)
                if handed is None:
                    return node
                queue += [n for n in handed if n not in names]
                names |= set(handed)
        return None

    def uses(self, text: str) -> Iterator[cst.CSTNode]:
        for node in self.script.nodes:
            if isinstance(node, (cst.Name, cst.Attribute)) and dotted(node) == text:
                parent = self.file.parent(node)
                if isinstance(parent, cst.Attribute) and parent.attr is node:
                    continue
                if isinstance(parent, (cst.AssignTarget, cst.Param, cst.ImportFrom, cst.ImportAlias)):
                    continue
                if isinstance(parent, cst.Arg) and parent.keyword is node:
                    continue
                yield node

    def told(self, node: cst.CSTNode) -> list[str] | None:
        """The further names that hold the object after this use; None where the use needs an answer."""
        parent = self.file.parent(node)
        if isinstance(parent, cst.Attribute):
            while isinstance(parent, cst.Attribute):
                parent = self.file.parent(parent)
            return [] if isinstance(parent, cst.Call) and isinstance(self.file.parent(parent), cst.Expr) else None
        if isinstance(parent, cst.Global):
            return []
        if isinstance(parent, (cst.NameItem, cst.If, cst.BooleanOperation)):
            return []
        if isinstance(parent, cst.Comparison):
            return [] if "None" in self.file.code(parent) else None
        call = self.file.parent(parent) if isinstance(parent, cst.Arg) else None
        if not isinstance(call, cst.Call):
            return None
        function = self.script.callee(call)
        if function is None:
            return [] if self.written_to(call, node) else None
        for param in (*function.params.posonly_params, *function.params.params, *function.params.kwonly_params):
            if self.script.passed(call, function, param.name.value) is node:
                return [param.name.value]
        return None

    def written_to(self, call: cst.Call, writer: cst.CSTNode) -> bool:
        """`log_images(writer, images)` of another file, which is left to the first process; never with a model."""
        if not isinstance(self.file.parent(call), cst.Expr) or not isinstance(call.func, cst.Name):
            return False
        if not self.is_foreign(call, self.script.qualified(call.func) or ""):
            return False
        for arg in call.args:
            if arg.value is not writer and self.script.methods_on(arg.value) & {"train", "eval", "parameters", "step"}:
                return False
        self.only_on_main(call)
        return True

    # -- calls that only write ----------------------------------------------------------------------------------------

    def only_on_main(self, call: cst.Call) -> None:
        """The whole statement writes, so the first process alone runs it."""
        statement = self.file.statement(call)
        alone = isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1
        if not alone or not isinstance(self.file.parent(call), cst.Expr):
            raise self.everywhere(call)
        assert isinstance(statement, cst.SimpleStatementLine)
        if not isinstance(self.file.parent(statement), (cst.IndentedBlock, cst.Module)):
            raise self.everywhere(call)
        for node in walk(call):
            if isinstance(node, cst.Call) and node is not call and self.may_train(node):
                raise NotUnderstood(
                    f"line {self.file.row(node)} computes while it writes, which all processes have to do"
                )
        if statement not in self.guarded:
            self.guarded.append(statement)

    def may_train(self, call: cst.Call) -> bool:
        """Whether the call may run a model: a function of this file, or an object that is called."""
        return self.script.callee(call) is not None or bool(self.script.assigned(call.func))

    def groups(self) -> Iterator[list[cst.SimpleStatementLine]]:
        """Neighbours share one condition."""
        rest = list(self.guarded)
        while rest:
            group = [rest.pop(0)]
            block = self.file.parent(group[0])
            assert isinstance(block, (cst.IndentedBlock, cst.Module))
            body = list(block.body)
            while rest and rest[0] in body and body.index(rest[0]) == body.index(group[-1]) + 1:
                group.append(rest.pop(0))
            yield group
