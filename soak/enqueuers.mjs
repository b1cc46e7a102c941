// Sessions that enqueue: one request a transaction, or many; that commit, roll back, or fail; and that lose their connection.
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { fate } from './ledger.mjs';

const retryMs = 50;

/** How fast may be asked. Whoever asks takes tokens first; they come at `rate` a second. */
export class Pace {
  #tokens = 0;
  #lastMs = performance.now();
  #isOver = false;
  /** Tokens a second. */
  rate = 0;

  get isOver() {
    return this.#isOver;
  }

  end() {
    this.#isOver = true;
  }

  /** Resolves with true when `count` may be asked, with false when all is over. */
  async take(count) {
    while (!this.#isOver) {
      const now = performance.now();
      this.#tokens = Math.min(this.#tokens + (this.rate * (now - this.#lastMs)) / 1_000, Math.max(this.rate, 2_000));
      this.#lastMs = now;
      if (this.#tokens >= Math.min(count, 1)) {
        // A large transaction goes into debt: the next one waits for longer.
        this.#tokens -= count;
        return true;
      }
      await sleep(10);
    }
    return false;
  }
}

/**
 * Asks until the pace is over. Rejects only for what the database should not have refused.
 *
 * @param {{ url: string, ledger: import('./ledger.mjs').Ledger, pace: Pace, random: object, rowsMax: number, sinceStart: () => number }} options
 */
export async function enqueue({ url, ledger, pace, random, rowsMax, sinceStart }) {
  let client;
  while (!pace.isOver) {
    client ??= await connect(url);
    if (client === undefined) {
      await sleep(retryMs);
      continue;
    }
    const rows = rowsMax === 1 ? 1 : random.between(rowsMax >> 4, rowsMax);
    const plan = random.weighted([
      [90, 'commit'],
      [4, 'rollback'],
      [3, 'savepoint'],
      [2, 'error'],
      [1, 'linger'],
    ]);
    if (!(await pace.take(rows))) break;
    const range = ledger.reserve(rows);
    if (range === null) break;
    const isLost = await transact(client, { ledger, range, plan, at: sinceStart(), lingerMs: random.between(20, 600) });
    if (isLost) {
      client.end().catch(() => {});
      client = undefined;
    }
  }
  await client?.end().catch(() => {});
}

async function connect(url) {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 3_000 });
  client.on('error', () => {});
  try {
    await client.connect();
    return client;
  } catch {
    client.end().catch(() => {});
    return undefined;
  }
}

/** One transaction; writes down what became of its numbers. Returns whether the connection is gone. */
async function transact(client, { ledger, range: { first, last }, plan, at, lingerMs }) {
  const ask = (from, to) => client.query({ name: 'ask', text: 'select soak.ask($1, $2)', values: [from, to] });
  const note = (what) => ledger.note(first, last, what, at);
  let mayBeCommitted = false;
  try {
    if (first === last && plan === 'commit') {
      // By itself, as most applications do: the statement is the transaction.
      mayBeCommitted = true;
      await ask(first, last);
      note(fate.acknowledged);
      return false;
    }
    const middle = (first + last) >> 1;
    await client.query('begin');
    await ask(first, middle);
    if (plan === 'savepoint') await client.query('savepoint half');
    if (middle < last) await ask(middle + 1, last);
    if (plan === 'linger') await sleep(lingerMs);
    if (plan === 'error') await client.query('select 1 / 0').catch(() => {});
    if (plan === 'savepoint') await client.query('rollback to half');
    // After an error, COMMIT rolls back.
    mayBeCommitted = plan !== 'rollback' && plan !== 'error';
    await client.query(plan === 'rollback' ? 'rollback' : 'commit');
    note(mayBeCommitted ? fate.acknowledged : fate.rolledBack);
    if (plan === 'savepoint' && middle < last) {
      ledger.note(middle + 1, last, fate.rolledBack, at);
      ledger.acknowledged -= last - middle;
    }
    return false;
  } catch (error) {
    note(mayBeCommitted ? fate.unknown : fate.rolledBack);
    if (!isConnectionLost(error)) throw error;
    return true;
  }
}

/** Shutdown, crash, cut: SQLSTATE classes 57P and 08, or no SQLSTATE at all. */
function isConnectionLost(error) {
  const code = error.code ?? '';
  return !(error instanceof pg.DatabaseError) || /^(57P|08)/.test(code);
}
