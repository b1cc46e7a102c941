// The client with everything but the sockets: its pool dials streams that exist in memory only.
import { Duplex } from 'node:stream';
import { Bag } from '../dist/core/bag.js';
import { Supply } from '../dist/core/permits.js';
import { problems } from '../dist/http/failures.js';
import { FirstHops } from '../dist/http/hop.js';
import { Http1Connection } from '../dist/http/http1-connection.js';
import { Pool } from '../dist/http/pool.js';
import { Sending } from '../dist/http/sending.js';
import { rules } from './replies.mjs';

/** Small, so that replies reach it. */
const headBytesMax = 16_384;
const largeBodiesBytesMax = 4 * rules.responseBytesMax;
/** Turns of the event loop within which what has arrived must have taken effect. */
const turnsMax = 10;
const timeoutMs = 3_600_000;
const restMs = 500;

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A socket whose other end is `serve`, called for each request that is written. */
class FakeSocket extends Duplex {
  requests = 0;
  #serve;

  constructor(serve) {
    super({ allowHalfOpen: false });
    this.#serve = serve;
  }

  _read() {}

  _write(_chunk, _encoding, done) {
    this.requests += 1;
    // As in the kernel: nothing comes back while it is being written. And not before the stream flows: it would keep the pieces.
    process.nextTick(this.#serve, this);
    done();
  }
}

export class FakeNetwork {
  #connections = [];
  #plan;
  #largeBodies = new Supply(largeBodiesBytesMax);
  #underWay = new Bag();
  /** Bodies that another thread decompresses: they are ready when they are. */
  #decoding = 0;
  #decoders = {
    permit: () => {
      let held = 0;
      return {
        request: () => {
          held = 1;
          this.#decoding += 1;
          return true;
        },
        release: () => {
          this.#decoding -= held;
          held = 0;
        },
      };
    },
  };
  #pool;
  #context;
  #nowMs = 0;

  constructor() {
    this.#pool = new Pool({
      connect: async () => ({ socket: new FakeSocket((socket) => this.#answer(socket)), viaProxy: undefined }),
      open: (target, { socket, viaProxy }) => {
        const connection = new Http1Connection(target.origin, socket, headBytesMax, viaProxy);
        this.#connections.push(connection);
        return connection;
      },
      connectionsPerOriginMax: 10,
      now: () => this.#nowMs,
    });
    this.#context = {
      pool: this.#pool,
      firstHops: new FirstHops('fuzz'),
      largeBodies: this.#largeBodies,
      decoders: this.#decoders,
      redirectsMax: 5,
      now: () => this.#nowMs,
      underWay: this.#underWay,
    };
  }

  /** Lets so much time go by that a kept connection is looked at before it is used. */
  rest() {
    this.#nowMs += restMs;
  }

  /** How many connections have been made since the last {@link forget}. */
  get connections() {
    return this.#connections.length;
  }

  /**
   * Sends one request. The first request to arrive is answered with `pieces`, and then as `ending` says; those that follow
   * (redirected, or repeated) with `after`. Resolves when all has arrived and taken effect.
   *
   * `isOvertaken`: the client had asked again on the connection (it was redirected) before all had arrived.
   *
   * @returns {Promise<{ outcome?: object, settled: number, claimed: object, isOvertaken: boolean }>}
   */
  async ask(method, pieces, ending, after) {
    const plan = { pieces, ending, after, isDelivered: false, isOvertaken: false };
    this.#plan = plan;
    const claimed = requestOf(method);
    const result = { outcome: undefined, settled: 0, claimed, isOvertaken: false };
    const sending = new Sending(this.#context, claimed, rules, undefined, (outcome) => {
      result.outcome = outcome;
      result.settled += 1;
    });
    sending.begin();
    for (let turns = 0; turns < turnsMax; turns++) {
      do await turn();
      while (this.#decoding > 0);
      if (plan.isDelivered && (result.settled > 0 || (ending === 'wait' && turns > 1))) break;
    }
    // Nothing more will come: this is what the deadline does.
    if (result.settled === 0 && ending === 'wait') sending.cancel(problems.closed);
    result.outcome?.release?.();
    result.isOvertaken = plan.isOvertaken;
    return result;
  }

  /** Ends all connections; returns what is left of the requests before, which should be nothing. */
  async forget() {
    for (const connection of this.#connections.splice(0)) connection.destroy();
    await turn();
    // Of the requests' holder: all there is can be had at once where nothing is held.
    const all = this.#largeBodies.permit(null);
    const isNothingHeld = all.request(largeBodiesBytesMax, () => {});
    all.release();
    return { underWay: [...this.#underWay.items()].length, isNothingHeld };
  }

  #answer(socket) {
    const plan = this.#plan;
    if (plan.isDelivered) {
      if (!socket.destroyed) socket.push(plan.after);
      return;
    }
    const { requests } = socket;
    for (const piece of plan.pieces) {
      // What is left in a socket that was destroyed is never read.
      if (socket.destroyed) break;
      plan.isOvertaken ||= socket.requests > requests;
      socket.push(piece);
    }
    if (plan.ending !== 'reset' || socket.destroyed) {
      if (plan.ending === 'end' && !socket.destroyed) socket.push(null);
      plan.isDelivered = true;
      return;
    }
    // Behind what is still to be read: a reset that overtakes it is another reply.
    setImmediate(() => {
      plan.isDelivered = true;
      socket.destroy(reset);
    });
  }
}

/** One for all: making it costs more than a reply. */
const reset = Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET', syscall: 'read' });

function requestOf(method) {
  const body = method === 'POST' ? Buffer.from('{}') : null;
  const row = {
    id: 1n,
    method,
    url: 'http://fuzz.example/x',
    headersJson: '{}',
    body,
    timeoutMs,
    loginRole: null,
    setRole: null,
  };
  return { kind: 'sendable', row, headers: [], secretHeaders: new Set(), spentMs: 0 };
}
