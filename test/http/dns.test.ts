import { stat } from 'node:fs/promises';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { createAddressPolicy } from '../../src/core/addresses.ts';
import { Cancellation } from '../../src/core/cancellation.ts';
import { Deadline } from '../../src/http/deadline.ts';
import { createGetaddrinfo } from '../../src/http/names/getaddrinfo.ts';
import type { Lookup } from '../../src/http/resolve.ts';
import { createResolver } from '../../src/http/resolve.ts';
import { expectFailure, expectReply, httpServer, request, testClient, text } from './loopback.ts';
import {
  addresses,
  dnsMessage,
  type NameServerReply,
  nameServer,
  type Question,
  type SystemFiles,
  testSystem,
} from './name-server.ts';

const linuxOnly = process.platform === 'linux';

/** Of somebody who waits until the end. */
const unaborted = (): AbortSignal => new AbortController().signal;

/** The addresses that a lookup finds, in its order. */
async function found(lookup: Lookup, name: string): Promise<readonly string[]> {
  return (await lookup(name, unaborted())).map(({ address }) => address);
}

/** A server that replies so to every question, and a lookup that asks it. */
async function systemWith(reply: (question: Question) => NameServerReply, files: SystemFiles = {}) {
  const server = await nameServer(reply);
  return { server, ...(await testSystem(files, { nameServerPort: server.port })) };
}

/** A reply for the names given, `nxdomain` for others. */
function zone(names: Readonly<Record<string, readonly string[] | NameServerReply>>) {
  return (question: Question): NameServerReply => {
    const entry = names[question.name];
    if (entry === undefined) return 'nxdomain';
    return Array.isArray(entry) && entry.every((each) => typeof each === 'string')
      ? addresses(entry)(question)
      : (entry as NameServerReply);
  };
}

