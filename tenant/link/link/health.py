"""What a heartbeat says that is not well, in words for the person who reads it."""

from link.envelope import Json

UP = "up"
OPEN = "open"


def complaints(document: dict[str, Json], *, tenant_id: str) -> list[str]:
    """Return all that is wrong with a tenant that reported so; nothing when all is well.

    What a heartbeat does not say counts as wrong.
    """
    found = []
    if document.get("tenant_id") != tenant_id:
        found.append(f"it is the heartbeat of {document.get('tenant_id')}, not of {tenant_id}")
    admission = _section(document, "admission")
    if admission.get("admission") != OPEN:
        state, reason = admission.get("admission", "unknown"), admission.get("reason") or "no reason given"
        found.append(f"the wrapper's admission is {state}: {reason}")
    parts = _section(document, "parts")
    found += [f"{name} is {state}" for name, state in sorted(parts.items()) if state != UP]
    if not parts:
        found.append("it names no part")
    if _section(document, "self_tests").get("redaction") is not True:
        found.append("the redaction's self-test is not green")
    return found


def _section(document: dict[str, Json], name: str) -> dict[str, Json]:
    section = document.get(name)
    return section if isinstance(section, dict) else {}
