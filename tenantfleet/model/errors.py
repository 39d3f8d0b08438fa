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
    ENVIRONMENT_MISSING = 30


class TenantfleetError(Exception):
    """Root of all errors that a user sees: a cause, a stable code, and what to do next.

    Args:
        cause: one sentence for a person; never holds a secret or input that may be one.
        code: stable dotted name for programs, e.g. `order.expired`.
        hint: the next step, an imperative sentence.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.RUN_FAILED

    def __init__(self, cause: str, *, code: str, hint: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.code = code
        self.hint = hint


class InputRefusedError(TenantfleetError):
    """A file or argument is not what its contract says."""

    exit_code = ExitCode.INPUT_REFUSED


class OrderSpentError(TenantfleetError):
    """The order or its payload has expired, or was used for something else before."""

    exit_code = ExitCode.EXPIRED_OR_REPLAYED


class PayloadClosedError(TenantfleetError):
    """The sealed payload cannot be opened here."""

    exit_code = ExitCode.PAYLOAD_CLOSED


class NoMachineError(TenantfleetError):
    """The region is unknown, or has no free machine."""

    exit_code = ExitCode.NO_MACHINE


class ConflictError(TenantfleetError):
    """Another order, or another driver, holds the machine or the tenant."""

    exit_code = ExitCode.CONFLICT


class ReleaseMismatchError(TenantfleetError):
    """What the release store answered is not what the digest names."""

    exit_code = ExitCode.RELEASE_MISMATCH


class RunFailedError(TenantfleetError):
    """A playbook ran on the host and failed, or could not be run."""

    exit_code = ExitCode.RUN_FAILED


class HostUnreachableError(TenantfleetError):
    """The host did not answer, refused the login, or showed a wrong host key."""

    exit_code = ExitCode.UNREACHABLE


class NotAttemptedError(TenantfleetError):
    """The run ended before this host's turn: nothing was done there."""

    exit_code = ExitCode.NOT_ATTEMPTED


class EnvironmentMissingError(TenantfleetError):
    """This environment, or a program or file that it needs, is not set up."""

    exit_code = ExitCode.ENVIRONMENT_MISSING


OF_EXIT_CODE: dict[ExitCode, type[TenantfleetError]] = {
    kind.exit_code: kind
    for kind in (
        InputRefusedError,
        OrderSpentError,
        PayloadClosedError,
        NoMachineError,
        ConflictError,
        ReleaseMismatchError,
        RunFailedError,
        HostUnreachableError,
        NotAttemptedError,
        EnvironmentMissingError,
    )
}
