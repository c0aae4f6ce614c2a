"""Environments in which results must be the same bits as in the plain one."""

from typing import NamedTuple

_LIMIT = "import resource; resource.setrlimit(resource.{0}, ({1}, {1}))"
_C_LOCALE = {"LC_ALL": "C", "LANG": None, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}


class Setting(NamedTuple):
    """Variables (None: unset), the interpreter's options, and Python code that runs before anything is imported."""

    name: str
    variables: dict[str, str | None] = {}
    flags: tuple[str, ...] = ()
    preparation: str = ""
    file: str | None = None  # what must be said where a file can't be saved


SETTINGS = [
    Setting("-O", flags=("-O",)),
    Setting("-OO", flags=("-OO",)),
    Setting("warnings as errors", flags=("-W", "error")),
    Setting("-I", flags=("-I",)),
    Setting("-bb", flags=("-bb",)),
    Setting("-X dev", flags=("-X", "dev", "-W", "error")),
    Setting("no HOME", {"HOME": None, "XDG_CACHE_HOME": None}),
    Setting("HOME that is no folder", {"HOME": "/dev/null"}),
    Setting("locale C", _C_LOCALE),
    Setting("locale C with -W error", _C_LOCALE, ("-W", "error")),
    Setting("locale that does not exist", {"LC_ALL": "xx_XX.UTF-8"}),
    Setting("one thread", {"NUMBA_NUM_THREADS": "1"}),
    Setting("more threads than cores", {"NUMBA_NUM_THREADS": "7"}),
    Setting("one core", preparation="import os\nif hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, "
            "[min(os.sched_getaffinity(0))])"),
    Setting("threading layer workqueue", {"NUMBA_THREADING_LAYER": "workqueue"}),
    Setting("hash seed", {"PYTHONHASHSEED": "12345"}),
    Setting("time zone", {"TZ": "Pacific/Kiritimati"}),
    Setting("no bytecode", {"PYTHONDONTWRITEBYTECODE": "1"}),
    Setting("no TMPDIR", {"TMPDIR": "/nowhere", "TEMP": "/nowhere", "TMP": "/nowhere"}),
    Setting("stdin closed", preparation="import os; os.close(0)"),
    Setting("stdout closed", preparation="import os; os.close(1)"),
    Setting("stderr closed", preparation="import os; os.close(2)"),
    Setting("no streams", preparation="import sys; sys.stdin = sys.stdout = sys.stderr = None"),
    Setting("another folder", preparation="import os; os.chdir('/')"),
    Setting("a folder that is gone",
            preparation="import fastrnn, os, tempfile; f = tempfile.mkdtemp(); os.chdir(f); os.rmdir(f)"),
    Setting("64 open files", preparation=_LIMIT.format("RLIMIT_NOFILE", 64)),
    Setting("8 GB of address space", preparation=_LIMIT.format("RLIMIT_AS", 8 << 30)),
    Setting("no core files", preparation=_LIMIT.format("RLIMIT_CORE", 0)),
    Setting("umask 077", preparation="import os; os.umask(0o077)"),
    Setting("no tqdm", preparation="import sys; sys.modules['tqdm'] = None"),
    Setting("no safetensors", preparation="import sys; sys.modules['safetensors'] = None", file="safetensors"),
    Setting("switching threads often", preparation="import sys; sys.setswitchinterval(1e-6)"),
    Setting("tracing", preparation="import sys; sys.settrace(lambda *_: None)"),
    Setting("no garbage collection", preparation="import gc; gc.disable()"),
    Setting("little depth of calls", preparation="import sys; sys.setrecursionlimit(400)"),
    Setting("Ctrl-C ignored", preparation="import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"),
]  # fmt: skip
