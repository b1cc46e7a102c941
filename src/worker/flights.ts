import type { QueueRow } from '../core/request.ts';
import type { Settlement } from '../core/settlement.ts';
import { carryOut, type Send } from './pipeline.ts';

/** A finished request that waits to be recorded, and the registration under which it was claimed. */
export type Landed = { readonly workerId: bigint; readonly settlement: Settlement };

/**
 * The requests that this worker holds: in the air (being sent) and landed (sent, not yet recorded). They outlive the
 * database session: a lost connection costs no answer that is already here.
 */
export class Flights {
  /** Called when a request has landed; whoever records them sets it. */
  onLanded: () => void = () => {};
  readonly #send: Send;
  /** By request id: the registration under which it was claimed. */
  readonly #inAir = new Map<bigint, bigint>();
  #landed: Landed[] = [];
  #recording = 0;
  #isAbandoned = false;

  constructor(send: Send) {
    this.#send = send;
  }

  /** How many slots are taken: a request holds its slot until it is recorded. */
  get held(): number {
    return this.#inAir.size + this.#landed.length + this.#recording;
  }

  get inAir(): number {
    return this.#inAir.size;
  }

  get hasLanded(): boolean {
    return this.#landed.length > 0;
  }

  /** Sends a claimed request. A slow one holds its slot and nothing else. */
  start(row: QueueRow, workerId: bigint): void {
    this.#inAir.set(row.id, workerId);
    void carryOut(row, this.#send).then((settlement) => {
      // A flight that was given up has been released or fenced: its answer is nobody's.
      if (this.#inAir.get(row.id) === workerId) {
        this.#inAir.delete(row.id);
        this.#landed.push({ workerId, settlement });
        this.onLanded();
      }
    });
  }

  /**
   * Takes landed requests for recording, at most `rowsMax` and, but for a single larger one, at most `bytesMax` of bodies;
   * give them to {@link recorded} or {@link putBack}.
   */
  takeLanded(rowsMax: number, bytesMax: number): readonly Landed[] {
    let rows = 0;
    let bytes = 0;
    for (const { settlement } of this.#landed) {
      bytes += settlement.body?.byteLength ?? 0;
      if (rows === rowsMax || (rows > 0 && bytes > bytesMax)) {
        break;
      }
      rows += 1;
    }
    const isAll = rows === this.#landed.length;
    const group = isAll ? this.#landed : this.#landed.slice(0, rows);
    this.#landed = isAll ? [] : this.#landed.slice(rows);
    this.#recording += group.length;
    return group;
  }

  recorded(group: readonly Landed[]): void {
    this.#recording -= group.length;
  }

  /** They could not be recorded (the connection was lost): they wait for the next one. */
  putBack(group: readonly Landed[]): void {
    this.#recording -= group.length;
    if (!this.#isAbandoned) {
      this.#landed = [...group, ...this.#landed];
    }
  }

  /** Gives up everything in the air; returns the ids, to be released. Nothing of them will land. */
  giveUp(): readonly bigint[] {
    const ids = [...this.#inAir.keys()];
    this.#inAir.clear();
    return ids;
  }

  /** Lets go of everything, for good: what could not be recorded or released comes free when the session is known dead. */
  abandon(): void {
    this.#isAbandoned = true;
    this.#inAir.clear();
    this.#landed = [];
  }

  /** Drops everything that was claimed under another registration: those requests have been given to others. */
  dropAllBut(workerId: bigint): number {
    let dropped = 0;
    for (const [id, claimedUnder] of this.#inAir) {
      if (claimedUnder !== workerId) {
        this.#inAir.delete(id);
        dropped += 1;
      }
    }
    const kept = this.#landed.filter((landed) => landed.workerId === workerId);
    dropped += this.#landed.length - kept.length;
    this.#landed = kept;
    return dropped;
  }
}
