// A thread of the fuzzer: tries the ranges that it is given, one after the other, and says what was wrong.
import { parentPort, workerData } from 'node:worker_threads';
import { caseOf } from './cases.mjs';
import { FakeNetwork } from './fake-network.mjs';
import { tryOverTcp } from './real-network.mjs';
import { tryInMemory } from './trial.mjs';

const { seed, tcpEvery, current } = workerData;
const shownBytesMax = 4_000;
let network = new FakeNetwork();
let failures = [];

function fail(number, way, wrong) {
  const { method, ending, isReused, bytes, pieces, expected } = caseOf(seed, number);
  const reply = JSON.stringify(bytes.subarray(0, shownBytesMax).toString('latin1'));
  const sizes = pieces.map(({ length }) => length).slice(0, 100);
  failures.push({
    number,
    way,
    wrong,
    method,
    ending,
    isReused,
    isSound: expected !== undefined,
    sizes,
    reply,
    bytes: bytes.length,
  });
}

/** Anything thrown outside of a promise or in one that nobody waits for would end a worker of users. */
function crashed(error) {
  fail(current[0], 'uncaught', [`uncaught: ${error?.stack ?? error}`]);
}
process.on('uncaughtException', crashed);
process.on('unhandledRejection', crashed);

async function tryRange({ from, to }) {
  const kinds = {};
  const overTcp = [];
  let bytesFed = 0;
  for (let number = from; number < to; number++) {
    current[0] = number;
    const { wrong, kind, bytes } = await tryInMemory(network, seed, number);
    kinds[kind] = (kinds[kind] ?? 0) + 1;
    bytesFed += bytes;
    if (wrong.length > 0) {
      fail(number, 'in memory', wrong);
      // What is left of it must not be blamed on the next.
      network = new FakeNetwork();
    }
    if (tcpEvery > 0 && number % tcpEvery === 0) overTcp.push(number);
  }
  let latestMs = 0;
  if (overTcp.length > 0) {
    latestMs = await tryOverTcp(seed, overTcp, (number, wrong) => {
      if (wrong.length > 0) fail(number, 'over TCP', wrong);
    });
  }
  const said = { replies: to - from, overTcp: overTcp.length, bytesFed, kinds, latestMs, failures };
  failures = [];
  return said;
}

parentPort.on('message', async (range) => parentPort.postMessage(await tryRange(range)));
