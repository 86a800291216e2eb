"""progress(steps): how far long work is, its rate and the time left; on a terminal or in a file."""

import os
import sys

from tqdm import tqdm

LINE_EVERY = 60                                   # seconds
QUIET = os.environ.get("RANK", "0") != "0"        # one process of several talks


class Lines(tqdm):
    """tqdm's line with rate and time left, now and then, where nothing can move back over it."""
    monitor_interval = 0                          # else a thread prints where steps take long

    def display(self, msg=None, pos=None):
        print(f"  {self}", flush=True)

    def close(self):
        self.disable = True                       # no last line: what comes next says it all


def progress(steps=None, **options):
    """The steps behind a bar with rate and time left, of rank 0 alone; in a file, lines."""
    if sys.stderr.isatty():
        return tqdm(steps, disable=QUIET, mininterval=2, **options)
    return Lines(steps, disable=QUIET, mininterval=LINE_EVERY, miniters=1, delay=LINE_EVERY,
                 ncols=78, ascii=True, dynamic_ncols=False, **options)
