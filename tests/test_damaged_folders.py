"""Folders that refuse, links that lead nowhere, and what killed processes leave."""

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap

import pytest

from fastrnn import storage

pytest.importorskip("safetensors")


# ---- folders ----


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such permissions")
def test_writing_into_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    """The file is there, so nothing has failed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o300)
    if os.geteuid() == 0:  # who may read everything
        real = os.open

        def refuse(path, *arguments, **options):
            if os.fspath(path) == str(folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, "open", refuse)
    try:
        with storage.atomic_write(folder / "file") as file:
            file.write(b"new")
        assert (folder / "file").read_bytes() == b"new"
    finally:
        folder.chmod(0o700)


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not forced to disk there")
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_folder_that_fails_to_be_forced_to_disk(tmp_path, monkeypatch, call):
    """The new file is in its place, and the error names it."""
    real, path = getattr(os, call), tmp_path / "file"

    def fail(what, *arguments, **options):
        if stat.S_ISDIR(os.fstat(what).st_mode) if call == "fsync" else os.fspath(what) == str(tmp_path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(what, *arguments, **options)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="error") as caught, storage.atomic_write(path) as file:
        file.write(b"new")
    assert caught.value.errno == errno.EIO and caught.value.filename == str(path)
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]


# ---- links and pipes ----


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_link_that_leads_to_itself_stays_one(tmp_path):
    for link, target in (("one", "other"), ("other", "one"), ("self", "self")):
        os.symlink(target, tmp_path / link)
    for name in ("one", "self"):
        path = tmp_path / name
        with pytest.raises(OSError, match="symbolic links") as caught, storage.atomic_write(path) as file:
            file.write(b"new")
        assert caught.value.errno == errno.ELOOP and caught.value.filename == str(path)
    assert sorted(os.listdir(tmp_path)) == ["one", "other", "self"]
    assert all(os.path.islink(tmp_path / name) for name in os.listdir(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_link_that_leads_nowhere_stays_one(tmp_path):
    os.symlink("target", tmp_path / "link")
    with storage.atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert os.readlink(tmp_path / "link") == "target" and (tmp_path / "target").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes")
def test_pipe_that_takes_the_place_of_a_file(tmp_path):
    """Just after it was found to be a file: to open it must not wait for a writer."""
    path = tmp_path / "m"
    path.touch()
    script = f"""
        import os, stat
        import fastrnn
        path, real = {str(path)!r}, os.stat
        def late(*arguments, **options):
            found = real(*arguments, **options)
            if arguments[:1] == (path,) and stat.S_ISREG(found.st_mode):
                os.remove(path)
                os.mkfifo(path)
            return found
        os.stat = late
        try:
            fastrnn.load(path)
        except fastrnn.FormatError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=20)
    assert run.stdout == f"{path} is not a file\n", run.stderr


# ---- what killed processes leave ----


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    script = f"""
        import os, signal
        from fastrnn import storage
        with storage.atomic_write({str(tmp_path / "file")!r}) as file:
            file.write(b"new")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=60)
    assert run.returncode == -signal.SIGKILL and len(os.listdir(tmp_path)) == 1
    with storage.atomic_write(tmp_path / "other"), storage.atomic_write(tmp_path / "file") as file:
        file.write(b"new")  # and what is being written stays
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_temporary_file_removed_before_it_is_locked(tmp_path, monkeypatch):
    """As when another process takes it for a stale one in that moment."""
    lock, calls = storage.fcntl.flock, []

    def late(file, operation):
        calls.append(operation)
        if len(calls) == 1:
            os.remove(file.name)
        lock(file, operation)

    monkeypatch.setattr(storage.fcntl, "flock", late)
    with storage.atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new" and len(calls) == 2


def test_writing_where_locks_are_unknown(tmp_path, monkeypatch):
    """As on Windows, which renames no open file: it is closed before it takes its place."""
    opened, replace = [], os.replace

    def closed(source, target):
        assert all(file.closed for file in opened)
        replace(source, target)

    monkeypatch.setattr(storage, "fcntl", None)
    monkeypatch.setattr(os, "replace", closed)
    (tmp_path / f"{storage._TEMPORARY}x{storage._UNFINISHED}").touch()
    with storage.atomic_write(tmp_path / "file") as file:
        opened.append(file)
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new" and len(os.listdir(tmp_path)) == 2


def test_writing_where_there_are_no_locks(tmp_path, monkeypatch):
    def fail(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(storage.fcntl, "flock", fail)
    (tmp_path / f"{storage._TEMPORARY}x{storage._UNFINISHED}").touch()
    with storage.atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new" and len(os.listdir(tmp_path)) == 2
