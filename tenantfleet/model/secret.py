"""A value that shows itself only when asked to."""

from __future__ import annotations

from typing import NoReturn


class Secret[Value]:
    """Wraps a secret: `repr`, `str`, formatting and pickling never show it; `reveal()` does."""

    __slots__ = ("__value",)

    def __init__(self, value: Value) -> None:
        self.__value: Value = value

    def reveal(self) -> Value:
        return self.__value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")
