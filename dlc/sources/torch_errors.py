"""What torch.export and torch.onnx mean by their errors: the operator or dimension, and the way out."""

from __future__ import annotations

import re
from collections.abc import Collection

FIXED = re.compile(r"You marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)")
EQUAL = re.compile(r"The values of (\w+) = .* and (\w+) = .* must always be equal")
RANGE = re.compile(r"^\s*(\w+) = Dim\('\w+'(?:, min=(\d+))?(?:, max=(\d+))?\)", re.MULTILINE)
MULTIPLE = re.compile(r"^\s*(\w+) = (\d+)\*_\w+", re.MULTILINE)
GUARD = re.compile(r"Not all values of (\w+) = .*? satisfy the generated guard (.*)")
NO_FUNCTION = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)', overload='(\w+)'\)>")
SOURCE_LINE = re.compile(r'File "[^"]*", line (\d+), in (\w+)\n\s*(.+)')


def explain(error: BaseException, dims: Collection[str]) -> str:
    """Say in one line what failed and what to do."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    text = "\n".join(str(e) for e in chain)
    if match := NO_FUNCTION.search(text):
        return f"operator {match[1]} has no ONNX form; write the model without it"
    if "data-dependent" in text or type(error).__name__ == "GuardOnDataDependentSymNode":
        return (
            f"control flow depends on the values of a tensor{_where(text)}; "
            "use torch.where or torch.cond, or decide it before the call"
        )
    if (constraint := _constraint(text)) is not None:
        return constraint
    last = chain[-1]
    where = _where(text)
    named = next((f" (dimension {d!r})" for d in dims if re.search(rf"\b{re.escape(d)}\b", str(last))), "")
    return f"{type(last).__name__}: {_first_line(last)}{named}{where}"


def _constraint(text: str) -> str | None:
    """A declared dimension that the module's code does not accept as declared."""
    if match := EQUAL.search(text):
        return f"dimensions {match[1]!r} and {match[2]!r} must always be equal: declare one name for both"
    if match := FIXED.search(text):
        return (
            f"dimension {match[1]!r} is fixed at {match[2]} by the module's code{_where(text)}: "
            f"let the code take other sizes, or declare the size {match[2]} in the input's shape"
        )
    if match := MULTIPLE.search(text):
        return f"dimension {match[1]!r}: the module's code holds for multiples of {match[2]} only; fix its size"
    if match := RANGE.search(text):
        bounds = ", ".join(f"{k}={v}" for k, v in (("min", match[2]), ("max", match[3])) if v)
        return f"dimension {match[1]!r}: the module's code holds for Dim({bounds}) only; declare these bounds"
    if match := GUARD.search(text):
        guard = re.sub(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]", r"\1.shape[\2]", match[2]).rstrip(".")
        return f"dimension {match[1]!r}: the module's code needs {guard}; declare bounds that hold, or fix its size"
    return None


def _where(text: str) -> str:
    """Quote the last line of user code that the error names."""
    found = SOURCE_LINE.findall(text)
    return f" at `{found[-1][2].strip()}` (line {found[-1][0]}, {found[-1][1]})" if found else ""


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
