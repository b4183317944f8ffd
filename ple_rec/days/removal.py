"""Removal of datasets and runs of days that a chain no longer needs, on request (`keep`)."""

from __future__ import annotations

import logging

from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.days.chain import FIRST, Chain
from ple_rec.storage import explain_errors, remove_tree

logger = logging.getLogger(__name__)


def remove_old_days(chain: Chain, served_dataset: str, keep: int | None) -> None:
    """Remove the datasets and runs of old days, and the remains of a removal that was killed.

    Args:
        chain: Chain of days.
        served_dataset: Fingerprint of the dataset of the served version; its day stays, since the next day starts from
            its run.
        keep: Number of the newest days that stay; None to remove nothing, and say which days are no longer needed.
    """
    newest = chain.days[-1]
    if newest.name == FIRST:
        return
    needed = {each.name for each in chain.days[-(keep or 2) :]}
    needed |= {each.name for each in chain.days if each.fingerprint == served_dataset}
    names = [name for name in chain.folder_names() if name not in needed and (name == FIRST or name < newest.name)]
    old = sorted(names, key=lambda name: (name != FIRST, name))
    if not old:
        return
    if keep is None:
        listed = f"{old[0]} to {old[-1]}" if len(old) > 1 else old[0]
        logger.info(f"{chain.folder}: datasets and runs of {listed} are no longer needed; keep = 2 removes them")
        return
    for name in old:
        dataset = chain.dataset(name)
        with explain_errors(dataset, "removed", "keep says how many days stay"):
            # Without this file a dataset is incomplete, so a day that is removed in part is no day of the chain.
            (dataset / SUCCESS_FILE).unlink(missing_ok=True)
            remove_tree(chain.run(name))
            remove_tree(dataset)
    logger.info(f"{chain.folder}: removed the datasets and runs of {', '.join(old)}")
