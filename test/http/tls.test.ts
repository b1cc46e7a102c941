import { createPrivateKey, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import https from 'node:https';
import net from 'node:net';
import { Duplex } from 'node:stream';
import { text as textOf } from 'node:stream/consumers';
import tls from 'node:tls';
import { beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import type { Outcome } from '../../src/core/outcome.ts';
import type { HttpClient, HttpClientOptions } from '../../src/http/client.ts';
import { Deadline } from '../../src/http/deadline.ts';
import { createTlsClient, type TlsSettings } from '../../src/http/tls.ts';
import { type Authority, createAuthority, type Issued, selfSigned } from '../support/authority.ts';
import { expectReply, httpServer, listen, request, type TestServer, tcpServer, testClient, text } from './loopback.ts';

let authority: Authority;
let localhost: Issued;

beforeAll(async () => {
  authority = await createAuthority('Test authority');
  localhost = await authority.issue({ hosts: ['localhost'] });
});

/** What a server knows of the connection on which a request came. */
type Seen = {
  readonly serverName: string | false;
  readonly protocol: string;
  readonly alpn: string | false;
  readonly isResumed: boolean;
  /** The common name of the client's certificate. */
  readonly client?: string;
};

/** Answers each request on a connection of its own, with what it sees of it. */
function secureServer(
  options: https.ServerOptions,
  { host = '127.0.0.1', onRequest = () => {} }: { host?: string; onRequest?: () => void } = {},
): Promise<TestServer> {
  const server = https.createServer(options, (incoming, response) => {
    onRequest();
    const socket = incoming.socket as tls.TLSSocket & { servername?: string | false };
    const client = socket.getPeerCertificate().subject?.CN;
    const seen: Seen = {
      serverName: socket.servername || false,
      protocol: socket.getProtocol() ?? '',
      alpn: socket.alpnProtocol ?? false,
      isResumed: socket.isSessionReused(),
      ...(socket.authorized && client !== undefined && { client: String(client) }),
    };
    response.writeHead(200, { Connection: 'close' }).end(JSON.stringify(seen));
  });
  return listen(server, 'https', host);
}

/** A client for which every name leads to this machine. */
const clientWith = (settings: TlsSettings, options: Partial<HttpClientOptions> = {}): HttpClient =>
  testClient({ tls: settings, lookup: async () => [{ address: '127.0.0.1', family: 4 }], ...options });

const get = (client: HttpClient, host: string, { port }: TestServer, timeoutMs = 10_000): Promise<Outcome> =>
  client.send(request(`https://${host}:${port}/`, { timeoutMs }));

const seen = async (client: HttpClient, host: string, server: TestServer): Promise<Seen> =>
  JSON.parse(text(expectReply(await get(client, host, server)))) as Seen;

describe('a certificate is refused', () => {
  const untrusted = 'certificate_untrusted';
  const wrongHost = 'certificate_wrong_host';
  const below = async (middle: Promise<Authority>, withChain: boolean): Promise<Issued> => {
    const { cert, issue } = await middle;
    const issued = await issue();
    return withChain ? { ...issued, cert: issued.cert + cert } : issued;
  };
  const refusals: readonly {
    readonly what: string;
    readonly code: string;
    readonly issue: () => Promise<Issued>;
    readonly host?: string;
  }[] = [
    { what: 'expired', code: 'certificate_expired', issue: () => authority.issue({ validDays: [-2, -1] }) },
    { what: 'not yet valid', code: 'certificate_not_yet_valid', issue: () => authority.issue({ validDays: [1, 2] }) },
    {
      what: 'expired, and for another name',
      code: 'certificate_expired',
      issue: () => authority.issue({ hosts: ['other.example'], validDays: [-2, -1] }),
    },
    { what: 'self-signed', code: untrusted, issue: () => selfSigned() },
    { what: 'of an unknown authority', code: untrusted, issue: async () => (await createAuthority('Unknown')).issue() },
    {
      what: 'of one that has the name of a known authority',
      code: untrusted,
      issue: async () => (await createAuthority('Test authority')).issue(),
    },
    {
      what: 'without the intermediate',
      code: untrusted,
      issue: () => below(authority.intermediate('Between'), false),
    },
    {
      what: 'signed by one that is no authority',
      code: untrusted,
      issue: () => below(authority.intermediate('Leaf', { mayNot: true }), true),
    },
    { what: 'for another name', code: wrongHost, issue: () => authority.issue({ hosts: ['other.example'] }) },
    {
      what: 'for another address',
      code: wrongHost,
      issue: () => authority.issue({ hosts: ['127.0.0.2'] }),
      host: '127.0.0.1',
    },
    { what: 'for a name, not the address', code: wrongHost, issue: () => authority.issue(), host: '127.0.0.1' },
    { what: 'for the address, not a name', code: wrongHost, issue: () => authority.issue({ hosts: ['127.0.0.1'] }) },
    {
      what: 'for other addresses than the common name',
      code: wrongHost,
      issue: () => authority.issue({ hosts: ['127.0.0.2'], commonName: '127.0.0.1' }),
      host: '127.0.0.1',
    },
    {
      what: 'for other names than the common one',
      code: wrongHost,
      issue: () => authority.issue({ hosts: ['other.example'], commonName: 'localhost' }),
    },
    {
      what: 'for a name two labels above',
      code: wrongHost,
      issue: () => authority.issue({ hosts: ['*.b.example'] }),
      host: 'x.a.b.example',
    },
    {
      what: 'for the names below',
      code: wrongHost,
      issue: () => authority.issue({ hosts: ['*.b.example'] }),
      host: 'b.example',
    },
  ];

  it.each(refusals)('$what: $code', async ({ code, issue, host = 'localhost' }) => {
    let requests = 0;
    const server = await secureServer(await issue(), { onRequest: () => (requests += 1) });
    const outcome = await get(clientWith({ ca: authority.cert }), host, server);
    expect(outcome).toMatchObject({ code, message: 'SSL peer certificate or SSH remote key was not OK' });
    await server.idle();
    expect(requests).toBe(0);
  });

  it('whose authority has expired', async () => {
    const expired = await createAuthority('Expired', [-2, -1]);
    const server = await secureServer(await expired.issue());
    expect(await get(clientWith({ ca: expired.cert }), 'localhost', server)).toMatchObject({
      code: 'certificate_expired',
    });
  });

  it('each time, also when it was sent a session to resume', async () => {
    const server = await secureServer({
      ...(await authority.issue({ hosts: ['other.example'] })),
      maxVersion: 'TLSv1.2',
    });
    const client = clientWith({ ca: authority.cert });
    for (let i = 0; i < 3; i++) {
      expect(await get(client, 'localhost', server)).toMatchObject({ code: wrongHost });
    }
  });
});

describe('a handshake fails', () => {
  const failed = { code: 'tls_failed', message: 'SSL connect error' };
  const weak = { ciphers: 'DEFAULT@SECLEVEL=0' };
  const servers: readonly { readonly what: string; readonly start: () => Promise<TestServer> }[] = [
    {
      what: 'with TLS 1.0',
      start: () => secureServer({ ...localhost, ...weak, minVersion: 'TLSv1', maxVersion: 'TLSv1' }),
    },
    {
      what: 'with TLS 1.1',
      start: () => secureServer({ ...localhost, ...weak, minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1' }),
    },
    {
      what: 'where no cipher is common',
      start: () =>
        secureServer({
          ...localhost,
          maxVersion: 'TLSv1.2',
          ciphers: 'ECDHE-ECDSA-AES256-SHA:@SECLEVEL=0',
          sigalgs: 'RSA+SHA256',
        }),
    },
    {
      what: 'where none of our protocols is spoken',
      start: () => secureServer({ ...localhost, ALPNCallback: () => undefined }),
    },
    {
      what: 'where TLS 1.2 asks for a certificate',
      start: () => secureServer({ ...localhost, requestCert: true, maxVersion: 'TLSv1.2' }),
    },
    { what: 'with HTTP', start: () => httpServer((_request, response) => response.end()) },
    {
      what: 'with one who speaks first',
      start: () => tcpServer((socket) => socket.resume().write('220 mail.example ESMTP\r\n')),
    },
    { what: 'with one who leaves', start: () => tcpServer((socket) => socket.destroy()) },
    {
      what: 'with one who ends when it has heard us',
      start: () => tcpServer((socket) => socket.once('data', () => socket.end())),
    },
    {
      what: 'with one who resets',
      start: () => tcpServer((socket) => socket.once('data', () => socket.resetAndDestroy())),
    },
    {
      what: 'with one who leaves within a record',
      start: () => tcpServer((socket) => socket.once('data', () => socket.end(truncatedRecord))),
    },
    {
      what: 'with an alert',
      start: () => tcpServer((socket) => socket.once('data', () => socket.end(Buffer.from('15030300020250', 'hex')))),
    },
  ];

  it.each(servers)('$what: SSL connect error', async ({ start }) => {
    const server = await start();
    expect(await get(clientWith({ ca: authority.cert }), 'localhost', server)).toMatchObject(failed);
    await server.idle();
  });

  it.each([
    ['at once', ''],
    ['within a record', truncatedRecord.toString('latin1')],
  ])('at the deadline, with one who falls silent %s', async (_when, said) => {
    const server = await tcpServer((socket) => socket.resume().write(said, 'latin1'));
    const outcome = await get(clientWith({}), 'localhost', server, 100);
    expect(outcome).toMatchObject({ code: 'timed_out' });
    const { connectMs, transferMs, totalMs } = outcome.timings;
    expect(transferMs).toBe(0);
    expect(connectMs).toBeGreaterThan(totalMs / 2);
    await server.idle();
  });

  it('at the end of the client', async () => {
    const server = await tcpServer((socket) => socket.resume());
    const client = clientWith({});
    const outcome = get(client, 'localhost', server);
    await expect.poll(() => server.connections()).toBe(1);
    await client.close();
    expect(await outcome).toMatchObject({ code: 'cancelled' });
    await server.idle();
  });

  it('after it seemed done, where TLS 1.3 asks for a certificate', async () => {
    const server = await secureServer({ ...localhost, requestCert: true, minVersion: 'TLSv1.3' });
    expect(await get(clientWith({ ca: authority.cert }), 'localhost', server)).toMatchObject({
      code: 'receive_failed',
      message: 'Failure when receiving data from the peer',
    });
    await server.idle();
  });
});

/** The head of a record of 512 bytes, and the first of them. */
const truncatedRecord = Buffer.from('160303020002', 'hex');

describe('a certificate is accepted', () => {
  it.each([
    { what: 'for a name', hosts: ['localhost'] },
    { what: 'for a name, without the dot of a fully qualified one', hosts: ['localhost'], host: 'localhost.' },
    { what: 'whose letters have another case', hosts: ['API.Example'], host: 'aPi.eXample' },
    { what: 'for one name of several', hosts: ['a.example', 'b.example', '192.0.2.1'], host: 'b.example' },
    { what: 'for all names below one', hosts: ['*.b.example'], host: 'a.b.example' },
    { what: 'for an international name', hosts: ['xn--bcher-kva.example'], host: 'bücher.example' },
    { what: 'for an address', hosts: ['127.0.0.1'], host: '127.0.0.1', serverName: false as const },
    { what: 'for an address in another spelling', hosts: ['127.0.0.1'], host: '0x7f.1', serverName: false as const },
    { what: 'for an IPv6 address', hosts: ['::1'], host: '[0:0::1]', listensOn: '::1', serverName: false as const },
  ])('$what', async ({ hosts, host = 'localhost', listensOn = '127.0.0.1', serverName }) => {
    const server = await secureServer(await authority.issue({ hosts }), { host: listensOn });
    const name = new URL(`https://${host}`).hostname.replace(/\.$/, '');
    expect(await seen(clientWith({ ca: authority.cert }), host, server)).toMatchObject({
      serverName: serverName ?? name,
      protocol: 'TLSv1.3',
      isResumed: false,
    });
  });

  it.each(['localhost', '127.0.0.1'])('that has only a common name: %s', async (commonName) => {
    const server = await secureServer(await authority.issue({ hosts: [], commonName }));
    expect(await seen(clientWith({ ca: authority.cert }), commonName, server)).toMatchObject({ protocol: 'TLSv1.3' });
    const other = await secureServer(await authority.issue({ hosts: [], commonName: '127.0.0.2' }));
    expect(await get(clientWith({ ca: authority.cert }), commonName, other)).toMatchObject({
      code: 'certificate_wrong_host',
    });
  });

  it('of a chain, which comes with it in any order', async () => {
    const first = await authority.intermediate('First');
    const second = await first.intermediate('Second');
    const { cert, key } = await second.issue();
    for (const chain of [
      [second, first],
      [first, second],
      [second, first, authority],
    ]) {
      const server = await secureServer({ key, cert: [cert, ...chain.map((each) => each.cert)].join('') });
      expect(await seen(clientWith({ ca: authority.cert }), 'localhost', server)).toMatchObject({
        protocol: 'TLSv1.3',
      });
    }
  });

  it('of an intermediate that is trusted itself, and one that is itself trusted', async () => {
    const between = await authority.intermediate('Between');
    const issued = await between.issue();
    const own = await selfSigned();
    for (const [options, ca] of [
      [issued, between.cert],
      [issued, issued.cert],
      [own, own.cert],
    ] as const) {
      const server = await secureServer(options);
      expect(await seen(clientWith({ ca }), 'localhost', server)).toMatchObject({ protocol: 'TLSv1.3' });
    }
  });

  it('of one of several authorities, beside which the usual ones stay', async () => {
    const other = await createAuthority('Other');
    const client = clientWith({ ca: [other.cert + authority.cert] });
    for (const each of [other, authority]) {
      const server = await secureServer(await each.issue());
      expect(await seen(client, 'localhost', server)).toMatchObject({ protocol: 'TLSv1.3' });
    }
  });

  it('with TLS 1.2', async () => {
    const server = await secureServer({ ...localhost, maxVersion: 'TLSv1.2' });
    expect(await seen(clientWith({ ca: authority.cert }), 'localhost', server)).toMatchObject({ protocol: 'TLSv1.2' });
  });

  it('that the name chooses, where one address serves several', async () => {
    const [a, b] = await Promise.all(['a.example', 'b.example'].map((name) => authority.issue({ hosts: [name] })));
    const server = await secureServer({
      ...a,
      SNICallback: (name, done) => done(null, tls.createSecureContext(name === 'b.example' ? b : a)),
    });
    const client = clientWith({ ca: authority.cert });
    for (const name of ['a.example', 'b.example', 'a.example']) {
      expect(await seen(client, name, server)).toMatchObject({ serverName: name });
    }
    expect(await get(client, 'c.example', server)).toMatchObject({ code: 'certificate_wrong_host' });
  });
});

describe('a session', () => {
  const versions = ['TLSv1.2', 'TLSv1.3'] as const;

  it.each(versions)('of %s is resumed, also when its connection has closed', async (protocol) => {
    const server = await secureServer({ ...localhost, minVersion: protocol, maxVersion: protocol });
    const client = clientWith({ ca: authority.cert });
    const resumed = [];
    for (let i = 0; i < 4; i++) {
      resumed.push((await seen(client, 'localhost', server)).isResumed);
      await server.idle();
    }
    expect(resumed).toEqual([false, true, true, true]);
  });

  it.each(versions)(
    'of %s is not resumed with another host, whose certificate would not be looked at',
    async (protocol) => {
      const server = await secureServer({ ...localhost, minVersion: protocol, maxVersion: protocol });
      const client = clientWith({ ca: authority.cert });
      expect(await seen(client, 'localhost', server)).toMatchObject({ isResumed: false });
      expect(await get(client, 'other.example', server)).toMatchObject({ code: 'certificate_wrong_host' });
      expect(await seen(client, 'localhost', server)).toMatchObject({ isResumed: true });
    },
  );

  it.each(versions)('of %s that the server does not know any more is none', async (protocol) => {
    const options = { ...localhost, minVersion: protocol, maxVersion: protocol };
    const server = https.createServer(options, (_incoming, response) =>
      response.writeHead(200, { Connection: 'close' }).end(),
    );
    const listening = await listen(server, 'https');
    const client = clientWith({ ca: authority.cert });
    for (let i = 0; i < 3; i++) {
      expectReply(await get(client, 'localhost', listening));
      server.setTicketKeys(randomBytes(48));
    }
  });

  it('is forgotten when a handshake with it fails', async () => {
    let fails = false;
    const front = await secureServer(localhost);
    const relay = await tcpServer((socket) => {
      if (fails) socket.destroy();
      else socket.pipe(net.connect(front.port, '127.0.0.1').on('error', () => socket.destroy())).pipe(socket);
    });
    const client = clientWith({ ca: authority.cert });
    await seen(client, 'localhost', relay);
    expect(await seen(client, 'localhost', relay)).toMatchObject({ isResumed: true });
    fails = true;
    expect(await get(client, 'localhost', relay)).toMatchObject({ code: 'tls_failed' });
    fails = false;
    expect(await seen(client, 'localhost', relay)).toMatchObject({ isResumed: false });
  });
});

describe('a client certificate', () => {
  let clients: Authority;
  let certificate: { readonly cert: string; readonly key: string };
  /** Asks for a certificate, and takes it for `bank.example` and all below. */
  let server: TestServer;

  beforeAll(async () => {
    clients = await createAuthority('Clients');
    certificate = await clients.issue({ hosts: [], commonName: 'us' });
  });
  beforeEach(async () => {
    const issued = await authority.issue({
      hosts: ['bank.example', '*.bank.example', '127.0.0.1', 'notbank.example', 'shop.example', 'localhost'],
    });
    server = await secureServer({ ...issued, ca: clients.cert, requestCert: true, rejectUnauthorized: false });
  });
  const withCertificate = (...hosts: string[]): HttpClient =>
    clientWith({ ca: authority.cert, clientCertificates: [{ hosts, ...certificate }] });

  it.each([
    ['bank.example', ['bank.example']],
    ['bank.example', ['Bank.Example.']],
    ['bank.example.', ['other.example', 'bank.example']],
    ['a.b.bank.example', ['*.bank.example']],
    ['127.0.0.1', ['127.0.0.1']],
  ])('is shown to %s, which is meant by %j', async (host, hosts) => {
    const issued = await authority.issue({ hosts: [host.replace(/\.$/, '')] });
    const own = await secureServer({ ...issued, ca: clients.cert, requestCert: true });
    expect(await seen(withCertificate(...hosts), host, own)).toMatchObject({ client: 'us' });
  });

  it.each([
    ['localhost', ['bank.example', '*.bank.example', '127.0.0.1']],
    ['bank.example', ['*.bank.example']],
    ['a.bank.example', ['bank.example']],
    ['notbank.example', ['bank.example', '*.bank.example']],
  ])('is not shown to %s, which is not meant by %j', async (host, hosts) => {
    expect((await seen(withCertificate(...hosts), host, server)).client).toBeUndefined();
  });

  it('is of the first entry that names the host', async () => {
    const second = await clients.issue({ hosts: [], commonName: 'second' });
    const client = clientWith({
      ca: authority.cert,
      clientCertificates: [
        { hosts: ['a.bank.example'], ...certificate },
        { hosts: ['*.bank.example'], ...second },
      ],
    });
    expect(await seen(client, 'a.bank.example', server)).toMatchObject({ client: 'us' });
    expect(await seen(client, 'b.bank.example', server)).toMatchObject({ client: 'second' });
  });

  it('may have its key in the same text, and the chain, and a passphrase', async () => {
    const between = await clients.intermediate('Between clients');
    const { cert, key } = await between.issue({ hosts: [], commonName: 'chained' });
    const encrypted = createPrivateKey(key).export({
      type: 'pkcs8',
      format: 'pem',
      cipher: 'aes-256-cbc',
      passphrase: 'open',
    });
    const client = clientWith({
      ca: authority.cert,
      clientCertificates: [{ hosts: ['bank.example'], cert: `${cert}${between.cert}${encrypted}`, passphrase: 'open' }],
    });
    expect(await seen(client, 'bank.example', server)).toMatchObject({ client: 'chained' });
  });

  it.each(['TLSv1.2', 'TLSv1.3'] as const)('does not speak for another host by a session of %s', async (protocol) => {
    const issued = await authority.issue({ hosts: ['bank.example', 'shop.example'] });
    const own = await secureServer({
      ...issued,
      ca: clients.cert,
      requestCert: true,
      rejectUnauthorized: false,
      minVersion: protocol,
      maxVersion: protocol,
    });
    const client = withCertificate('bank.example');
    for (let i = 0; i < 3; i++) {
      expect((await seen(client, 'bank.example', own)).client).toBe('us');
      expect((await seen(client, 'shop.example', own)).client).toBeUndefined();
    }
    expect(await seen(client, 'bank.example', own)).toMatchObject({ isResumed: true });
    expect(await seen(client, 'shop.example', own)).toMatchObject({ isResumed: true });
  });

  it('does not follow a redirect to another host', async () => {
    const bank = https.createServer(
      { ...(await authority.issue({ hosts: ['bank.example'] })), ca: clients.cert, requestCert: true },
      (_incoming, response) => response.writeHead(302, { Location: `https://shop.example:${server.port}/` }).end(),
    );
    const redirecting = await listen(bank, 'https');
    const { client, serverName } = await seen(withCertificate('bank.example'), 'bank.example', redirecting);
    expect({ client, serverName }).toEqual({ serverName: 'shop.example' });
  });

  it('goes with a redirect to a host that is meant, too', async () => {
    const shop = await httpServer((_incoming, response) =>
      response.writeHead(302, { Location: `https://bank.example:${server.port}/` }).end(),
    );
    const outcome = withCertificate('bank.example').send(request(`http://localhost:${shop.port}/`));
    expect(JSON.parse(text(expectReply(await outcome)))).toMatchObject({ client: 'us' });
  });
});

describe('over what is encrypted already', () => {
  /** Decrypts, and passes on what it finds to the server behind it. */
  async function tlsRelay(behind: TestServer): Promise<TestServer> {
    const relay = tls.createServer(await authority.issue({ hosts: ['proxy.example'] }), (socket) => {
      const onward = net.connect(behind.port, '127.0.0.1').on('error', () => socket.destroy());
      socket.on('error', () => onward.destroy()).once('close', () => onward.destroy());
      onward.once('close', () => socket.destroy());
      socket.pipe(onward).pipe(socket);
    });
    return listen(relay, 'https');
  }

  /** Shakes hands with the relay and, through it, with `host`. */
  async function throughRelay(relay: TestServer, host: string, deadline: Deadline, wrap = (socket: Duplex) => socket) {
    const secure = createTlsClient({ ca: authority.cert }, () => {});
    const dialled = net.connect(relay.port, '127.0.0.1').on('error', () => {});
    onTestFinished(() => void dialled.destroy());
    await once(dialled, 'connect');
    const outer = await secure(dialled, { host: 'proxy.example', origin: 'https://proxy.example', alpn: [] }, deadline);
    if ('kind' in outer) throw new Error(outer.message);
    return secure(wrap(outer), { host, origin: `https://${host}`, alpn: ['h2', 'http/1.1'] }, deadline);
  }

  const deadline = (): Deadline => {
    const started = new Deadline(
      10_000,
      () => performance.now(),
      () => started.end(),
    );
    onTestFinished(() => started.end());
    return started;
  };
  const kinds = [
    ['a TLS socket', (socket: Duplex) => socket],
    ['any stream', (socket: Duplex) => Duplex.from({ readable: socket, writable: socket })],
  ] as const;

  it.each(kinds)('it speaks with whom it asked for: %s', async (_what, wrap) => {
    const server = await secureServer(localhost);
    const relay = await tlsRelay(server);
    const inner = await throughRelay(relay, 'localhost', deadline(), wrap);
    if ('kind' in inner) throw new Error(inner.message);
    expect(inner.alpnProtocol).toBe('http/1.1');
    inner.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
    expect(await textOf(inner)).toContain('"serverName":"localhost"');
    inner.destroy();
    await Promise.all([server.idle(), relay.idle()]);
  });

  it.each(kinds)('it refuses another: %s', async (_what, wrap) => {
    const server = await secureServer(localhost);
    const relay = await tlsRelay(server);
    expect(await throughRelay(relay, 'other.example', deadline(), wrap)).toMatchObject({
      code: 'certificate_wrong_host',
    });
    await Promise.all([server.idle(), relay.idle()]);
  });

  it.each(kinds)('it fails where nobody speaks TLS: %s', async (_what, wrap) => {
    for (const behind of [
      await tcpServer((socket) => socket.resume().end('220 mail.example ESMTP\r\n')),
      await tcpServer((socket) => socket.destroy()),
    ]) {
      const relay = await tlsRelay(behind);
      expect(await throughRelay(relay, 'localhost', deadline(), wrap)).toMatchObject({ code: 'tls_failed' });
      await Promise.all([behind.idle(), relay.idle()]);
    }
  });

  it.each(kinds)('it ends with the deadline: %s', async (_what, wrap) => {
    const limit = deadline();
    // The first that it hears is the beginning of the inner handshake.
    const silent = await tcpServer((socket) => socket.once('data', () => limit.end()));
    const relay = await tlsRelay(silent);
    expect(await throughRelay(relay, 'localhost', limit, wrap)).toMatchObject({ code: 'cancelled' });
    await Promise.all([silent.idle(), relay.idle()]);
  });

  it('it fails at once over what has closed before', async () => {
    const server = await secureServer(localhost);
    const dialled = net.connect(server.port, '127.0.0.1');
    await once(dialled, 'connect');
    dialled.destroy();
    const secure = createTlsClient({ ca: authority.cert }, () => {});
    const peer = { host: 'localhost', origin: 'https://localhost', alpn: ['http/1.1'] };
    expect(await secure(dialled, peer, deadline())).toMatchObject({ code: 'tls_failed' });
  });
});
