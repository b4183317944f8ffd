"""What a component refuses."""

from torchx.specs.finder import ComponentValidationException


def refused(value: str, rule: str, fix: str) -> ComponentValidationException:
    """The one exception that `torchx run` shows without a traceback.

    Args:
        value: The arguments, as they were given.
        rule: What is allowed.
        fix: What to do about it.
    """
    return ComponentValidationException(f"{value}; {rule}. Fix: {fix}")
