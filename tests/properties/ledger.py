"""What one reader was handed, held against the log: every number once, or a gap that fits."""

from fastapi_broadcaster import Gap

Range = tuple[float, float]


class Ledger:
    """Follows one channel, whose log is the numbers from 1 on.

    `at` is where the reader stands, as far as one can know: behind the number `at[0]` at least,
    `at[1]` at most. With `by_entry` the log proves that nothing is missing by the message itself
    that the reader has: who comes back when just that one is gone is told a gap of nothing.
    """

    def __init__(self, at: Range, *, by_entry: bool = False) -> None:
        self.at = at
        self._low = at[0]
        self._least = 0 if by_entry else 1
        self.items: list[object] = []

    def __repr__(self) -> str:
        return f"Ledger({self.items}, at={self.at})"

    def hand(self, item: int | Gap, *, trimmed: float = float("inf")) -> None:
        """Enter what the reader was handed, when at most `trimmed` messages were gone."""
        self.items.append(item)
        if isinstance(item, Gap):
            self._pass(item, trimmed)
        else:
            self._meet(item, "handed on")
            self.at = (item, item)
            self._low = item

    def _pass(self, gap: Gap, trimmed: float) -> None:
        low, high = self.at
        assert gap.reason in ("slow", "expired"), f"a gap that nothing has caused: {self}"
        if gap.reason == "expired":
            least = 1 if gap.missed is not None else self._least
            assert trimmed >= low + least, f"a gap, and all is there: {trimmed} trimmed, {self}"
        if gap.missed is None:
            self.at = (low + self._least, float("inf"))
        else:
            assert gap.missed > 0, f"a gap without anything missing: {self}"
            self.at = (low + gap.missed, high + gap.missed)
        if gap.reason != "slow":
            self._low = self.at[0]

    def _meet(self, number: int, what: str) -> None:
        low, high = self.at
        assert number > low, f"{number} {what} again, or a gap that says too much: {self}"
        assert number <= high + 1, f"{number} {what}, something before it was lost: {self}"

    @property
    def resumed(self) -> Range:
        """Where somebody stands who goes on with this reader's id: what it was too slow for may
        be had again."""
        return (self._low, self.at[1])

    def end(self, last: int) -> None:
        """The reader has taken all that there is."""
        self._meet(last + 1, "is next")
