"""The progress bar of training, if tqdm is installed."""

from __future__ import annotations

import contextlib
import logging
import sys

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def progress_bar(wanted, batches, epochs, done):
    """A function that shows a record: on a bar if one is wanted and there is what it takes, else not at all."""
    if wanted:
        try:
            from tqdm.asyncio import tqdm as terminal_bar
            from tqdm.auto import tqdm  # the same, but in notebooks
            from tqdm.contrib.logging import logging_redirect_tqdm
        except ImportError:
            _log.warning("no progress bar: it needs tqdm: pip install tqdm (extra fastrnn[train])")
            wanted = False
    if not wanted:
        yield lambda trainer, record: None
        return
    options = {"total": len(batches) * epochs if hasattr(batches, "__len__") else None, "initial": done}
    disable = None if tqdm is terminal_bar else False  # None: where there is no terminal
    with tqdm(**options, unit="batch", dynamic_ncols=True, disable=disable) as bar, contextlib.ExitStack() as stack:
        if not bar.disable:  # log records that are shown go above the bar
            loggers = [log for log in (logging.root, logging.getLogger("fastrnn")) if _shows_on_console(log)]
            stack.enter_context(logging_redirect_tqdm(loggers, tqdm_class=tqdm))

        def show(trainer, record):
            if "loss" in record:
                bar.set_postfix(loss=f"{record['loss']:.4g}", refresh=False)
                bar.update()

        yield show


def _shows_on_console(logger):
    return any(getattr(handler, "stream", None) in (sys.stdout, sys.stderr) for handler in logger.handlers)
