// What is wrong with what arrived: the checker of `npm run order`.

/**
 * @typedef {{ tag: number, key: string, transaction: object, place: number, id?: number, beganMs: number, committedMs: number, isCommitted: boolean }} Made
 *   `beganMs`, `committedMs`: when its transaction began, and when its commit had been answered; `place`: within the transaction
 * @typedef {{ key: string, tag: number, beganMs: number, endedMs: number, isCut: boolean }} Arrival
 *   `isCut`: the connection was lost before it was answered, as by a worker that was killed
 */

/**
 * @param {readonly Made[]} made by tag
 * @param {readonly Arrival[]} arrivals in their order
 * @param {ReadonlyMap<number, number | null>} recorded the status of each response, by the request's id
 */
export function judge(made, arrivals, recorded) {
  const wrong = { inversions: [], overlaps: [], lost: [], notRecorded: [], notCommitted: [] };
  const byKey = new Map();
  const arrived = new Set();
  for (const arrival of arrivals) {
    arrived.add(arrival.tag);
    const ofKey = byKey.get(arrival.key);
    if (ofKey === undefined) byKey.set(arrival.key, [arrival]);
    else ofKey.push(arrival);
  }
  for (const { tag, id, isCommitted } of made) {
    if (!isCommitted) {
      if (arrived.has(tag)) wrong.notCommitted.push(tag);
    } else {
      if (!arrived.has(tag)) wrong.lost.push(tag);
      if (recorded.get(id) !== 200) wrong.notRecorded.push(tag);
    }
  }
  let repeated = 0;
  for (const ofKey of byKey.values()) {
    repeated += ofKey.length - new Set(ofKey.map(({ tag }) => tag)).size;
    lookForOverlaps(ofKey, wrong.overlaps);
    lookForInversions(ofKey, made, wrong.inversions);
  }
  return { arrivals: arrivals.length, repeated, wrong };
}

/** As many as a reader wants to see. */
export function shortened(wrong, most = 10) {
  return Object.fromEntries(
    Object.entries(wrong).map(([kind, list]) => [
      kind,
      list.length <= most ? list : [...list.slice(0, most), `and ${list.length - most} more`],
    ]),
  );
}

function lookForOverlaps(ofKey, overlaps) {
  let last;
  for (const arrival of ofKey) {
    if (last !== undefined && arrival.tag !== last.tag && !last.isCut && arrival.beganMs < last.endedMs) {
      overlaps.push([last.tag, arrival.tag]);
    }
    if (last === undefined || arrival.endedMs > last.endedMs || last.isCut) last = arrival;
  }
}

function lookForInversions(ofKey, made, inversions) {
  // Of one transaction by their places.
  const lastOf = new Map();
  for (const { tag } of ofKey) {
    const request = made[tag];
    const last = lastOf.get(request.transaction);
    if (last !== undefined && last.place > request.place) inversions.push([last.tag, tag]);
    lastOf.set(request.transaction, request);
  }
  // Backwards: of all that arrived later, none may have been committed before the transaction of this one began.
  let first;
  for (const { tag } of [...ofKey].reverse()) {
    const request = made[tag];
    if (first !== undefined && first.committedMs < request.beganMs) inversions.push([tag, first.tag]);
    if (first === undefined || request.committedMs < first.committedMs) first = request;
  }
}
