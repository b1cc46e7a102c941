import zlib from 'node:zlib';
import type { Permit, Supply } from '../core/permits.ts';
import type { Coding } from './codings.ts';
import type { Deadline, Waiting } from './deadline.ts';
import { type ReplyLimits, smallBodyBytesMax } from './exchange.ts';
import { type Problem, problems } from './failures.ts';

/** What is asked for where the caller asks for nothing. */
export const acceptedEncodings = 'gzip, deflate, br';

/** A body with its codings undone. */
export type Decoded = {
  readonly kind: 'decoded';
  readonly body: Uint8Array;
  /** The body goes on beyond the limit, or its compressed form ended early: what is here is its beginning. */
  readonly truncated: boolean;
  /** For a large body, to be given back when it is no longer held; undefined for a small one. */
  readonly permit: Permit | undefined;
};

/** What is kept of a decoded body. */
export type DecodingLimits = ReplyLimits & {
  /** For decoding at all. It occupies the threads that name lookups need, too, and a window of brotli takes up to 16 MiB. */
  readonly decoders: Supply;
};

const chunkBytes = 65_536;

/**
 * Undoes the codings of a body within the limits and calls `settle` once, never from within this call; when the deadline
 * ends first, with a problem. `permit` is what a large compressed body has already.
 */
export function decompress(
  body: Uint8Array,
  codings: readonly Coding[],
  limits: DecodingLimits,
  permit: Permit | undefined,
  deadline: Deadline,
  settle: (result: Decoded | Problem) => void,
): void {
  const decompression = new Decompression(body, codings, limits, permit, deadline, settle);
  deadline.onEnd(decompression);
  decompression.begin();
}

class Decompression implements Waiting {
  readonly #encoded: Uint8Array;
  readonly #codings: readonly Coding[];
  readonly #limits: DecodingLimits;
  readonly #deadline: Deadline;
  #permit: Permit | undefined;
  /** How long a decoded body may be by now. */
  #bytesMax: number;
  readonly #turn: Permit;
  #settle: ((result: Decoded | Problem) => void) | undefined;
  #decoder: Decoder | undefined;

  constructor(
    encoded: Uint8Array,
    codings: readonly Coding[],
    limits: DecodingLimits,
    permit: Permit | undefined,
    deadline: Deadline,
    settle: (result: Decoded | Problem) => void,
  ) {
    this.#encoded = encoded;
    this.#codings = codings;
    this.#limits = limits;
    this.#permit = permit;
    this.#bytesMax = Math.min(limits.bodyBytesMax, smallBodyBytesMax);
    this.#turn = limits.decoders.permit();
    this.#deadline = deadline;
    this.#settle = settle;
  }

  begin(): void {
    // What is large as it came will hardly be smaller.
    if (this.#permit === undefined) this.#begin();
    else this.#makeRoom();
  }

  #begin(): void {
    if (this.#settle === undefined) return;
    const decode = (): void => this.#decode(0, this.#encoded, false);
    if (this.#turn.request(1, decode)) decode();
  }

  /** The request has its outcome already. */
  stop(): void {
    this.#finish(problems.cancelled);
  }

  /** Undoes the codings from the given one on. */
  #decode(step: number, body: Uint8Array, wasTruncated: boolean): void {
    const coding = this.#codings[step];
    if (coding === undefined || body.byteLength === 0) {
      this.#permit?.keep(body.byteLength);
      this.#finish({ kind: 'decoded', body, truncated: wasTruncated, permit: this.#permit });
      return;
    }
    this.#decoder = new Decoder(coding, body, this.#bytesMax, (result) => {
      this.#decoder = undefined;
      if (result === undefined) this.#finish(problems.badCoding);
      else if (result.isCut && this.#bytesMax < this.#limits.bodyBytesMax) this.#makeRoom();
      else this.#decode(step + 1, result.body, wasTruncated || result.isCut || result.endedEarly);
    });
  }

  /**
   * It is a large one: decoded anew when there is room for all that it may become, rather than kept waiting with what its
   * decoder holds. That is needed for a moment only.
   */
  #makeRoom(): void {
    this.#turn.release();
    const { bodyBytesMax, largeBodies, holder } = this.#limits;
    const begin = (): void => {
      this.#bytesMax = bodyBytesMax;
      this.#begin();
    };
    this.#permit ??= largeBodies.permit(holder);
    if (this.#permit.held >= bodyBytesMax || this.#permit.request(bodyBytesMax, begin)) begin();
  }

  #finish(result: Decoded | Problem): void {
    const settle = this.#settle;
    if (settle === undefined) return;
    this.#settle = undefined;
    this.#deadline.onEnd(undefined);
    this.#decoder?.stop();
    this.#turn.release();
    if (result.kind === 'problem') this.#permit?.release();
    settle(result);
  }
}

type DecoderResult = {
  readonly body: Uint8Array;
  /** There is more than was asked for. */
  readonly isCut: boolean;
  /** The coded body lacks its end; libcurl takes it for whole. */
  readonly endedEarly: boolean;
};

/** Undoes one coding, up to a number of bytes. `done` is called once, without a result for what is no such body. */
class Decoder {
  readonly #stream: zlib.Gunzip | zlib.BrotliDecompress;
  readonly #chunks: Uint8Array[] = [];
  readonly #bytesMax: number;
  #bytes = 0;
  #done: ((result: DecoderResult | undefined) => void) | undefined;

  constructor(coding: Coding, body: Uint8Array, bytesMax: number, done: (result: DecoderResult | undefined) => void) {
    this.#bytesMax = bytesMax;
    this.#done = done;
    const stream = streamOf(coding, body);
    this.#stream = stream;
    stream.on('data', (chunk: Uint8Array) => this.#add(chunk));
    stream.on('end', () => this.#finish(false, false));
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'Z_BUF_ERROR') this.#finish(false, true);
      else this.#refuse();
    });
    // Ended only when everything is decoded: zlib would otherwise drop the last piece of a body that ends early.
    stream.write(body, () => stream.end());
  }

  stop(): void {
    this.#done = undefined;
    this.#stream.destroy();
  }

  #add(chunk: Uint8Array): void {
    if (this.#done === undefined) return;
    const room = this.#bytesMax - this.#bytes;
    const kept = chunk.byteLength > room ? chunk.subarray(0, room) : chunk;
    this.#chunks.push(kept);
    this.#bytes += kept.byteLength;
    if (chunk.byteLength > room) this.#finish(true, false);
  }

  #finish(isCut: boolean, endedEarly: boolean): void {
    const done = this.#done;
    this.stop();
    const [first] = this.#chunks;
    const body = this.#chunks.length === 1 && first !== undefined ? first : Buffer.concat(this.#chunks, this.#bytes);
    done?.({ body, isCut, endedEarly });
  }

  #refuse(): void {
    const done = this.#done;
    this.stop();
    done?.(undefined);
  }
}

function streamOf(coding: Coding, body: Uint8Array): zlib.Gunzip | zlib.BrotliDecompress {
  const options = { chunkSize: chunkBytes };
  if (coding === 'gzip') return zlib.createGunzip(options);
  if (coding === 'br') return zlib.createBrotliDecompress(options);
  return hasZlibHeader(body) ? zlib.createInflate(options) : zlib.createInflateRaw(options);
}

/** `deflate` means the zlib format, but some servers send what it wraps (RFC 9110, 8.4.1.2). */
function hasZlibHeader(body: Uint8Array): boolean {
  const [first = 0, second = 0] = body;
  return (first & 0x0f) === 8 && (first * 256 + second) % 31 === 0;
}
