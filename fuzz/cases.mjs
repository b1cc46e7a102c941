// The replies of a run: each follows from the seed and its number alone, so that one can be had again without those before it.
import { randomOf } from '../soak/random.mjs';
import { spoilt } from './mutations.mjs';
import { soundReply } from './replies.mjs';

/** What part of the replies is left sound. */
const soundShare = 0.3;

/**
 * What a server does with one request, and what a client must make of it where that is certain.
 *
 * @typedef {object} Case
 * @property {number} number
 * @property {string} method of the request
 * @property {Buffer} bytes
 * @property {'wait' | 'end' | 'reset'} ending what the server does behind them
 * @property {boolean} isReused the connection has carried a request before
 * @property {boolean} isRested some time goes by before the next request
 * @property {import('./replies.mjs').Expected} [expected] of a reply that is sound
 * @property {Buffer[]} pieces the bytes as the network may cut them
 */

/** @returns {Case} */
export function caseOf(seed, number) {
  const random = randomOf(seed, `reply ${number}`);
  const reply = soundReply(random);
  const isSound = random.chance(soundShare);
  const text = isSound ? reply.bytes : spoilt(random, reply.bytes, soundReply(random).bytes);
  const bytes = Buffer.from(text, 'latin1');
  return {
    number,
    method: reply.method,
    bytes,
    ending: reply.ending,
    isReused: random.chance(0.2),
    isRested: random.chance(0.2),
    expected: isSound ? reply.expected : undefined,
    pieces: cut(random, bytes),
  };
}

/** Cut at random places: into bytes, into a few pieces, or once, near an end. */
function cut(random, bytes) {
  const most = random.weighted([
    [2, 1],
    [5, 4],
    [3, 40],
    [0.3, bytes.length <= 2_000 ? bytes.length : 3],
  ]);
  const places = most === bytes.length ? Array.from(bytes, (_, i) => i) : [];
  while (places.length < most) places.push(random.between(0, bytes.length));
  const pieces = [];
  let from = 0;
  for (const to of [...places.sort((a, b) => a - b), bytes.length]) {
    if (to > from) pieces.push(bytes.subarray(from, to));
    from = Math.max(from, to);
  }
  return pieces;
}