describe('a name is looked for', () => {
  it('at the name servers, for both families at once', async () => {
    const { server, lookup } = await systemWith(zone({ 'both.example': ['127.0.0.1', '::1'] }));
    expect(await lookup('both.example', unaborted())).toEqual([
      { address: '::1', family: 6, ttlSeconds: 60 },
      { address: '127.0.0.1', family: 4, ttlSeconds: 60 },
    ]);
    expect([...server.asked].sort()).toEqual(['both.example A', 'both.example AAAA']);
  });

  it.each([
    ['IPv4', ['127.0.0.1']],
    ['IPv6', ['::1']],
  ])('and found where it has %s only', async (_family, list) => {
    const { lookup } = await systemWith(zone({ 'one.example': list }));
    expect(await found(lookup, 'one.example')).toEqual(list);
  });

  it('along a chain of aliases, kept as long as the shortest of them', async () => {
    const { lookup } = await systemWith(({ type }) =>
      type === 'AAAA'
        ? []
        : [
            { type: 'CNAME', name: 'alias.example', ttl: 300, data: 'middle.example' },
            { type: 'CNAME', name: 'middle.example', ttl: 7, data: 'real.example' },
            { type: 'A', name: 'real.example', ttl: 60, data: '127.0.0.1' },
          ],
    );
    expect(await lookup('alias.example', unaborted())).toEqual([{ address: '127.0.0.1', family: 4, ttlSeconds: 7 }]);
  });

  it('over TCP where the answer does not fit, and up to 128 addresses of a kind are used', async () => {
    const list = Array.from({ length: 200 }, (_, i) => `10.0.0.${i}`);
    const { lookup } = await systemWith((question) =>
      question.over === 'udp' ? 'truncated' : addresses(list)(question),
    );
    expect(await found(lookup, 'large.example')).toEqual(list.slice(0, 128));
  });

  it('in upper case as in lower', async () => {
    const { lookup } = await systemWith(zone({ 'case.example': ['127.0.0.1'] }), { hosts: '127.0.0.9 Other.Example' });
    expect(await found(lookup, 'CASE.example')).toEqual(['127.0.0.1']);
    expect(await found(lookup, 'otheR.example')).toEqual(['127.0.0.9']);
  });

  it('once more at the next server when one is not there, or fails', async () => {
    const port = (await nameServer(zone({ 'one.example': ['127.0.0.1'] }), { host: '127.0.0.3' })).port;
    await nameServer(() => 'servfail', { host: '127.0.0.2', port });
    // Nobody listens on 127.0.0.1.
    const resolvConf = 'nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\noptions attempts:1\n';
    const { lookup } = await testSystem({ resolvConf }, { nameServerPort: port });
    expect(await found(lookup, 'one.example')).toEqual(['127.0.0.1']);
  });

  it('beginning with another server each time where the file says rotate', async () => {
    const first = await nameServer(addresses(['127.0.0.1']), { host: '127.0.0.1' });
    const second = await nameServer(addresses(['127.0.0.1']), { host: '127.0.0.2', port: first.port });
    const resolvConf = 'nameserver 127.0.0.1\nnameserver 127.0.0.2\noptions rotate no-aaaa\n';
    const { lookup } = await testSystem({ resolvConf }, { nameServerPort: first.port });
    for (const name of ['a.example', 'b.example', 'c.example', 'd.example']) await found(lookup, name);
    expect([first.asked.length, second.asked.length]).toEqual([2, 2]);
  });

  it('although a server never answers for one of the families', async () => {
    const reply = (question: Question) => (question.type === 'AAAA' ? 'silence' : addresses(['127.0.0.1'])(question));
    const { lookup } = await systemWith(reply, { resolvConf: 'nameserver 127.0.0.1\noptions timeout:5 attempts:5\n' });
    expect(await found(lookup, 'one.example')).toEqual(['127.0.0.1']);
  }, 15_000);

  it('once more where a question is lost', async () => {
    let questions = 0;
    const { lookup } = await systemWith(
      (question) => {
        questions += 1;
        return questions === 1 ? 'silence' : addresses(['127.0.0.1'])(question);
      },
      { resolvConf: 'nameserver 127.0.0.1\noptions timeout:1 attempts:2 no-aaaa\n' },
    );
    expect(await found(lookup, 'one.example')).toEqual(['127.0.0.1']);
    expect(questions).toBe(2);
  });

  it('but not again at a server that answered with a failure', async () => {
    const { server, lookup } = await systemWith(() => 'servfail', { resolvConf: 'options attempts:5 no-aaaa\n' });
    expect(await found(lookup, 'one.example')).toEqual([]);
    expect(server.asked).toEqual(['one.example A']);
  });

  it('whatever else arrives with another id, or for another question', async () => {
    const forged = ['203.0.113.66'];
    const { lookup } = await systemWith((question) => (id) => {
      const questions = [{ name: question.name, type: question.type }];
      const other = { name: 'other.example', type: question.type };
      return [
        dnsMessage(id ^ 1, { questions, answers: addresses(forged)(question) }),
        dnsMessage(id, { questions: [other], answers: addresses(forged)({ ...question, ...other }) }),
        dnsMessage(id, { questions, answers: addresses(['127.0.0.1'])(question) }),
      ];
    });
    expect(await found(lookup, 'one.example')).toEqual(['127.0.0.1']);
  });
});

describe('the hosts file', () => {
  it('comes before the name servers, all lines of it, and is read again when it has changed', async () => {
    const { server, lookup, rewrite } = await systemWith(zone({ 'api.example': ['10.0.0.1'] }), {
      hosts: '127.0.0.5 api.example # here\n::5 x API.example\n',
    });
    expect(await found(lookup, 'api.example')).toEqual(['::5', '127.0.0.5']);
    expect(server.asked).toEqual([]);
    await rewrite({ hosts: '127.0.0.6 api.example' });
    expect(await found(lookup, 'api.example')).toEqual(['127.0.0.6']);
    await rewrite({ hosts: '' });
    expect(await found(lookup, 'api.example')).toEqual(['10.0.0.1']);
  });

  it('comes where nsswitch.conf says', async () => {
    const { lookup, rewrite } = await systemWith(zone({ 'api.example': ['10.0.0.1'] }), {
      hosts: '127.0.0.5 api.example\n127.0.0.6 only-here.example',
      nsswitch: 'hosts: dns files',
    });
    expect(await found(lookup, 'api.example')).toEqual(['10.0.0.1']);
    expect(await found(lookup, 'only-here.example')).toEqual(['127.0.0.6']);
    await rewrite({ nsswitch: 'hosts: dns [NOTFOUND=return] files' });
    expect(await found(lookup, 'only-here.example')).toEqual([]);
    await rewrite({ nsswitch: 'hosts: files' });
    expect(await found(lookup, 'api.example')).toEqual(['127.0.0.5']);
    expect(await found(lookup, 'other.example')).toEqual([]);
  });
});

