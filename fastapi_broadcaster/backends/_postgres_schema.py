"""The tables, functions and triggers of `postgres-stream://`, as SQL."""

import hashlib
import re

from fastapi_broadcaster.backends._postgres import Connection
from fastapi_broadcaster.exceptions import BackendError

VERSION = 1
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,27}")


class Schema:
    """The names of one log: everything is called as its table, with an ending.

    Names are at most 28 lower-case letters, digits and `_`, so that nobody has to quote them.
    """

    def __init__(self, schema: str = "public", table: str = "broadcaster") -> None:
        for name in (schema, table):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"postgres-stream://: {name!r} is not a name of at most 28 lower-case "
                    "letters, digits and _"
                )
        self.table = f"{schema}.{table}"
        self.channel = self.table
        self.lock, self.trim_lock, self.create_lock = (
            int.from_bytes(hashlib.sha256(f"{self.table} {use}".encode()).digest()[:8], signed=True)
            for use in ("append", "trim", "create")
        )

    def sql(self) -> str:
        """Everything that makes the log; it can be run again, and keeps what is there."""
        return _SQL.format(
            t=self.table,
            short=self.table.partition(".")[2],
            lock=self.lock,
            trim_lock=self.trim_lock,
            version=VERSION,
        )

    async def install(self, connection: Connection, *, create: bool) -> None:
        """See to it that the log is there, made by one process at a time."""
        if await self._is_there(connection):
            return
        if not create:
            raise BackendError(
                f"the table {self.table} is not there or is of another version: run the SQL of "
                "fastapi_broadcaster.backends.postgres_stream.schema_sql(), or leave out create="
            )
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", self.create_lock)
            if not await self._is_there(connection):
                await connection.execute(self.sql())

    async def _is_there(self, connection: Connection) -> bool:
        found = await connection.fetchval(
            "select to_regclass($1) is not null and to_regclass($2) is not null",
            self.table,
            f"{self.table}_meta",
        )
        if not found:
            return False
        version: int = await connection.fetchval(f"select version from {self.table}_meta")
        return version == VERSION

    def drop_sql(self) -> str:
        """What removes it again, with all messages."""
        return _DROP.format(t=self.table)


def schema_sql(*, schema: str = "public", table: str = "broadcaster") -> str:
    """The SQL of the tables, functions and triggers, for teams with migrations.

    Run it as their owner and connect with `?create=false`. The role that publishes needs the
    rights to read and write the tables and to use the sequence.
    """
    return Schema(schema, table).sql()


