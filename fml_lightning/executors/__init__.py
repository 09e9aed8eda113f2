"""Where the work of a site runs.

Read `work` (what a round asks and answers), `executor` (the contract), `site_work` (what happens at a site) and
`site_memory` (what a site keeps); then `serial`. `isolation` and `signals` keep a site's work apart from the
process that it runs in, and `kept_statistics` has what features are standardized by in checkpoints.

Of sites on hosts of their own: `wire` (bytes), `messages` (what they say), `agreement` (what server and sites
must have alike), `consent` (what a site allows) and `stamps` (which requests are new); then `site_process`,
which uses them all at the site, `nvflare/`, which carries the messages, and `release` (what a site gets of a
run).

Names are imported when first used: NVFlare's processes load `nvflare/` without torch.
"""

from typing import TYPE_CHECKING

from fml_lightning.lazy import attach

if TYPE_CHECKING:
    from fml_lightning.executors.executor import Executor
    from fml_lightning.executors.nvflare.executor import NVFlareExecutor
    from fml_lightning.executors.serial import SerialExecutor
    from fml_lightning.executors.site_memory import SiteMemory
    from fml_lightning.executors.work import SiteFailure, SiteUpdate, Work

__all__ = ["Executor", "NVFlareExecutor", "SerialExecutor", "SiteFailure", "SiteMemory", "SiteUpdate", "Work"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "executor": "Executor",
        "nvflare.executor": "NVFlareExecutor",
        "serial": "SerialExecutor",
        "site_memory": "SiteMemory",
        "work": "SiteFailure SiteUpdate Work",
    },
)