describe('search domains', () => {
  const resolvConf = 'nameserver 127.0.0.1\nsearch one.example two.example\noptions timeout:1 attempts:1 no-aaaa\n';

  it('are tried in order, for names of few dots before the name itself', async () => {
    const { server, lookup } = await systemWith(
      zone({ 'db.two.example': ['127.0.0.1'], 'a.b.one.example': ['127.0.0.2'], 'c.d': ['127.0.0.3'] }),
      { resolvConf },
    );
    expect(await found(lookup, 'db')).toEqual(['127.0.0.1']);
    expect(await found(lookup, 'a.b')).toEqual(['127.0.0.2']);
    expect(await found(lookup, 'c.d')).toEqual(['127.0.0.3']);
    const names = ['db.one.example', 'db.two.example', 'a.b', 'a.b.one.example', 'c.d'];
    expect(server.asked).toEqual(names.map((name) => `${name} A`));
  });

  it('are not tried for a name that ends in a dot', async () => {
    const { server, lookup } = await systemWith(zone({ 'db.one.example': ['127.0.0.1'] }), { resolvConf });
    expect(await found(lookup, 'db.')).toEqual([]);
    expect(server.asked).toEqual(['db A']);
  });

  it('go on after a failure and after a name without addresses, but not when nobody answers', async () => {
    const { server, lookup } = await systemWith(
      zone({
        'x.one.example': 'servfail',
        'x.two.example': ['127.0.0.1'],
        'y.one.example': [],
        'y.two.example': ['127.0.0.2'],
        'z.one.example': 'silence',
        'z.two.example': ['127.0.0.3'],
      }),
      { resolvConf },
    );
    expect(await found(lookup, 'x')).toEqual(['127.0.0.1']);
    expect(await found(lookup, 'y')).toEqual(['127.0.0.2']);
    expect(await found(lookup, 'z')).toEqual([]);
    expect(server.asked.slice(-2)).toEqual(['z.one.example A', 'z A']);
  });

  it('are given up, but not the name itself, where one server refuses and the other is not there', async () => {
    const { port } = await nameServer(
      zone({ 'db.one.example': 'refused', 'db.two.example': ['127.0.0.1'], db: ['127.0.0.2'] }),
    );
    const servers = 'nameserver 127.0.0.1\nnameserver 127.0.0.9\n';
    const { lookup } = await testSystem(
      { resolvConf: `${servers}search one.example two.example\n` },
      { nameServerPort: port },
    );
    expect(await found(lookup, 'db')).toEqual(['127.0.0.2']);
  });

  it('change with the file', async () => {
    const { lookup, rewrite } = await systemWith(zone({ 'db.three.example': ['127.0.0.1'] }), { resolvConf });
    expect(await found(lookup, 'db')).toEqual([]);
    await rewrite({ resolvConf: 'nameserver 127.0.0.1\ndomain three.example\n' });
    expect(await found(lookup, 'db')).toEqual(['127.0.0.1']);
  });
});

