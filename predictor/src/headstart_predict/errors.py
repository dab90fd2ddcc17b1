"""Errors that a user can fix: each says what is wrong, where, and what would work."""

from __future__ import annotations

import errno


class HeadstartError(Exception):
    """A problem the user can fix. Its text is one line; the command line exits with 2."""


class DataError(HeadstartError):
    """Images or labels that are missing, damaged or do not match."""


class BundleError(HeadstartError):
    """A bundle that is damaged, changed, or made for another version."""


_NO_LOCKS = "the file system has no locks: choose a place on another one"
_DISK_ERRORS = {
    errno.ENOSPC: "no space is left on the device: free some, or move it",
    errno.EDQUOT: "the disk quota is used up: free some space, or move it",
    errno.EFBIG: "the file would pass the size limit: raise it (ulimit -f), or free some space",
    errno.EROFS: "the file system is read-only: choose a place that can be written",
    errno.EACCES: "permission denied: choose a place that can be written",
    errno.EPERM: "not permitted: choose a place that can be written",
    errno.ENOTDIR: "a part of the path is a file: choose another place",
    errno.ENOENT: "no such file or folder: it may have been removed in the meantime",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ENOLCK: _NO_LOCKS,
    errno.ENOSYS: _NO_LOCKS,
    errno.ENOTSUP: _NO_LOCKS,
    errno.EISDIR: "a folder has the name of the file to write: choose another place",
}


def explain_os_error(error: OSError) -> str | None:
    """One line for an operating-system error that the user can fix, or None for any other."""
    advice = _DISK_ERRORS.get(error.errno or 0)
    if advice is None:
        return None
    where = error.filename2 or error.filename or "while writing"
    return f"{where}: {advice}"
