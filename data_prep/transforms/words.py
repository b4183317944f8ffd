"""Expressions of a configuration of data preparation by key, and the tables to which their words refer.

A key is the key of an expression in the configuration, such as `tasks[0].label`. A word is a name in an expression,
such as `duration`, `user.age` (a column of the side table `user`) or `time.day`.
"""

from __future__ import annotations

from collections.abc import Callable

from data_prep.expressions import Expression, parse, word_to_column
from data_prep.expressions.syntax import quoted_name
from ple_rec.config.prep import DaySplit, HeldOutSplit, PrepConfig
from ple_rec.errors import UserError
from ple_rec.text.suggest import did_you_mean

THRESHOLD = "threshold"  # Word by which the expression of a label reads its threshold.
ROW_TIME = "time"  # Word for the time of the row, unless the log has a column of this name.
TIME_WORDS = ("time.day", "time.hour", "time.weekday")
# Keys of what is computed from earlier rows, so that it must not read what later rows decide.
_OF_EARLIER_ROWS = ("rates[", "histories[")


def expression_texts(config: PrepConfig) -> dict[str, str]:
    """Return the text of every expression of a configuration by its key.

    A feature or a label without an expression is read from the column of its own name.
    """
    texts: dict[str, str | None] = {"log.where": config.log.where}
    for name, side in config.sides.items():
        texts |= {f"sides.{name}.on.{column}": text for column, text in side.on.items()}
        texts[f"sides.{name}.day"] = side.day
    if config.time is not None:
        texts["time.value"] = config.time.value
    texts |= {f"derived.{name}": text for name, text in config.derived.items()}
    if isinstance(config.split, DaySplit):
        texts["split.valid_hash"] = config.split.valid_hash
    elif isinstance(config.split, HeldOutSplit):
        texts["split.hash"] = config.split.hash
    else:
        texts["split.value"] = config.split.value
    texts |= {f"checks.{name}": text for name, text in config.checks.items()}
    for i, feature in enumerate(config.sparse):
        texts[f"sparse[{i}].value"] = quoted_name(feature.name) if feature.value is None else feature.value
        texts[f"sparse[{i}].weights"] = feature.weights
    for i, number in enumerate(config.dense_features):
        texts[f"dense[{i}].value"] = quoted_name(number.name) if number.value is None else number.value
    for i, vector in enumerate(config.vectors):
        texts[f"vectors[{i}].value"] = quoted_name(vector.name) if vector.value is None else vector.value
    for i, rate in enumerate(config.rates):
        texts |= {f"rates[{i}].key[{j}]": text for j, text in enumerate(rate.key)}
        texts[f"rates[{i}].of"] = rate.of
    for i, history in enumerate(config.histories):
        texts |= {f"histories[{i}].key": history.key, f"histories[{i}].where": history.where}
    for i, task in enumerate(config.tasks):
        if task.threshold is not None:
            texts[f"tasks[{i}].threshold.value"] = task.threshold.value
            texts[f"tasks[{i}].threshold.by"] = task.threshold.by
        texts[f"tasks[{i}].label"] = quoted_name(task.name) if task.label is None else task.label
        texts[f"tasks[{i}].space"] = task.space
    texts |= {"weight": config.weight} | dict(zip(group_keys(config), config.group_entries, strict=True))
    if config.sampling is not None:
        texts["sampling.keep"] = config.sampling.keep
        texts |= {f"sampling.hash[{i}]": text for i, text in enumerate(config.sampling.hash)}
    texts |= {f"carry.{name}": text for name, text in config.carry.items()}
    return {key: text for key, text in texts.items() if text is not None}


def group_keys(config: PrepConfig) -> list[str]:
    """Return the keys of the expressions of `group`: `group[0]`, `group[1]` of a list, or `group` of one expression."""
    if isinstance(config.group, str):
        return ["group"]
    return [f"group[{i}]" for i in range(len(config.group_entries))]


def parse_expressions(config: PrepConfig) -> tuple[dict[str, Expression], list[str]]:
    """Return the valid expressions by key, and the problems of the others."""
    parsed: dict[str, Expression] = {}
    problems: list[str] = []
    for key, text in expression_texts(config).items():
        try:
            expression = parse(text, key, word_qualifiers(config))
            for word in expression.columns:
                _check_order(key, text, word, config)
            parsed[key] = expression
        except UserError as error:
            problems.append(str(error))
    return parsed, problems


def word_qualifiers(config: PrepConfig) -> tuple[str, ...]:
    """Return the names that may stand before a dot in a word, as in `time.day` or, for a side table, `user.age`."""
    return ("time", *config.sides, *config.counted_tables)


