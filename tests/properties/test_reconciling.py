"""Whoever may go on is really live on the same connection, and nothing is left at the end."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st

from fastapi_broadcaster import BackendError, Backoff, Message, PatternBackend
from fastapi_broadcaster._hub import Entry, Hub
from fastapi_broadcaster._listener import Listener
from fastapi_broadcaster._reconciler import Reconciler, _Kind
from fastapi_broadcaster._targets import Target
from fastapi_broadcaster.backends.base import Outcome
from fastapi_broadcaster.exceptions import ConnectionLostError
from fastapi_broadcaster.messages import Cursor, Gap
from fastapi_broadcaster.serializers import TEXT
from tests.properties.trial import fails, holds
from tests.properties.virtual_time import run

LINGER = 0.3
FORBIDDEN = "c3"  # the broker refuses this one, and with it the whole command


class Broker(PatternBackend):
    """Loses its connection whenever `kill` is called; a command that is under way may go on."""

    def __init__(self, die: random.Random) -> None:
        self.die = die
        self.live: set[str] = set()
        self.known: set[str] = set()  # what it will go on with after a loss
        self.calls = 0
        self.generation = 0
        self.down = asyncio.Event()
        self.down.set()

    def kill(self) -> None:
        self.live.clear()
        self.down.set()

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        await self._pause()
        self.generation += 1
        self.down.clear()
        yield ()
        await self.down.wait()
        await self._pause()
        raise ConnectionLostError("killed")

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        self.calls += 1
        await self._pause()
        self._check()
        if FORBIDDEN in channels:
            raise BackendError("not this one")
        self.live.update(channels)
        self.known.update(channels)
        await self._pause()  # the answer may come from a connection that is gone by now
        return {}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self.calls += 1
        await self._pause()
        self._check()
        self.live.difference_update(channels)
        self.known.difference_update(channels)
        await self._pause()

    async def psubscribe(self, patterns: Collection[str]) -> None:
        await self.subscribe(patterns)

    async def punsubscribe(self, patterns: Collection[str]) -> None:
        await self.unsubscribe(patterns)

    def _check(self) -> None:
        if self.down.is_set():
            raise ConnectionLostError("it is down")

    async def _pause(self) -> None:
        for _ in range(self.die.randrange(4)):
            await asyncio.sleep(0)
        if self.die.random() < 0.1:
            await asyncio.sleep(0.4)  # longer than a new connection takes

    async def connect(self) -> None: ...

    async def disconnect(self) -> None: ...

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return [None for _ in messages]


@dataclass(frozen=True)
class Case:
    """`steps`: one letter each. Come (1 to 3 channels), yield, cancel, kill, let time pass."""

    steps: str
    seed: int
    targets: Sequence[str] = field(default=("c0", "c1", "c2", FORBIDDEN, "p*"))


CASES = st.builds(
    Case,
    steps=st.text("UUUUYYYYCKT", min_size=3, max_size=80),
    seed=st.integers(0, 2**32),
)


class World:
    """The engine's middle: hub, reconciler and listener, and users that come and go."""

    def __init__(self, case: Case, hub: type[Hub], reconciler: type[Reconciler]) -> None:
        self.case = case
        self.die = random.Random(case.seed)
        self.broker = Broker(self.die)
        self.changes = 0
        self.hub = hub(
            linger=LINGER, format=None, tags_patterns=False, wanted_changed=self._changed
        )
        self.listener = Listener(self.broker, self.hub, backoff=Backoff(0.1, 0.2))
        self.reconciler = reconciler(self.broker, restored=self.listener._restored)
        self.listener.reconciler = self.reconciler
        self.reconciler.watch(self.hub)
        self.users: list[asyncio.Task[None]] = []

    def _changed(self, entry: Entry) -> None:
        self.changes += 1
        self.reconciler.wanted_changed(entry)

    async def user(self) -> None:
        names = self.die.sample(self.case.targets, self.die.randint(1, 3))
        targets = [Target(name, TEXT, is_pattern=name == "p*") for name in names]
        entries = self.hub.acquire(targets)
        try:
            for entry in entries:
                await entry.wait_ready()
                self._check_live(entry)
            await asyncio.sleep(self.die.choice([0, 0, 0.1, 1]))
            for entry in entries:
                self._check_live(entry)
        except BackendError:
            if FORBIDDEN not in names:
                raise
        finally:
            self.hub.release(entries)

    def _check_live(self, entry: Entry) -> None:
        broker = self.broker
        connected = not broker.down.is_set() and self.listener.is_open()
        if connected and entry.ready.done() and entry.ready.exception() is None:
            assert entry.name in broker.live, f"{entry.name} may go on but is not live"

    async def play(self) -> None:
        running = [asyncio.create_task(work.run()) for work in (self.listener, self.reconciler)]
        for step in self.case.steps:
            await self._step(step)
        users = asyncio.gather(*self.users, return_exceptions=True)
        try:
            outcomes = await asyncio.wait_for(users, 60)
        except TimeoutError:
            raise AssertionError("somebody waits for ever") from None
        failures = [one for one in outcomes if isinstance(one, Exception)]
        assert not failures, failures
        await asyncio.sleep(10)
        self.judge()
        for task in running:
            task.cancel()
        await asyncio.wait(running)

    async def _step(self, step: str) -> None:
        match step:
            case "U":
                self.users.append(asyncio.create_task(self.user()))
            case "C" if self.users:
                self.die.choice(self.users).cancel()
            case "K":
                self.broker.kill()
            case "T":
                await asyncio.sleep(self.die.random())
            case _:
                await asyncio.sleep(0)

    def judge(self) -> None:
        assert not self.hub.channels, "entries are left"
        assert not self.hub.patterns, "entries are left"
        assert not self.broker.live, "the broker still sends what nobody hears"
        assert not self.broker.known, "the backend keeps the position of what nobody hears"
        assert not any(kind.actual for kind in self.reconciler._kinds), "names are left"
        assert self.listener.is_open(), "publishers would wait for ever"
        refusals = self.case.steps.count("U") * (len(self.case.targets) + 1)
        most = 2 * self.changes + 4 * self.broker.generation + refusals
        assert self.broker.calls <= most, f"{self.broker.calls} calls"


