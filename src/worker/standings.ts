import { type Standing, unbound } from '../core/policy.ts';
import { type QueueRow, requesterOf } from '../core/request.ts';
import { mayUseSecrets } from '../core/secret-references.ts';
import type { Session } from '../postgres/database.ts';
import { readStandings } from '../store/standing.ts';

/** What is known of a role is asked anew after so long: memberships change without a word to the worker. */
const knownForMs = 5_000;
/** More roles than this are not remembered. */
const rolesMax = 10_000;

/** Of a request, what its standing depends on. */
type Asking = Pick<QueueRow, 'loginRole' | 'setRole' | 'signWith' | 'headersJson'>;

export type StandingsParts = {
  readonly db: Session;
  /** There are policies: they concern every request. */
  readonly hasPolicies: boolean;
  /** The roles that secrets are bound to. */
  readonly roleNames: readonly string[];
  /** A monotonic clock, in milliseconds. */
  readonly now: () => number;
};

/** What the database says of the roles whose requests were claimed; asked only where it matters to a request. */
export class Standings {
  readonly #parts: StandingsParts;
  readonly #known = new Map<number | null, { readonly standing: Standing; readonly untilMs: number }>();

  constructor(parts: StandingsParts) {
    this.#parts = parts;
  }

  /** Learns what concerns these requests. To be awaited before they are sent: who asked may have lost a right meanwhile. */
  async learn(rows: readonly Asking[]): Promise<void> {
    const { db, roleNames } = this.#parts;
    const nowMs = this.#parts.now();
    if (this.#known.size > rolesMax) this.#known.clear();
    const unknown = new Set<number | null>();
    for (const row of rows) {
      const requester = requesterOf(row);
      if (this.#matters(row) && !((this.#known.get(requester)?.untilMs ?? 0) > nowMs)) unknown.add(requester);
    }
    if (unknown.size === 0) return;
    for (const [role, standing] of await readStandings(db, [...unknown], roleNames)) {
      this.#known.set(role, { standing, untilMs: nowMs + knownForMs });
    }
  }

  /** What concerns this request, as it was {@link learn}ed. */
  of(row: Asking): Standing {
    if (!this.#matters(row)) return unbound;
    const known = this.#known.get(requesterOf(row));
    if (known === undefined) throw new Error('the standing of a request was not learned');
    return known.standing;
  }

  #matters(row: Asking): boolean {
    return this.#parts.hasPolicies || mayUseSecrets(row);
  }
}
