// Randomness that can be repeated: every part of a run draws from a stream of its own, derived from the one seed.

/**
 * @param {number} seed
 * @param {string} stream
 */
export function randomOf(seed, stream) {
  let state = seed >>> 0;
  for (const character of stream) state = Math.imul(state ^ character.codePointAt(0), 0x01000193) >>> 0;

  /** From 0 to below 1 (mulberry32). */
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
  return {
    next,
    chance: (share) => next() < share,
    /** A whole number, both ends included. */
    between: (least, most) => least + Math.floor(next() * (most - least + 1)),
    pick: (list) => list[Math.floor(next() * list.length)],
    /** One of `[weight, value]`. */
    weighted: (entries) => {
      let at = next() * entries.reduce((sum, [weight]) => sum + weight, 0);
      for (const [weight, value] of entries) {
        at -= weight;
        if (at < 0) return value;
      }
      return entries.at(-1)[1];
    },
  };
}
