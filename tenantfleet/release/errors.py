class ReleaseError(Exception):
    """A release cannot be built, read or published; the message says what to do."""


class InvalidManifestError(ReleaseError):
    """The bytes are no manifest v1."""


class DigestMismatchError(ReleaseError):
    """Something is not what its digest says."""


class MissingProgramError(ReleaseError):
    """A program that the build needs is neither installed nor installable by this user."""