describe('a request to a name', () => {
  it.each([
    ['does not exist', () => 'nxdomain'],
    ['has no addresses', () => []],
    ['a server fails at', () => 'servfail'],
    ['a server will not look for', () => 'refused'],
    ['nobody answers for', () => 'silence'],
    ['is answered with noise', () => () => [Buffer.from('noise')]],
    ['is answered with an id and noise', () => (id) => [Buffer.from([id >> 8, id & 255, ...Array(200).fill(255)])]],
  ] satisfies [string, (question: Question) => NameServerReply][])('that %s says so', async (_what, reply) => {
    const { lookup } = await systemWith(reply);
    const outcome = expectFailure(await testClient({ lookup }).send(request('http://name.example/')));
    expect(outcome).toMatchObject({ code: 'unresolvable', message: "Couldn't resolve host name" });
  });

  it('where there is no name server says so', async () => {
    const { port } = await nameServer(() => 'silence', { host: '127.0.0.2' });
    const { lookup } = await testSystem({}, { nameServerPort: port });
    const outcome = await testClient({ lookup }).send(request('http://name.example/'));
    expect(outcome).toMatchObject({ code: 'unresolvable' });
  });

  it('is denied if the last of many addresses is', async () => {
    const list = [...Array.from({ length: 40 }, (_, i) => `127.0.1.${i}`), '10.0.0.1'];
    const { lookup } = await systemWith((question) =>
      question.over === 'udp' ? 'truncated' : addresses(list)(question),
    );
    expect(await testClient({ lookup }).send(request('http://many.example/'))).toMatchObject({ code: 'denied' });
  });

  it('that ends at its deadline counts the wait under DNS, and stops asking', async () => {
    const { server, lookup } = await systemWith(() => 'silence', { resolvConf: 'nameserver 127.0.0.1\n' });
    const signals: AbortSignal[] = [];
    const client = testClient({
      lookup: (name, signal) => {
        signals.push(signal);
        return lookup(name, signal);
      },
    });
    const outcome = expectFailure(await client.send(request('http://slow.example/', { timeoutMs: 300 })));
    expect(outcome.code).toBe('timed_out');
    expect(outcome.timings.dnsMs).toBeGreaterThan(outcome.timings.totalMs / 2);
    expect(outcome.message).toContain(`DNS time: ${outcome.timings.dnsMs.toFixed(6)} ms`);
    expect(signals.map(({ aborted }) => aborted)).toEqual([true]);
    expect([...server.asked].sort()).toEqual(['slow.example A', 'slow.example AAAA']);
  });
});

describe('a slow name server', () => {
  it('for 50 names at once delays neither another name nor the file system', async () => {
    const web = await httpServer((_incoming, response) => response.end('here'));
    const { server, lookup } = await systemWith((question) =>
      question.name === 'quick.example' ? addresses(['127.0.0.1'])(question) : 'silence',
    );
    const client = testClient({ lookup });
    const stops = Array.from({ length: 50 }, () => new Cancellation());
    const slow = stops.map((stop, i) => client.send(request(`http://n${i}.slow.example/`), undefined, stop));
    let settled = 0;
    for (const sent of slow) void sent.then(() => (settled += 1));
    await vi.waitFor(() => expect(server.asked.length).toBeGreaterThanOrEqual(100));
    expect(text(expectReply(await client.send(request(`http://quick.example:${web.port}/`))))).toBe('here');
    expect((await stat('/')).isDirectory()).toBe(true);
    expect(settled).toBe(0);
    for (const stop of stops) stop.ask();
    for (const outcome of await Promise.all(slow)) expect(outcome).toMatchObject({ code: 'cancelled' });
  });

  it('ends with whoever asked: an abandoned lookup comes to its end at once', async () => {
    const { server, lookup } = await systemWith(() => 'silence', {
      resolvConf: 'nameserver 127.0.0.1\noptions timeout:5\n',
    });
    const abandoned = new AbortController();
    const looking = lookup('slow.example', abandoned.signal);
    await vi.waitFor(() => expect(server.asked).toHaveLength(2));
    const ended = vi.fn();
    void looking.then(ended);
    abandoned.abort();
    // Sooner than the server's time is up.
    await vi.waitFor(() => expect(ended).toHaveBeenCalledWith([]), 3_000);
    expect(await lookup('later.example', abandoned.signal)).toEqual([]);
    expect(server.asked).toHaveLength(2);
  });

  it('lets requests whose lookup never ends settle by their deadline', async () => {
    const client = testClient({ lookup: () => new Promise(() => {}) });
    const sent = Array.from({ length: 100 }, (_, i) =>
      client.send(request(`http://n${i % 30}.example/`, { timeoutMs: 100 + i })),
    );
    for (const outcome of await Promise.all(sent)) {
      expect(outcome).toMatchObject({ kind: 'failure', code: 'timed_out', timings: { transferMs: 0 } });
      expect(outcome.timings.dnsMs).toBeGreaterThan(outcome.timings.totalMs / 2);
    }
  });
});