_SQL = """\
-- The log of fastapi-broadcaster. Ids grow, also over a log that was dropped and made anew.
create sequence if not exists {t}_id;
select setval('{t}_id', greatest(last_value, (extract(epoch from clock_timestamp()) * 1e6)::bigint))
  from {t}_id;
create table if not exists {t} (
  id bigint primary key default nextval('{t}_id'),
  channel text not null,
  data bytea not null,
  at timestamptz not null default clock_timestamp()
);
create index if not exists {short}_channel_id on {t} (channel, id);
create index if not exists {short}_channel_at on {t} (channel, at);

-- Of each channel the newest id that was deleted: behind it nothing is missing.
create table if not exists {t}_floor (channel text primary key, id bigint not null);
create index if not exists {short}_floor_id on {t}_floor (id);

-- The epoch changes when the log is truncated or made anew (log is the oid of its table); floor
-- is the newest id that went with that.
create table if not exists {t}_meta (
  single boolean primary key default true check (single),
  version int not null,
  log oid not null,
  epoch text not null default substr(md5(random()::text), 1, 8),
  floor bigint not null
);
insert into {t}_meta (version, log, floor) select {version}, '{t}'::regclass, last_value from {t}_id
  on conflict (single) do update set version = excluded.version;
update {t}_meta set epoch = default, log = '{t}'::regclass, floor = (select last_value from {t}_id)
  where log <> '{t}'::regclass;

-- insert into {t}_outbox (channel, data) publishes when the transaction commits.
create table if not exists {t}_outbox (
  id bigint generated always as identity primary key,
  tx xid8 not null default pg_current_xact_id(),
  channel text not null check (
    length(channel) between 1 and 1000 and channel !~ '[[:cntrl:]]'
  ),
  data bytea not null
);
create index if not exists {short}_outbox_tx on {t}_outbox (tx);

-- Appends messages. One lock for the whole log: ids are in the order of commits.
create or replace function {t}_put(channels text[], payloads bytea[]) returns setof bigint
language plpgsql as $$
begin
  perform pg_advisory_xact_lock({lock});
  return query
  with added as (
    insert into {t} (channel, data)
    select c, d from unnest(channels, payloads) with ordinality as given(c, d, o) order by o
    returning id, channel, data, at
  ), told as (
    select added.id, pg_notify('{t}',
      added.id || ' ' || (extract(epoch from at) * 1e6)::bigint || ' ' || case
        when octet_length(channel) + octet_length(data) >= 7000 then 'f ' || channel
        when octet_length(channel) + octet_length(encode(data, 'escape')) < 7800
          then 't ' || channel || chr(10) || encode(data, 'escape')
        when octet_length(channel) + octet_length(encode(data, 'base64')) < 7800
          then 'b ' || channel || chr(10) || encode(data, 'base64')
        else 'f ' || channel
      end) from added
  )
  select told.id from told order by told.id;
end $$;

-- Moves what a transaction left in the outbox, at its commit.
create or replace function {t}_move() returns trigger language plpgsql as $$
declare
  channels text[];
  payloads bytea[];
begin
  with mine as (
    delete from {t}_outbox where tx = pg_current_xact_id() returning id, channel, data
  )
  select array_agg(channel order by id), array_agg(data order by id)
    into channels, payloads from mine;
  if channels is not null then
    perform {t}_put(channels, payloads);
  end if;
  return null;
end $$;
drop trigger if exists {short}_outbox_move on {t}_outbox;
create constraint trigger {short}_outbox_move after insert on {t}_outbox
  deferrable initially deferred for each row execute function {t}_move();

-- Remembers what was deleted, by whomever.
create or replace function {t}_gone() returns trigger language plpgsql as $$
begin
  if tg_op = 'TRUNCATE' then
    update {t}_meta set epoch = default,
      floor = (select last_value from {t}_id);
    delete from {t}_floor;
    perform pg_notify('{t}', 'epoch ' || epoch) from {t}_meta;
  else
    insert into {t}_floor as floor (channel, id)
    select gone.channel, max(gone.id) from gone group by 1 order by 1
      on conflict (channel) do update set id = greatest(floor.id, excluded.id);
  end if;
  return null;
end $$;
drop trigger if exists {short}_deleted on {t};
create trigger {short}_deleted after delete on {t}
  referencing old table as gone for each statement execute function {t}_gone();
drop trigger if exists {short}_truncated on {t};
create trigger {short}_truncated after truncate on {t}
  for each statement execute function {t}_gone();

-- Lets ids go on behind one that a reader has seen, when a restored backup does not know of it.
create or replace function {t}_raise(lowest bigint) returns void language plpgsql as $$
begin
  perform pg_advisory_xact_lock({lock});
  if (select last_value from {t}_id) < lowest then
    perform setval('{t}_id', lowest);
    update {t}_meta set epoch = default, floor = lowest;
  end if;
end $$;

-- Deletes at most `most` messages beyond the newest `keep` of some channels; says how many.
create or replace function {t}_trim(names text[], keep bigint, most int) returns bigint
language plpgsql as $$
declare
  deleted bigint;
begin
  perform pg_advisory_xact_lock({trim_lock});
  delete from {t} where id in (
    select old.id from unnest(names) as given(name) cross join lateral (
      select m.id from {t} m where m.channel = name and m.id <= (
        select k.id from {t} k where k.channel = name order by k.id desc offset keep limit 1
      ) order by m.id limit most
    ) old limit most
  );
  get diagnostics deleted = row_count;
  return deleted;
end $$;

-- Deletes at most `most` of the oldest messages, if they are older than that.
create or replace function {t}_expire(age interval, most int) returns bigint
language plpgsql as $$
declare
  deleted bigint;
begin
  perform pg_advisory_xact_lock({trim_lock});
  delete from {t} where id in (
    select old.id from (select id, at from {t} order by id limit most) old
    where old.at < clock_timestamp() - age
  );
  get diagnostics deleted = row_count;
  return deleted;
end $$;
"""

_DROP = """\
drop table if exists {t}, {t}_floor, {t}_meta, {t}_outbox cascade;
drop sequence if exists {t}_id;
drop function if exists {t}_put, {t}_move, {t}_gone, {t}_raise, {t}_trim, {t}_expire;
"""
