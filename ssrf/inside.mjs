// The trial itself, in a network of its own in which every address there is leads to this process.
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createAddressPolicy } from '../dist/core/addresses.js';
import { defaultSendRules } from '../dist/core/send-rules.js';
import { createHttpClient } from '../dist/http/client.js';
import { createSystemLookup } from '../dist/http/names/system-lookup.js';
import { randomOf } from '../soak/random.mjs';
import { startNameServer } from './name-server.mjs';
import { canaries, dead, front, tellOf, tryOf } from './tries.mjs';

const { tries, seed, lanes, timeoutMs, allow } = JSON.parse(process.argv[2]);
const nameServerPort = 5353;
const ports = [80, 443, 8080];
const examplesMax = 20;

const hostsFile = `
127.0.0.1 localhost
::1 ip6-localhost localhost6.localdomain6
169.254.169.254 metadata metadata.google.internal instance-data
10.0.0.1 intranet.company.com
`;

/** From here on nothing reaches the machine's own network, and every address is this process's. */
function takeAllAddresses() {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  execFileSync('ip', ['route', 'add', 'local', '0.0.0.0/0', 'dev', 'lo']);
  execFileSync('ip', ['-6', 'route', 'add', 'local', '::/0', 'dev', 'lo']);
  execFileSync('ip', ['route', 'add', 'unreachable', dead.ipv4, 'table', 'local']);
  execFileSync('ip', ['-6', 'route', 'add', 'unreachable', dead.ipv6, 'table', 'local']);
}

/** Listens on all addresses. What arrives at the attacker's own is answered; what arrives elsewhere is written down. */
async function listenEverywhere() {
  const reached = new Map();
  const server = http.createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
    const query = new URL(request.url, 'http://front').searchParams;
    const [location, then] = [query.get('to'), query.get('then')];
    if (then === 'close') response.setHeader('Connection', 'close');
    if (location === null) response.end('here');
    else response.writeHead(Number(query.get('status')), { Location: Buffer.from(location).toString('latin1') }).end();
    // The next request on this connection finds it dead, and goes to another one.
    if (then === 'reset') setTimeout(() => request.socket.resetAndDestroy(), 1);
  });
  const listeners = ports.map((port) => {
    const listener = net.createServer((socket) => {
      const address = socket.localAddress?.replace(/^::ffff:(?=\d+\.)/, '') ?? 'gone';
      reached.set(address, (reached.get(address) ?? 0) + 1);
      server.emit('connection', socket);
    });
    listener.listen(port, '::');
    return listener;
  });
  await Promise.all(listeners.map((listener) => once(listener, 'listening')));
  const close = () => {
    for (const each of [server, ...listeners]) each.close();
  };
  return { reached, close };
}

/** The HTTP client as a worker has it, asking our name server. */
function clientOf(directory) {
  const paths = { hostsPath: 'hosts', resolvConfPath: 'resolv.conf', nsswitchPath: 'nsswitch.conf' };
  const files = {
    hosts: hostsFile,
    'resolv.conf': 'nameserver 127.0.0.1\nsearch corp.internal\noptions timeout:1 attempts:1\n',
    'nsswitch.conf': 'hosts: files dns\n',
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
  const at = Object.fromEntries(Object.entries(paths).map(([option, name]) => [option, join(directory, name)]));
  return createHttpClient({
    userAgent: 'ssrf',
    policy: createAddressPolicy({ allow }),
    redirectsMax: 6,
    lookup: createSystemLookup({ ...at, nameServerPort, hostname: () => 'worker' }),
  });
}

function claimed({ url, method, headers }) {
  const row = {
    id: 1n,
    method,
    url,
    headersJson: '{}',
    body: null,
    timeoutMs,
    loginRole: 1,
    setRole: null,
    signWith: null,
  };
  return { kind: 'sendable', row, headers, hostRules: undefined, secretHeaders: new Set(), spentMs: 0 };
}

async function main() {
  takeAllAddresses();
  const random = randomOf(seed, 'tries');
  const directory = mkdtempSync(join(tmpdir(), 'pgfetch-ssrf-'));
  const everywhere = await listenEverywhere();
  const nameServer = await startNameServer({ port: nameServerPort, say: tellOf, random: randomOf(seed, 'names') });
  const client = clientOf(directory);
  const isFront = (address) => Object.values(front).includes(address);
  const strays = () => [...everywhere.reached].filter(([address]) => !isFront(address));
  const became = {};
  const ways = {};
  const redirected = { requests: 0, hops: 0 };
  const examples = [];
  let begun = 0;

  const lane = async () => {
    while (begun < tries) {
      begun += 1;
      const attempt = tryOf(random);
      const before = strays().reduce((sum, [, count]) => sum + count, 0);
      const outcome = await client.send(claimed(attempt), defaultSendRules);
      const kind = outcome.kind === 'reply' ? `status ${outcome.status}` : outcome.code;
      became[kind] = (became[kind] ?? 0) + 1;
      ways[attempt.way] = (ways[attempt.way] ?? 0) + 1;
      if (outcome.redirected !== undefined) {
        redirected.requests += 1;
        redirected.hops += outcome.redirected.hops;
      }
      if (strays().reduce((sum, [, count]) => sum + count, 0) > before && examples.length < examplesMax) {
        examples.push(`${attempt.method} ${attempt.url} (${attempt.what}; or one of those beside it)`);
      }
    }
  };
  try {
    await Promise.all(Array.from({ length: lanes }, lane));
  } finally {
    await client.close();
    nameServer.close();
    everywhere.close();
    rmSync(directory, { recursive: true });
  }
  return {
    tries: begun,
    ways,
    became,
    'requests that were redirected': redirected.requests,
    'redirects followed': redirected.hops,
    'questions to the name server': nameServer.questions(),
    "connections to the attacker's own server": Object.values(front).reduce(
      (sum, address) => sum + (everywhere.reached.get(address) ?? 0),
      0,
    ),
    canaries: Object.fromEntries(canaries.map((address) => [address, everywhere.reached.get(address) ?? 0])),
    elsewhere: Object.fromEntries(strays().filter(([address]) => !canaries.includes(address))),
    examples,
  };
}

process.stdout.write(JSON.stringify(await main()));
process.exit(0);