describe('what was found', () => {
  const policy = createAddressPolicy({ allow: ['loopback'] });

  /** A resolver with a clock of the test's own, and how often it has asked. */
  function resolverOf(answer: () => Awaited<ReturnType<Lookup>>) {
    const state = { nowMs: 0, lookups: 0 };
    const lookup: Lookup = async () => {
      state.lookups += 1;
      return answer();
    };
    const resolver = createResolver(policy, lookup, () => state.nowMs);
    return { state, forget: resolver.forget, resolve: (host: string) => resolver.resolve(host, deadline()) };
  }

  function deadline(): Deadline {
    const made = new Deadline(
      10_000,
      () => performance.now(),
      () => undefined,
    );
    onTestFinished(() => made.end());
    return made;
  }

  it.each([
    [5, 5],
    [3_600, 60],
  ])('with a time to live of %d s is kept for %d s', async (ttlSeconds, keptSeconds) => {
    const { state, resolve } = resolverOf(() => [
      { address: '127.0.0.1', family: 4, ttlSeconds },
      { address: '::1', family: 6, ttlSeconds: 86_400 },
    ]);
    await resolve('name.example');
    state.nowMs = keptSeconds * 1_000 - 1;
    expect(await resolve('name.example')).toEqual(['127.0.0.1', '::1']);
    expect(state.lookups).toBe(1);
    state.nowMs += 1;
    await resolve('name.example');
    expect(state.lookups).toBe(2);
  });

  it.each([[0], [undefined]])('with a time to live of %s is not kept', async (ttlSeconds) => {
    const { state, resolve } = resolverOf(() => [
      { address: '127.0.0.1', family: 4, ...(ttlSeconds === undefined ? {} : { ttlSeconds }) },
    ]);
    await resolve('name.example');
    await resolve('name.example');
    expect(state.lookups).toBe(2);
  });

  it('is kept for a few names only', async () => {
    const { state, resolve } = resolverOf(() => [{ address: '127.0.0.1', family: 4, ttlSeconds: 60 }]);
    for (let i = 0; i <= 256; i += 1) await resolve(`n${i}.example`);
    expect(state.lookups).toBe(257);
    await resolve('n256.example');
    await resolve('n1.example');
    expect(state.lookups).toBe(257);
    await resolve('n0.example');
    expect(state.lookups).toBe(258);
  });

  it('is never a failure', async () => {
    let answer: Awaited<ReturnType<Lookup>> = [];
    const { resolve } = resolverOf(() => answer);
    expect(await resolve('name.example')).toMatchObject({ code: 'unresolvable' });
    answer = [{ address: '127.0.0.1', family: 4, ttlSeconds: 60 }];
    expect(await resolve('name.example')).toEqual(['127.0.0.1']);
  });

  it('is judged each time it is used', async () => {
    let isDenied = false;
    const changing = { ...policy, addressDenial: () => (isDenied ? 'now' : undefined) };
    const lookup = async () => [{ address: '127.0.0.1', family: 4, ttlSeconds: 60 }];
    const { resolve } = createResolver(changing, lookup);
    expect(await resolve('name.example', deadline())).toEqual(['127.0.0.1']);
    isDenied = true;
    expect(await resolve('name.example', deadline())).toMatchObject({ code: 'denied' });
  });

  it('and now leads elsewhere is judged anew (rebinding)', async () => {
    const web = await httpServer((_incoming, response) => response.end('here'));
    let list = ['127.0.0.1'];
    const { lookup } = await systemWith((question) => addresses(list, 0)(question));
    const client = testClient({ lookup });
    expectReply(await client.send(request(`http://rebinding.example:${web.port}/`)));
    list = ['169.254.169.254'];
    expect(await client.send(request(`http://rebinding.example:${web.port + 1}/`))).toMatchObject({ code: 'denied' });
  });

  it('is asked for once for several connections, and anew when one could not be made', async () => {
    const web = await httpServer((_incoming, response) => response.setHeader('Connection', 'close').end('here'));
    let list = ['127.0.0.1'];
    const { server, lookup } = await systemWith((question) => addresses(list)(question));
    const client = testClient({ lookup });
    const url = `http://moving.example:${web.port}/`;
    for (let i = 0; i < 3; i += 1) expectReply(await client.send(request(url)));
    expect(web.connections()).toBe(3);
    expect(server.asked).toHaveLength(2);
    const otherPort = `http://moving.example:${(await nameServer(() => 'silence', { host: '127.0.0.9' })).port}/`;
    expect(await client.send(request(otherPort))).toMatchObject({ code: 'connect_failed' });
    list = ['127.0.0.2'];
    expect(await client.send(request(url))).toMatchObject({ code: 'connect_failed' });
    expect(server.asked).toHaveLength(4);
  });
});

