"""The page: which machines are sick, in a browser, by the standard library alone.

`server` starts it, `listener` bounds connections, `answers` answers, `access` says whom, `messages` makes what is
sent of the board. What the browser gets lies beside: `index.html`, `login.html`, scripts, a style sheet and uPlot.
"""

from fml_lightning.live.page.server import Page

__all__ = ["Page"]