def is_rate_word(word: str, config: PrepConfig) -> bool:
    """Return True if a word names a column of a table that rates are counted in, such as `by_video_id.like_rate`."""
    table, _, column = word.partition(".")
    return bool(column) and table in config.counted_tables


def locate_word(key: str, word: str, config: PrepConfig) -> tuple[str | None, str]:
    """Return the table and the column to which a word in the expression at a key refers.

    The table is None for a value that is computed: a derived column, a part of the time, a threshold, or a rate.
    """
    name = word_to_column(word)
    if key.startswith("sides.") and key.endswith(".day"):
        # The day of a side table is computed from its own rows, whose columns have no qualifier there.
        return key.split(".")[1], name
    if name != word:  # A word in double quotes, which always names a column of the log.
        return "log", name
    if word in config.derived or word in TIME_WORDS or (word == THRESHOLD and _may_read_threshold(key, config)):
        return None, word
    if is_rate_word(word, config):
        return None, word
    side, _, inner = word.partition(".")
    return (side, inner) if inner and side in config.sides else ("log", word)


def _check_order(key: str, text: str, word: str, config: PrepConfig) -> None:
    """Check that the value of a word in an expression is computed before the expression.

    `log.where` and the join keys of side tables are computed first, then the time, then derived columns in their order,
    then rates, which only features, carried columns and the conditions of histories may read, then histories.

    Raises:
        UserError: The word is computed later, or never.
    """
    table, _ = locate_word(key, word, config)
    lacks_time = config.time is None and table is None and word in TIME_WORDS
    is_computed_first = key == "log.where" or is_join_key(key, config)
    decides_on_side_row = key == "time.value" and any(side.day is not None for side in config.sides.values())

    def refuse(rule: str, fix: str) -> None:
        raise UserError(key, f"`{text}` reads {word}", rule, fix)

    if is_rate_word(word, config):
        _check_rate_word(key, word, config, refuse)
    elif key.startswith(_OF_EARLIER_ROWS) and word == THRESHOLD and any(task.threshold for task in config.tasks):
        what = "rate" if key.startswith("rates[") else "history"
        refuse(f"a threshold is a quantile of all training days, so a {what} must not see it", "compare with a number")
    elif lacks_time:
        refuse("words such as time.day need the section [time]", "add [time]")
    elif is_computed_first and table != "log":
        fix = "use only columns of the log in it"
        if key == "log.where":
            fix += '; or remove such rows by a rule in [checks], with on_bad_row = "drop" and a max_bad_fraction'
        refuse("it is computed before side tables are joined, and before [time] and [derived]", fix)
    elif decides_on_side_row and table not in (None, "log"):
        refuse("dated side tables are joined by the time, so it cannot depend on them", "take the time from the log")
    elif key == "time.value" and table is None:
        refuse("the time is computed before all derived columns", "use only columns of the log in it")
    elif key.startswith("derived.") and word in config.derived and table is None:
        name, names = key.removeprefix("derived."), list(config.derived)
        rule = "a derived column may read columns and the derived columns above it"
        if word == name:
            refuse(f"{rule}, not itself", other_name_fix(name))
        elif names.index(word) > names.index(name):
            refuse(rule, f"write derived.{word} above derived.{name}")


def _check_rate_word(key: str, word: str, config: PrepConfig, refuse: Callable[[str, str], None]) -> None:
    """Refuse a word of a counted table that has no such column, or in an expression that is computed before rates."""
    table, _, column = word.partition(".")
    known = config.counted_tables[table].columns
    if column not in known:
        refuse(f"{table} has the columns {', '.join(known)}", did_you_mean(column, known) or "name one of them")
    if not key.startswith(("sparse[", "dense[", "carry.")) and not key.endswith("].where"):
        readers = "features, [carry] and the conditions of histories"
        refuse(f"rates are counted after it is computed; only {readers} may read them", "leave it out")


def is_join_key(key: str, config: PrepConfig) -> bool:
    """Return True if the expression at a key is what a key column of a side table must equal."""
    return any(key == f"sides.{name}.on.{column}" for name, side in config.sides.items() for column in side.on)


def other_name_fix(name: str) -> str:
    """Return the fix for a derived column whose name means something else."""
    return f"choose another name, e.g. derived.{name}_2, and use it wherever the derived column is read"


def _may_read_threshold(key: str, config: PrepConfig) -> bool:
    return any(key == f"tasks[{i}].label" and task.threshold is not None for i, task in enumerate(config.tasks))
