import type { PGlite } from '@electric-sql/pglite';

/** What pglite-socket uses of a PGlite. */
type Served = Pick<PGlite, 'waitReady' | 'isInTransaction' | 'runExclusive' | 'execProtocolRawStream' | 'exec'>;

/** Messages after which the same client has more to say before anybody else may speak: extended query, and data of a COPY. */
const unfinished = new Set([...'PBEDCHd'].map((type) => type.charCodeAt(0)));
const terminate = 'X'.charCodeAt(0);
const sync: Uint8Array = new Uint8Array(['S'.charCodeAt(0), 0, 0, 0, 4]);

/**
 * A PGlite for pglite-socket (0.2.17), which hands out the one session message by message: between one client's Parse and its Bind
 * it lets another's message pass, which replaces the unnamed statement and fails the Bind. It does keep to one client while a
 * transaction is open. So here a transaction counts as open from the first message of an extended query to its Sync too.
 */
export function gatePglite(db: PGlite): PGlite {
  let isMidway = false;
  const gate: Served = {
    waitReady: db.waitReady,
    isInTransaction: () => isMidway || db.isInTransaction(),
    runExclusive: (work) => db.runExclusive(work),
    async execProtocolRawStream(message, options) {
      const type = message[0];
      let tail = new Uint8Array();
      await db.execProtocolRawStream(message, {
        ...options,
        onRawData: (data) => {
          tail = tailOf(tail, data);
          options?.onRawData?.(data);
        },
      });
      if (type === undefined || type === terminate) return;
      isMidway = unfinished.has(type) || !endsReady(tail);
    },
    /** Called with ROLLBACK alone, when a client has left in the middle of something. */
    async exec(statement, options) {
      if (isMidway) {
        await db.runExclusive(() => db.execProtocolRaw(sync));
        isMidway = false;
      }
      return db.isInTransaction() ? await db.exec(statement, options) : [];
    },
  };
  return gate as Partial<PGlite> as PGlite;
}

const readyBytes = 6;

function tailOf(before: Uint8Array, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(Math.min(before.length, readyBytes) + data.length);
  joined.set(before.subarray(-readyBytes));
  joined.set(data, joined.length - data.length);
  return joined.slice(-readyBytes);
}

/** Whether the answer ends with ReadyForQuery: `Z`, the length 5, and a status. */
function endsReady(tail: Uint8Array): boolean {
  return tail.length === readyBytes && tail[0] === 'Z'.charCodeAt(0) && tail[4] === 5;
}
