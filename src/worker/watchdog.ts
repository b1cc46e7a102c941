import { ConnectionLost, type Database, type Row, type Session, type Statement } from '../postgres/database.ts';

const lookEveryMs = 1_000;

/**
 * The database, watched: if a statement has no answer after `limitMs` (longer than the server's own statement_timeout, so the
 * network has swallowed it), the session is closed, and everything that waits for it fails. TCP alone may take a quarter of an
 * hour to notice that a packet leads nowhere.
 */
export function watched(db: Database, limitMs: number, now: () => number): Database {
  const waiting = new Set<{ readonly sinceMs: number }>();
  let timer: NodeJS.Timeout | undefined;
  let hung: ConnectionLost | undefined;

  const look = (): void => {
    for (const { sinceMs } of waiting) {
      if (hung === undefined && now() - sinceMs > limitMs) {
        hung = new ConnectionLost(
          `the server left a statement unanswered for ${limitMs / 1_000} s: the network between may have dropped the connection. Connecting anew.`,
        );
        void db.close();
        return;
      }
    }
  };
  const answer = async <T>(promise: Promise<T>): Promise<T> => {
    const entry = { sinceMs: now() };
    waiting.add(entry);
    timer ??= setInterval(look, lookEveryMs).unref();
    try {
      return await promise;
    } catch (error) {
      throw hung ?? error;
    } finally {
      waiting.delete(entry);
    }
  };
  void db.ended.then(() => clearInterval(timer));

  return {
    kind: db.kind,
    ended: db.ended.then((reason) => hung ?? reason),
    query: <R extends Row>(statement: Statement, parameters?: Parameters<Session['query']>[1]) =>
      answer(db.query<R>(statement, parameters)),
    execute: (script) => answer(db.execute(script)),
    transaction: (work) => answer(db.transaction(work)),
    listen: (channel, onNotify) => answer(db.listen(channel, onNotify)),
    reset: () => answer(db.reset()),
    ping: (timeoutMs) => db.ping(timeoutMs),
    close: () => db.close(),
  };
}
