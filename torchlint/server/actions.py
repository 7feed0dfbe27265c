"""Findings as the protocol knows them: diagnostics, what can be done about each, and the rule's page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lsprotocol import types

from torchlint.diagnostic import Applicability, Diagnostic, Severity
from torchlint.explain import explain, for_terminal
from torchlint.report.terminal import Paint
from torchlint.report.text import behind_label
from torchlint.server.checking import Checked, Checker
from torchlint.server.documents import Document, Edits
from torchlint.unified import edits_between

SOURCE = "torchlint"
FIX_ALL = f"{types.CodeActionKind.SourceFixAll.value}.{SOURCE}"
FIX_ALL_CELLS = f"notebook.{FIX_ALL}"  # what VS Code asks for when a notebook is saved
QUICK_FIX = types.CodeActionKind.QuickFix.value
_SEVERITIES = {
    Severity.ERROR: types.DiagnosticSeverity.Error,
    Severity.WARNING: types.DiagnosticSeverity.Warning,
    Severity.INFO: types.DiagnosticSeverity.Information,
}
_LABELS = {
    Applicability.SAFE: "",
    Applicability.UNSAFE: "unsafe, may change results: ",
    Applicability.SUGGESTION: "suggestion, not verified: ",
}
_ORDER = list(_LABELS)


@dataclass(frozen=True)
class Client:
    """What the editor understands."""

    versions: bool  # edits that name the version they are made for
    resolves: bool  # actions whose edit is worked out once they are chosen
    tags: bool


def diagnostic(document: Document, d: Diagnostic, client: Client) -> tuple[str, types.Diagnostic]:
    """A finding for the client, and the document that it is shown in."""
    uri, span = document.place(d)
    return uri, types.Diagnostic(
        range=span,
        message=f"{d.message} ({d.name})",
        severity=_SEVERITIES[d.severity],
        code=d.code,
        code_description=types.CodeDescription(d.url) if d.url else None,
        source=SOURCE,
        tags=_tags(d) if client.tags else None,
    )


def _tags(d: Diagnostic) -> list[types.DiagnosticTag] | None:
    """Fades what may go, strikes out what is old: rules are named after what they find."""
    if d.name.startswith("unused-"):
        return [types.DiagnosticTag.Unnecessary]
    if d.name.startswith(("deprecated-", "legacy-")):
        return [types.DiagnosticTag.Deprecated]
    return None


def at(document: Document, uri: str, span: types.Range, found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The findings that a range touches."""
    start, end = _key(span.start), _key(span.end)
    result = []
    for d in found:
        where, its = document.place(d)
        if where == uri and _key(its.start) <= end and start <= _key(its.end):
            result.append(d)
    return result


def _key(position: types.Position) -> tuple[int, int]:
    return position.line, position.character


def fixes(document: Document, checked: Checked, chosen: Sequence[Diagnostic], client: Client) -> list[types.CodeAction]:
    """The quick fixes of some findings, safe ones first, and for each finding a comment that silences it.

    Parses the text once per fix: not for the thread that answers the client.
    """
    found: list[tuple[int, types.CodeAction]] = []
    for d in chosen:
        shown = [diagnostic(document, d, client)[1]]
        if d.fix is not None and Checker.alone(document.path, checked, d):
            kind = d.fix.applicability
            action = types.CodeAction(
                f"{SOURCE}: {_LABELS[kind]}{behind_label(d.fix.message)} ({d.code})",
                kind=QUICK_FIX,
                diagnostics=shown,
                is_preferred=kind is Applicability.SAFE or None,
                edit=workspace_edit(document.edits(d.fix.edits, checked.program), client),
            )
            found.append((_ORDER.index(kind), action))
        edits = edits_between(checked.program, Checker.silenced(document.path, checked, d))
        if edits:
            action = types.CodeAction(
                f"{SOURCE}: ignore {d.code} on this line",
                kind=QUICK_FIX,
                diagnostics=shown,
                edit=workspace_edit(document.edits(edits, checked.program), client),
            )
            found.append((len(_ORDER), action))
    return [action for _, action in sorted(found, key=lambda one: one[0])]


def has_safe_fixes(checked: Checked) -> bool:
    return any(d.fix is not None and d.fix.applicability is Applicability.SAFE for d in checked.diagnostics)


def fix_all(kind: str, uri: str, edit: types.WorkspaceEdit | None) -> types.CodeAction:
    """The action that makes every safe fix of a file; without an edit, one that is worked out when it is chosen."""
    return types.CodeAction(f"{SOURCE}: make all safe fixes", kind=kind, edit=edit, data=None if edit else {"uri": uri})


def workspace_edit(edits: Sequence[Edits], client: Client) -> types.WorkspaceEdit:
    if not client.versions:
        return types.WorkspaceEdit(changes={uri: changes for uri, _, changes in edits})
    return types.WorkspaceEdit(
        document_changes=[
            types.TextDocumentEdit(types.OptionalVersionedTextDocumentIdentifier(uri, version), list(changes))
            for uri, version, changes in edits
        ]
    )


def wanted(kind: str, only: Sequence[types.CodeActionKind | str] | None) -> bool:
    """Whether the client asks for actions of a kind: `source` asks for `source.fixAll.torchlint` too."""
    if only is None:
        return True
    asked = [one.value if isinstance(one, types.CodeActionKind) else one for one in only]
    return any(not one or kind == one or kind.startswith(f"{one}.") for one in asked)


def pages(found: Sequence[Diagnostic]) -> str:
    """The pages of the rules of some findings, as Markdown; a paragraph is one line, for the editor to wrap."""
    shown = (for_terminal(explain([code]), 0, Paint(False)) for code in dict.fromkeys(d.code for d in found))
    return "\n\n---\n\n".join(map(str.strip, shown))
