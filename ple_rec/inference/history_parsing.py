"""Parser of histories in requests: lists of events, the oldest first, each with the values of its items and its age.

    "liked_videos": [{"video_id": "v7", "author_id": 3, "age": 7200}, {"video_id": "v9", "author_id": 4, "age": 60}]

An item has the values of the sparse feature of its name. The age is the time from the event to the request, in seconds.

Shape suffixes: N rows, E events of all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.config.schema import age_table
from ple_rec.data.encode import Encoder
from ple_rec.inference.feature_parsing import (
    MAX_BAG,
    MAX_VALUES,
    FeatureIds,
    FeatureParser,
    HistoryIds,
    object_schema,
    too_many_values,
    value_type,
)
from ple_rec.inference.request_error import RequestError, require_object
from ple_rec.inference.signature import EventList, InputFeature
from ple_rec.inference.value_types import VALUE_TYPES, FieldOf, Schema, check_types

AGE = "age"


class HistoryParser(FeatureParser):
    """Parser of a history, whose values are lists of objects.

    Args:
        feature: Input feature of the model.
        events: Events of the history.
        encoder: Encoder that maps the raw values of the items to ids.

    Raises:
        ValueError: The encoder expects values of another type than an item's.
    """

    def __init__(self, feature: InputFeature, events: EventList, encoder: Encoder) -> None:
        super().__init__(feature)
        self._events, self._encoder = events, encoder
        self._types = {item.name: value_type(encoder, item.name, item.type) for item in events.items}
        self._keys = (*self._types, AGE)

    @property
    def schema(self) -> Schema:
        """JSON schema of a list of events. JSON schemas cannot require that ages do not grow; `parse` checks it."""
        age = {"type": "number", "minimum": 0, "description": "seconds from the event to the request"}
        event = object_schema({name: each.schema for name, each in self._types.items()} | {AGE: age})
        text = f"events, the oldest first; of a longer list, the last {self._events.length} are used"
        return {
            "type": ["array", "null"],
            "items": event | {"required": [AGE]},
            "maxItems": MAX_BAG,
            "description": text,
        }

    def parse(self, values: Sequence[Any], field_of: FieldOf) -> HistoryIds:
        """Return the ids of the items and of the ages of all events. A null is an empty history."""
        lengths: list[int] = []
        count = 0
        for i, value in enumerate(values):
            if value is not None and not isinstance(value, list):
                raise RequestError(field_of(i), value, f"a list of events, objects with {', '.join(self._keys)}")
            if value is not None and len(value) > MAX_BAG:
                raise RequestError(field_of(i), value, f"at most {MAX_BAG:,} events", counted=f"{len(value):,} events")
            lengths.append(len(value or ()))
            count += lengths[-1]
            if count > MAX_VALUES:
                raise too_many_values(count, field_of(i))
        offsets_N = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        events = list(chain.from_iterable(value or () for value in values))

        def field_of_event(e: int) -> str:
            """Return the path of an event of all rows together, for example `user.liked_videos[0]`."""
            i = int(np.searchsorted(offsets_N, e, side="right")) - 1
            return f"{field_of(i)}[{e - offsets_N[i]}]"

        keys = set(self._keys)
        for e, event in enumerate(events):
            if type(event) is not dict or not event.keys() <= keys:
                require_object(event, field_of_event(e), self._keys)
        ids = {}
        for name, kind in self._types.items():
            raw = kind.to_array([event.get(name) for event in events], partial(_field_of_item, field_of_event, name))
            ids[name] = self._encoder.rows(name, raw, name).to_numpy(zero_copy_only=False)
        return history_ids(self.feature, self._events, offsets_N, ids, self._ages(events, offsets_N, field_of_event))

    def _ages(
        self, events: Sequence[Mapping[str, Any]], offsets_N: NDArray[np.int64], field_of_event: FieldOf
    ) -> NDArray[np.float64]:
        """Return the ages of events, and refuse ages that are missing, negative, or grow within a row."""
        ages, field_of = [event.get(AGE) for event in events], partial(_field_of_item, field_of_event, AGE)
        rule = "a number of seconds from the event to the request, 0 or more"
        check_types(ages, set(map(type, ages)), {int, float}, rule, field_of)
        ages_E: NDArray[np.float64] = VALUE_TYPES["number"].to_array(ages, field_of).to_numpy(zero_copy_only=False)
        if (bad_E := ~(ages_E >= 0)).any():
            e = int(bad_E.argmax())
            raise RequestError(field_of(e), ages[e], rule)
        grows_E = np.zeros(len(ages_E), np.bool_)
        grows_E[1:] = ages_E[1:] > ages_E[:-1]
        grows_E[offsets_N[:-1][np.diff(offsets_N) > 0]] = False  # The first event of a row has none before it.
        if grows_E.any():
            e = int(grows_E.argmax())
            rule = (
                f"at most {ages[e - 1]}, the age of the event before it, since the oldest comes first; reverse the list"
            )
            raise RequestError(field_of(e), ages[e], rule)
        return ages_E


def _field_of_item(field_of_event: FieldOf, name: str, e: int) -> str:
    """Return the path of a value of an event, for example `user.liked_videos[0].video_id`."""
    return f"{field_of_event(e)}.{name}"


def history_ids(
    feature: InputFeature,
    events: EventList,
    offsets_N: NDArray[np.int64],
    item_ids: Mapping[str, NDArray[np.int32]],
    ages_E: NDArray[Any],
) -> HistoryIds:
    """Return the column of a history from the last events of each row.

    Args:
        feature: Input feature of the model.
        events: Events of the history.
        offsets_N: Index of the first event of each row, and at last the number of all events.
        item_ids: Table rows of each item, by name of its feature.
        ages_E: Ages in seconds.
    """
    ids = {f"{feature.name}.{name}": ids_E for name, ids_E in item_ids.items()}
    age_ids_E = np.searchsorted(np.array(events.age_edges), ages_E, side="right").astype(np.int32) + np.int32(1)
    ids[age_table(feature.name)] = age_ids_E
    lengths_N = np.minimum(np.diff(offsets_N), events.length)
    # Offsets of the lists after they are cut to their last `length` events.
    cut_offsets_N = np.concatenate([[0], np.cumsum(lengths_N)])
    if cut_offsets_N[-1] < offsets_N[-1]:
        places_E = np.repeat(offsets_N[1:] - cut_offsets_N[1:], lengths_N) + np.arange(cut_offsets_N[-1])
        ids = {name: ids_E[places_E] for name, ids_E in ids.items()}
    return HistoryIds({name: FeatureIds(ids_E, cut_offsets_N) for name, ids_E in ids.items()})