describe('getaddrinfo', () => {
  const loopback = async () => [{ address: '127.0.0.7', family: 4 }];

  it('is asked where only it can tell', async () => {
    const reply = zone({ 'name.example': ['127.0.0.1'] });
    const server = await nameServer(reply);
    const names = ['name.example', 'other.example', 'printer.local', 'worker-1', 'machine'];
    const sources: Record<string, Record<string, string | undefined>> = {};
    for (const services of [
      'files dns',
      'files mdns4_minimal [NOTFOUND=return] dns myhostname',
      'mymachines resolve [!UNAVAIL=return] files myhostname dns',
      'files ldap dns',
      'files dns [SUCCESS=continue] wins',
    ]) {
      const { lookup } = await testSystem(
        { nsswitch: `hosts: ${services}`, resolvConf: 'options attempts:1 timeout:1\n' },
        { nameServerPort: server.port, getaddrinfo: loopback },
      );
      const rows = names.map(async (name) => [name, (await found(lookup, name))[0]] as const);
      sources[services] = Object.fromEntries(await Promise.all(rows));
    }
    const dns = '127.0.0.1';
    const system = '127.0.0.7';
    const none = undefined;
    const row = (...cells: (string | undefined)[]) => Object.fromEntries(names.map((name, i) => [name, cells[i]]));
    expect(sources).toEqual({
      'files dns': row(dns, none, none, none, none),
      'files mdns4_minimal [NOTFOUND=return] dns myhostname': row(dns, none, system, system, none),
      'mymachines resolve [!UNAVAIL=return] files myhostname dns': row(dns, none, none, system, system),
      'files ldap dns': row(system, system, system, system, system),
      'files dns [SUCCESS=continue] wins': row(system, system, system, system, system),
    });
  });

  it.each(['options use-vc', 'nameserver fe80::1%eth0'])('is asked where resolv.conf says %s', async (line) => {
    const { lookup } = await testSystem({ resolvConf: `nameserver 127.0.0.1\n${line}\n` }, { getaddrinfo: loopback });
    expect(await found(lookup, 'name.example')).toEqual(['127.0.0.7']);
  });

  it.each(['darwin', 'win32', 'freebsd'] as const)('is asked on %s', async (platform) => {
    const { lookup } = await testSystem({}, { platform, getaddrinfo: loopback });
    expect(await found(lookup, 'name.example')).toEqual(['127.0.0.7']);
  });

  it('is asked for two names at a time; who waits for a turn can give up', async () => {
    const pending = new Map<string, () => void>();
    const lookup = createGetaddrinfo(
      (name) => new Promise((resolve) => pending.set(name, () => resolve([{ address: '127.0.0.1', family: 4 }]))),
    );
    const [first, second] = ['a', 'b'].map((name) => lookup(name, unaborted()));
    const abandoned = new AbortController();
    const third = lookup('c', abandoned.signal);
    const fourth = lookup('d', unaborted());
    await vi.waitFor(() => expect(pending.size).toBe(2));
    abandoned.abort();
    expect(await third).toEqual([]);
    pending.get('a')?.();
    expect(await first).toHaveLength(1);
    await vi.waitFor(() => expect([...pending.keys()]).toEqual(['a', 'b', 'd']));
    pending.get('b')?.();
    pending.get('d')?.();
    expect([...((await second) ?? []), ...(await fourth)]).toHaveLength(2);
  });

  it('resolves what this machine knows', async () => {
    const list = await createGetaddrinfo()('localhost', unaborted());
    expect(list.map(({ address }) => address)).toContain('127.0.0.1');
  });
});

it.runIf(linuxOnly)('the files of this machine can be read', async () => {
  const { lookup } = await testSystem({}, { resolvConfPath: '/etc/resolv.conf', hostsPath: '/etc/hosts' });
  expect(await found(lookup, 'localhost')).toContain('127.0.0.1');
});
