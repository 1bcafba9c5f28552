"""A conversation as a tree of turns, of which each turn continues one path (docs/protocol.md, Branches)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from gateway.core.inputs import AssistantInput, ModelInput
from gateway.core.tokens import Count, Weight, guess
from gateway.core.turn_inputs import EVERYTHING, inputs_of
from protocol.frames import DurableEvent, Message, TurnEnd

__all__ = ["Incomplete", "Node", "Thread", "chosen_path"]


_PLAUSIBLE: Final = 3


class Incomplete(Exception):
    """The path leads to what is not loaded: older events are wanted."""


class Node:
    """A turn, or a message without one. `place` rises in the order in which they ended (0: it has not), `previous` is
    the one that ended before it, on whatever path. While it runs, `reads` is the last steering message that its next
    step is given."""

    __slots__ = ("_inputs", "_weighed_by", "_weight", "events", "id", "place", "previous", "reads")

    def __init__(self, id: str) -> None:
        self.id = id
        self.events: list[DurableEvent] = []
        self.place = 0
        self.previous: Node | None = None
        self.reads: str | None = EVERYTHING
        self._inputs: list[ModelInput] | None = None
        self._weight = Weight()
        self._weighed_by: Count | None = None

    def changed(self) -> None:
        self._inputs = self._weighed_by = None

    @property
    def first(self) -> Message | None:
        """What the turn answers; None for a direct tool call, or where the beginning is not loaded."""
        first = self.events[0]
        return first if isinstance(first, Message) and first.role != "assistant" else None

    @property
    def whole(self) -> bool:
        """Whether it is loaded from its beginning."""
        first = self.events[0]
        return first.turn_id is None or getattr(first, "id", None) == self.id

    @property
    def inputs(self) -> list[ModelInput]:
        if self._inputs is None:
            self._inputs = inputs_of(self.events, self.reads)
        return self._inputs

    def weight(self, count: Count) -> Weight:
        """What it costs to give it to a model. What a model wrote was counted when it did."""
        if self._weighed_by is not count:
            self._weight = self._weigh(count)
            self._weighed_by = count
        return self._weight

    def _weigh(self, count: Count) -> Weight:
        counted = 0
        messages = iter([e for e in self.events if isinstance(e, Message) and e.role == "assistant"])
        guessed = 0.0
        for item in self.inputs:
            if not isinstance(item, AssistantInput):
                guessed += guess(item, count)
                continue
            message = next((m for m in messages if m.content == item.content), None)
            usage = message.usage if message is not None else None
            roughly = guess(item, count)
            written = usage.output_tokens - usage.reasoning_tokens if usage is not None else 0
            # Some providers count their thinking as text, which is not given to a model again.
            if 0 < written <= _PLAUSIBLE * roughly + 50:
                counted += written
                guessed += guess(AssistantInput(""), count)
            else:
                guessed += roughly
        return Weight(counted, guessed)


class Thread:
    """The turns of a context as far as they are loaded: from `oldest` to `newest` in the order of storing; `reaches`
    says that nothing is older. Events come in runs, in that order."""

    def __init__(self) -> None:
        self.oldest = 0
        self.newest = 0
        self.reaches = False
        self._nodes: dict[str, Node] = {}
        self._said_in: dict[str, Node] = {}
        self._last: Node | None = None
        self._first: Node | None = None
        self._reads: dict[str, str | None] = {}  # of the turns that run

    def __getitem__(self, id: str) -> Node:
        """The turn, or message without one, of that id. Raises KeyError where it is not loaded."""
        return self._nodes[id]

    @property
    def nodes(self) -> Iterable[Node]:
        return self._nodes.values()

    @property
    def last(self) -> Node | None:
        """What ended last."""
        return self._last

    def give(self, turn_id: str, reads: str | None) -> None:
        """The next step of this turn, which runs, is given the steering messages up to `reads`."""
        self._reads[turn_id] = reads
        node = self._nodes.get(turn_id)
        if node is not None and node.reads != reads:
            node.reads = reads
            node.changed()

    def newer(self, rows: Iterable[tuple[int, DurableEvent]]) -> None:
        """Take in what was stored since; what is known already is passed over."""
        for order, event in rows:
            if order <= self.newest:
                continue
            self.newest = order
            self.oldest = self.oldest or order
            node = self._add(event)
            if node is not None:
                node.events.append(event)
                if _ends(event):
                    self._end(node, order)

    def older(self, rows: Sequence[tuple[int, DurableEvent]], *, reaches: bool) -> None:
        """Take in what was stored just before `oldest`."""
        self.reaches = reaches
        if not rows:
            return
        self.oldest = rows[0][0]
        self.newest = self.newest or rows[-1][0]
        before: dict[str, list[DurableEvent]] = {}
        ended: list[Node] = []
        for order, event in rows:
            node = self._add(event)
            if node is None:
                continue
            before.setdefault(node.id, []).append(event)
            if _ends(event):
                node.place = order
                ended.append(node)
        for id, events in before.items():
            self._nodes[id].events[:0] = events
        if not ended:
            return
        for earlier, later in pairwise(ended):
            later.previous = earlier
        if self._first is not None:
            self._first.previous = ended[-1]
        else:
            self._last = ended[-1]
        self._first = ended[0]

    def _add(self, event: DurableEvent) -> Node | None:
        """The node that the event belongs to; None for what is no part of a conversation."""
        id = _node_id(event)
        if id is None:
            return None
        node = self._nodes.get(id)
        if node is None:
            node = self._nodes[id] = Node(id)
            node.reads = self._reads.get(id, EVERYTHING)
        if isinstance(event, TurnEnd):
            self._reads.pop(id, None)
            node.reads = EVERYTHING
        node.changed()
        if isinstance(event, Message):
            self._said_in[event.id] = node
        return node

    def _end(self, node: Node, order: int) -> None:
        node.place = order
        node.previous = self._last
        self._last = node
        if self._first is None:
            self._first = node

    # ---- paths

    def path(self, id: str) -> Iterator[Node]:
        """The turn, and what it continues, newest first. Raises Incomplete, and KeyError where there is no such turn
        though all is loaded."""
        node = self._nodes.get(id)
        if (node is None or not node.whole) and not self.reaches:
            raise Incomplete
        if node is None:
            raise KeyError(id)
        while node is not None:
            yield node
            node = self._before(node)

    def _before(self, node: Node) -> Node | None:
        """What the node continues: what it names, else what ended before it."""
        while True:
            first = node.first
            named = first.parent_id or first.replaces if first is not None else None
            found = self._said(named) if named is not None else None
            if found is None or not found.place or (node.place and found.place > node.place):
                # It had not ended when this one ran: it came after.
                return self._conversation(node.previous if node.place else self._last)
            if first is not None and first.parent_id is not None:
                return self._conversation(found)
            node = found  # it takes the place of that one

    def _said(self, message_id: str) -> Node | None:
        node = self._said_in.get(message_id)
        if (node is None or not node.whole) and not self.reaches:
            raise Incomplete
        return node

    def _conversation(self, node: Node | None) -> Node | None:
        """The node, or the nearest before it that a conversation is made of."""
        while node is not None:
            if not node.whole and not self.reaches:
                raise Incomplete
            if node.first is not None:
                return node
            node = node.previous
        if not self.reaches:
            raise Incomplete
        return None


def _node_id(event: DurableEvent) -> str | None:
    if event.turn_id is None and isinstance(event, Message):
        return event.id
    return event.turn_id


def _ends(event: DurableEvent) -> bool:
    return isinstance(event, TurnEnd) or (isinstance(event, Message) and event.turn_id is None)


def chosen_path(events: Sequence[DurableEvent]) -> list[DurableEvent]:
    """Of a context's events, oldest first, those of the newest turn and of what it continues; and what is no part of
    the conversation (calls that people made, changes of the context)."""
    thread = Thread()
    thread.older(list(enumerate(events, start=1)), reaches=True)
    asked = [event for event in events if isinstance(event, Message) and event.role != "assistant"]
    if not asked:
        return list(events)
    on = {node.id for node in thread.path(asked[-1].turn_id or asked[-1].id)}
    beside = {node.id for node in thread.nodes if node.first is None and node.whole}
    return [event for event in events if _node_id(event) in on or _node_id(event) in beside or not _node_id(event)]
