-- The wake-up: a request notifies the workers only if none of them has promised to look by itself.
--
-- NOTIFY takes a lock of the whole cluster across the commit's WAL flush, so notifying in every transaction halves what
-- a busy server can commit. A worker that is busy anyway therefore promises to look until an instant; the instant is the
-- `last_value` of a sequence, because reading a sequence is not subject to the transaction's snapshot: REPEATABLE READ
-- sees a promise that was withdrawn after it began.
--
-- Enqueue:     insert the row (this assigns the transaction's id), THEN compare the promise with the clock.
-- Going idle:  withdraw the promise, THEN take a transaction id X, then look until every transaction up to X has ended.
-- So a transaction with an id up to X is seen by that last look, and one after X sees the promise withdrawn and notifies.

-- The end of the promise, in milliseconds since 1970. 1: nobody promises.
-- API: private
create sequence net.wake_promise as bigint minvalue 1 start 1;

-- Read with pg_sequence_last_value: what SELECT last_value reads, at a tenth of the cost.
do $$
begin
  -- A sequence that has given no value yet has no last value to be read.
  perform pg_catalog.setval('net.wake_promise', 1);
end
$$;

-- Notifies the workers at commit. Called after the INSERT, when no worker has promised to look (net._enqueue compares
-- the promise, as a statement of its own). SET LOCAL pg_net.wake = off is for transactions that may not notify (PREPARE
-- TRANSACTION refuses those that did); their requests are served at the next wake.
-- API: private
create function net._wake()
  returns void
  language plpgsql
  volatile
  parallel unsafe
as $$
begin
  if pg_catalog.lower(pg_catalog.current_setting('pg_net.wake', true)) in ('off', 'false', 'no', '0') then
    return;
  end if;
  perform pg_catalog.pg_notify('net_wake', '');
end
$$;

-- Wakes the workers when the transaction commits: for rows that were put into the queue by hand.
-- API: public
create function net.wake()
  returns void
  language plpgsql
  volatile
  parallel unsafe
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_catalog.pg_notify('net_wake', '');
end
$$;
