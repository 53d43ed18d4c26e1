"""Small files that hold secrets: read only if nobody else can, replaced as a whole, overwritten when they go.

``replace_private`` keeps the old content under ``NAME.old`` until the new one is durable, and then overwrites it; a
crash leaves a file that ``settle`` deals with. Overwriting is best effort on flash and copy-on-write file systems.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from shosoin.base import Denied, Rejected, Unavailable

__all__ = [
    "check_tls_key",
    "create_private",
    "destroy",
    "make_directory",
    "read_private",
    "replace_private",
    "require_tls_key",
    "require_writable",
    "settle",
    "sync_directory",
]

_OTHERS = 0o077
_OTHERS_BUT_READING_GROUP = 0o037


def read_private(path: Path, what: str, *, bytes_max: int) -> bytes:
    """Return the content of a file that only its owner (us or root) can read.

    A service manager's credentials may besides be readable for root's group: their access list looks like that.

    Raises:
        Rejected: there is no such file, it is not a file, or it is too long.
        Denied: somebody else may read or change it.
    """
    descriptor = _opened(path, what)
    try:
        found = os.fstat(descriptor)
        _check_private(path, what, found, group_reads=found.st_gid == 0)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(bytes_max + 1)
    finally:
        os.close(descriptor)
    if len(content) > bytes_max:
        raise Rejected(f"{what} {path} is longer than {bytes_max} bytes", code="store.unreadable")
    return content


def check_tls_key(path: Path, what: str, found: os.stat_result) -> None:
    """Check what ``fstat`` says of a private key of TLS: as for other secrets, but a group may read what root owns.

    Programs of one machine often share such keys through a group, and PostgreSQL has the same rule.

    Raises:
        Rejected: it is not a file.
        Denied: somebody else may read or change it.
    """
    _check_private(path, what, found, group_reads=True, hint=f"chmod 600 {path}; 640 will do where root owns it")


def require_tls_key(path: Path, what: str) -> None:
    """Check a private key of TLS before a library reads it; the same failures, and Rejected if it cannot be read."""
    descriptor = _opened(path, what)
    try:
        check_tls_key(path, what, os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _opened(path: Path, what: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe must not hold us up
    except OSError as err:
        raise Rejected(f"cannot read {what} {path}: {err.strerror}", code="store.unreadable") from err


def _check_private(path: Path, what: str, found: os.stat_result, *, group_reads: bool, hint: str = "") -> None:
    """Check owner and mode.

    Args:
        group_reads: whether the group may, where the owner is root.
    """
    if not stat.S_ISREG(found.st_mode):
        raise Rejected(f"{what} {path} is not a file", code="store.unreadable")
    by_root = found.st_uid == 0
    others = _OTHERS_BUT_READING_GROUP if by_root and group_reads else _OTHERS
    if found.st_mode & others:
        raise Denied(
            f"{what} {path} can be read or changed by others (mode {stat.S_IMODE(found.st_mode):o})",
            code="store.not_private",
            hint=hint or f"chmod 600 {path}",
        )
    if not (by_root or found.st_uid == os.geteuid()):
        raise Denied(
            f"{what} {path} belongs to user {found.st_uid}",
            code="store.not_private",
            hint="it must belong to the user that this program runs as, or to root",
        )


def create_private(path: Path, content: bytes) -> None:
    """Write a file of mode 600 durably.

    Raises:
        FileExistsError: there is a file already; it is left alone.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "File exists", str(path))
    descriptor, is_named = _new_file(path)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
        if not is_named:
            # Unlike a rename this never replaces anything; a directory descriptor makes the link be followed.
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
    sync_directory(path.parent)


def _new_file(path: Path) -> tuple[int, bool]:
    """Return a file without a name, of which a crash leaves nothing; where there is no such thing, a named one."""
    try:
        return os.open(path.parent, os.O_WRONLY | os.O_TMPFILE, 0o600), False
    except (AttributeError, OSError):
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), True


def replace_private(path: Path, content: bytes) -> None:
    """Put new content in the place of a file, durably, and overwrite the old content.

    A crash leaves either content under the name, whole.
    """
    settle(path)
    part = _written(_part(path), content)
    if path.exists():
        os.link(path, _old(path))
        sync_directory(path.parent)
    part.rename(path)
    sync_directory(path.parent)
    settle(path)


def settle(path: Path) -> None:
    """Finish what an interrupted ``replace_private`` left: afterwards only the file itself is there."""
    old, part = _old(path), _part(path)
    if part.exists():
        destroy(part)
    if not old.exists():
        return
    if path.exists() and old.samefile(path):
        old.unlink()  # another name of what is still in use
        sync_directory(path.parent)
    else:
        destroy(old)


def destroy(path: Path) -> None:
    """Overwrite and remove a file; one that is gone already is fine."""
    try:
        with path.open("r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except FileNotFoundError:
        return
    sync_directory(path.parent)


def make_directory(directory: Path) -> None:
    """Make a directory of mode 700, and those above it as others are made; all durably. One that is there is fine."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in reversed(missing):
        sync_directory(each.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(path: Path, what: str) -> None:
    """Check, before anything is changed, that ``replace_private`` and ``destroy`` can do their work.

    Raises:
        Unavailable: the directory or the file cannot be written.
    """
    places = [path.parent, *([path] if path.exists() else [])]
    if not all(os.access(place, os.W_OK) for place in places):
        raise Unavailable(f"{what} {path} cannot be replaced by this user", code="store.not_writable")


def _written(part: Path, content: bytes) -> Path:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:  # buffered: a raw write may be short without an error
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return part


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".old")


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")
