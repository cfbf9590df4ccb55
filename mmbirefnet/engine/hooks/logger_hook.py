"""The log of a test in several processes."""

from mmengine.dist import master_only
from mmengine.hooks import LoggerHook

from mmbirefnet.registry import HOOKS


@HOOKS.register_module()
class RankZeroLoggerHook(LoggerHook):
    """mmengine's ``LoggerHook``, but rank 0 alone logs the scores of a test and writes their JSON file.

    In mmengine, all ranks write the same file at the same time. They measure different times, so one can leave its last
    characters behind the shorter text of another, and JSON parsers reject the file.
    """

    after_test_epoch = master_only(LoggerHook.after_test_epoch)
