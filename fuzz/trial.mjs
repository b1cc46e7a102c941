// One reply, put to the client: whole and in pieces, and after each of them another request. Says what is wrong with what it made of it.
import { settlementOf } from '../dist/core/settlement.js';
import { caseOf } from './cases.mjs';

const sound = [Buffer.from('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst')];

/** The reply to every request but the one that the case is about. */
export function markerOf(number) {
  return Buffer.from(`HTTP/1.1 200 OK\r\nX-Marker: ${number}\r\nContent-Length: 6\r\n\r\nmarker`);
}

/** Whether an outcome is the reply of {@link markerOf}. */
export function isMarker(outcome, number) {
  return (
    outcome?.kind === 'reply' &&
    outcome.status === 200 &&
    outcome.headers.length === 2 &&
    outcome.headers[0][1] === String(number) &&
    latin1(outcome.body) === 'marker'
  );
}

/**
 * Puts one reply to a {@link FakeNetwork}.
 *
 * @returns {Promise<{ wrong: string[], kind: string, bytes: number }>} nothing wrong: an empty list
 */
export async function tryInMemory(network, seed, number) {
  const one = caseOf(seed, number);
  const wrong = [];
  const whole = await exchange(network, one, one.bytes.length === 0 ? [] : [one.bytes], wrong);
  const pieces = await exchange(network, one, one.pieces, wrong);
  if (whole.outcome !== undefined) wrong.push(...rowProblems(whole.claimed, whole.outcome));
  // What stands behind a redirect, and comes when the next request was sent, no client can tell from the reply to that.
  if (pieces.isOvertaken) return { wrong, kind: kindOf(whole.outcome), bytes: one.bytes.length };
  if (whole.text !== pieces.text) wrong.push(`cut, the reply is another: ${whole.text} | ${pieces.text}`);
  if (whole.isKept !== pieces.isKept) wrong.push(`kept whole: ${whole.isKept}, cut: ${pieces.isKept}`);
  if (one.expected !== undefined) wrong.push(...differences(one.expected, whole));
  return { wrong, kind: kindOf(whole.outcome), bytes: one.bytes.length };
}

/** The request that the case is about and one after it, over connections of their own. */
async function exchange(network, one, pieces, wrong) {
  const marker = markerOf(one.number);
  if (one.isReused) await network.ask('GET', sound, 'wait', marker);
  const { outcome, settled, claimed, isOvertaken } = await network.ask(one.method, pieces, one.ending, marker);
  if (settled > 1) wrong.push(`settled ${settled} times`);
  // Whoever waits is told by the deadline; what has ended must be seen.
  if (settled === 0 && one.ending !== 'wait') wrong.push('not settled, although the connection has ended');
  if (one.isRested) network.rest();
  const before = network.connections;
  const next = await network.ask('GET', [marker], 'wait', marker);
  if (!isMarker(next.outcome, one.number)) wrong.push(`the next request got ${textOf(next.outcome)}`);
  const isKept = network.connections === before;
  const { underWay, isNothingHeld } = await network.forget();
  if (underWay > 0) wrong.push('a request is still under way');
  if (!isNothingHeld) wrong.push('a permit of a large body is lost');
  return { claimed, outcome, text: textOf(outcome), isKept, isOvertaken };
}

/** A row has a status or an error, never both, never neither, and its headers are JSON. */
export function rowProblems(claimed, outcome) {
  const row = settlementOf(claimed.row, outcome);
  const wrong = [];
  if ((row.statusCode === null) === (row.errorMessage === null))
    wrong.push('the row has neither a status nor an error, or both');
  if ((row.errorMessage === null) !== (row.errorCode === null))
    wrong.push('an error without its code, or a code without an error');
  if (row.statusCode !== null && !(row.statusCode >= 100 && row.statusCode <= 999))
    wrong.push(`status ${row.statusCode}`);
  if (row.errorCode === 'failed') wrong.push(`an unexpected failure: ${row.errorMessage}`);
  if (/\0/.test(row.content ?? '') || /\0/.test(row.headersJson ?? '')) wrong.push('the row has a NUL in it');
  if (row.headersJson !== null && typeof JSON.parse(row.headersJson) !== 'object')
    wrong.push('the headers are no object');
  return wrong;
}

/** How an outcome differs from what a sound reply must become. */
export function differences(expected, { outcome, isKept }) {
  if (outcome?.kind !== 'reply') return [`a sound reply was taken for ${textOf(outcome)}`];
  const { status, headers, body, truncated, isReusable } = expected;
  const wanted = textOf({ kind: 'reply', status, headers, body: Buffer.from(body, 'latin1'), truncated });
  const wrong = [];
  if (textOf(outcome) !== wanted) wrong.push(`a sound reply is not what it was: ${textOf(outcome)} for ${wanted}`);
  if (isKept && !isReusable) wrong.push('the connection was kept');
  return wrong;
}

/** An outcome as one line: equal ones have equal lines. */
export function textOf(outcome) {
  if (outcome === undefined) return 'nothing';
  if (outcome.kind === 'failure') return `${outcome.code}: ${outcome.message}`;
  return `${outcome.status}${outcome.truncated ? ' truncated' : ''}\n${outcome.headers.flat().join('\n')}\n\n${latin1(outcome.body)}`;
}

/** A character for each byte. */
function latin1({ buffer, byteOffset, byteLength }) {
  return Buffer.from(buffer, byteOffset, byteLength).toString('latin1');
}

/** For the summary: what became of a reply, in a few words. */
export function kindOf(outcome) {
  if (outcome?.kind === 'reply') return 'a reply';
  // In memory nobody waits: the request is cancelled where its deadline would have to end it.
  return outcome === undefined || outcome.code === 'cancelled' ? 'a time-out' : outcome.message;
}