def play(case: Case, hub: type[Hub] = Hub, reconciler: type[Reconciler] = Reconciler) -> None:
    async def main() -> None:
        await World(case, hub, reconciler).play()

    run(main())


def check(case: Case) -> None:
    play(case)


def test_storms_of_subscribers_and_losses_leave_everybody_live_and_nothing_behind() -> None:
    holds(check, CASES, examples=500)


class NotRenewing(Hub):
    """Wrong: after a loss an entry counts as ready from before, and nobody waits."""

    def lost(self) -> None: ...


class AnyGeneration(Reconciler):
    """Wrong: a subscription counts although the connection that it was made on is gone."""

    async def _subscribe(self, kind: _Kind) -> None:
        if entries := kind.missing():
            cursors = await kind.subscribe(list(entries))
            for name, entry in entries.items():
                self._settle(kind, name, entry, (cursors or {}).get(name))


class Forgetful(Reconciler):
    """Wrong: forgets on a loss what was live, so nobody tells the backend to let go of it."""

    def lost(self) -> None:
        super().lost()
        for kind in self._kinds:
            kind.stale.clear()


class Inattentive(Reconciler):
    """Wrong: after a loss it looks only at what changes from then on."""

    def lost(self) -> None:
        super().lost()
        for kind in self._kinds:
            kind.changed.clear()


PLAIN = CASES.map(lambda case: Case(case.steps, case.seed, ("c0", "c1", "c2")))


@pytest.mark.parametrize(
    ("hub", "reconciler"),
    [(NotRenewing, Reconciler), (Hub, AnyGeneration), (Hub, Forgetful), (Hub, Inattentive)],
    ids=["futures not renewed", "no generation check", "losses forgotten", "not looked again"],
)
def test_the_property_finds_wrong_variants(hub: type[Hub], reconciler: type[Reconciler]) -> None:
    fails(lambda case: play(case, hub, reconciler), PLAIN)


def test_five_hundred_subscribers_cost_one_command_each_way() -> None:
    async def main() -> None:
        world = World(
            Case("", 0, tuple(f"c{number + 100}" for number in range(500))), Hub, Reconciler
        )
        running = [asyncio.create_task(work.run()) for work in (world.listener, world.reconciler)]
        await world.listener.wait_open()
        world.users = [asyncio.create_task(world.user()) for _ in range(500)]
        await asyncio.sleep(0.01)
        assert world.broker.calls <= 2
        await asyncio.gather(*world.users)
        await asyncio.sleep(10)
        world.judge()
        for task in running:
            task.cancel()
        await asyncio.wait(running)

    run(main())
