"""Everything that tenantfleet refuses or reports, each with its exit code and the operator's next step."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """The exit codes of `tenantfleet` (docs/contracts/order.md)."""

    DONE = 0
    USAGE = 2
    INPUT_REFUSED = 10
    EXPIRED_OR_REPLAYED = 11
    PAYLOAD_CLOSED = 12
    NO_MACHINE = 13
    CONFLICT = 14
    RELEASE_MISMATCH = 15
    RUN_FAILED = 20
    UNREACHABLE = 21
    NOT_ATTEMPTED = 22
    FENCED = 23
    ENVIRONMENT_MISSING = 30


class TenantfleetError(Exception):
    """Root of all errors that a user sees: a cause, a stable code, and what to do next.

    Args:
        cause: one sentence for a person; never holds a secret or input that may be one.
        code: stable dotted name for programs, e.g. `order.expired`.
        hint: the next step, an imperative sentence.
    """

    exit_code: ClassVar[ExitCode]

    def __init_subclass__(cls, *, exit_code: ExitCode) -> None:
        cls.exit_code = exit_code

    def __init__(self, cause: str, *, code: str, hint: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.code = code
        self.hint = hint


class InputRefusedError(TenantfleetError, exit_code=ExitCode.INPUT_REFUSED):
    """A file or argument is not what its contract says."""


class OrderSpentError(TenantfleetError, exit_code=ExitCode.EXPIRED_OR_REPLAYED):
    """The order or its payload has expired, or was used for something else before."""


class PayloadClosedError(TenantfleetError, exit_code=ExitCode.PAYLOAD_CLOSED):
    """The sealed payload cannot be opened here."""


class NoMachineError(TenantfleetError, exit_code=ExitCode.NO_MACHINE):
    """The region is unknown, or has no free machine."""


class ConflictError(TenantfleetError, exit_code=ExitCode.CONFLICT):
    """Another order, or another driver, holds the machine or the tenant."""


class ReleaseMismatchError(TenantfleetError, exit_code=ExitCode.RELEASE_MISMATCH):
    """What the release store answered is not what the digest names."""


class RunFailedError(TenantfleetError, exit_code=ExitCode.RUN_FAILED):
    """A playbook ran on the host and failed, or could not be run."""


class HostUnreachableError(TenantfleetError, exit_code=ExitCode.UNREACHABLE):
    """The host did not answer, refused the login, or showed a wrong host key."""


class NotAttemptedError(TenantfleetError, exit_code=ExitCode.NOT_ATTEMPTED):
    """The run ended before this host's turn: nothing was done there."""


class FencedError(TenantfleetError, exit_code=ExitCode.FENCED):
    """The host belongs to a newer run, or cannot be given to this one: it refused this run's tasks."""


class EnvironmentMissingError(TenantfleetError, exit_code=ExitCode.ENVIRONMENT_MISSING):
    """This environment, or a program or file that it needs, is not set up."""


OF_EXIT_CODE = {kind.exit_code: kind for kind in TenantfleetError.__subclasses__()}
