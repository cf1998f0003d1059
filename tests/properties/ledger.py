"""What one reader was handed, held against the log: every number once, or a gap that fits."""

from fastapi_broadcaster import Gap

Range = tuple[float, float]


class Ledger:
    """Follows one channel, whose log is the numbers from 1 on.

    `at` is where the reader stands, as far as one can know: behind the number `at[0]` at least,
    `at[1]` at most.
    """

    def __init__(self, at: Range) -> None:
        self.at = at
        self._low = at[0]
        self.items: list[object] = []

    def __repr__(self) -> str:
        return f"Ledger({self.items}, at={self.at})"

    def hand(self, item: int | Gap) -> None:
        self.items.append(item)
        if isinstance(item, Gap):
            self._pass(item)
        else:
            self._meet(item, "handed on")
            self.at = (item, item)
            self._low = item

    def _pass(self, gap: Gap) -> None:
        low, high = self.at
        if gap.missed is None:
            self.at = (low + 1, float("inf"))
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
