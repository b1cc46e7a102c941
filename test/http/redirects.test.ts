import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { HeaderList } from '../../src/core/request.ts';
import { type Hop, pathOf, targetOf } from '../../src/http/hop.ts';
import { nextHop, redirectLocation } from '../../src/http/redirects.ts';
import {
  expectFailure,
  expectReply,
  httpServer,
  httpsServer,
  request,
  scriptedServer,
  testCa,
  testClient,
  text,
} from './loopback.ts';

const secrets: HeaderList = [
  ['Authorization', 'Bearer x'],
  ['Cookie', 'a=b'],
  ['apikey', 'k'],
  ['X-API-Key', 'k'],
  ['webhook-signature', 'v1,x'],
  ['Host', 'shown.example'],
];
const harmless: HeaderList = [
  ['User-Agent', 'u'],
  ['ACCEPT', 'a/b'],
  ['Accept-Language', 'de'],
  ['Content-Type', 'text/plain'],
];

function hop(parts: Partial<Omit<Hop, 'target' | 'path'>> = {}): Hop {
  const url = parts.url ?? new URL('http://a.example/dir/page?q=1');
  return {
    kind: 'hop',
    url,
    target: targetOf(url),
    path: pathOf(url),
    method: 'POST',
    headers: [...harmless, ...secrets],
    secretHeaders: new Set(),
    body: Buffer.from('body'),
    ...parts,
  };
}

function expectHop(next: ReturnType<typeof nextHop>): Hop {
  if (next.kind !== 'hop') throw new Error(next.message);
  return next;
}

describe('the method and the body after a redirect', () => {
  it.each([
    [301, 'POST', 'GET'],
    [302, 'POST', 'GET'],
    [303, 'POST', 'GET'],
    [307, 'POST', 'POST'],
    [308, 'POST', 'POST'],
    [301, 'PUT', 'PUT'],
    [302, 'DELETE', 'DELETE'],
    [303, 'PUT', 'GET'],
    [303, 'DELETE', 'GET'],
    [301, 'HEAD', 'HEAD'],
    [303, 'HEAD', 'HEAD'],
    [303, 'GET', 'GET'],
    [307, 'PATCH', 'PATCH'],
  ])('%i: %s becomes %s', (status, method, expected) => {
    const next = expectHop(nextHop(hop({ method }), status, '/next'));
    expect(next.method).toBe(expected);
    const kept = method === expected;
    expect(next.body?.toString()).toBe(kept ? 'body' : undefined);
    expect(next.headers.some(([name]) => name === 'Content-Type')).toBe(kept);
    expect(next.headers).toEqual(expect.arrayContaining([...secrets]));
  });

  it.each([200, 201, 300, 304, 305, 306, 400])('%i is no redirect, whatever its Location says', (status) => {
    expect(redirectLocation(status, [['Location', '/x']])).toBeUndefined();
  });

  it('a redirect without a Location is a reply', () => {
    expect(redirectLocation(302, [['X', '/x']])).toBeUndefined();
    expect(redirectLocation(302, [['location', ' ']])).toBeUndefined();
    expect(redirectLocation(302, [['LOCATION', '/x']])).toBe('/x');
    expect(redirectLocation(302, [['Location', '']])).toBeUndefined();
  });

  it('of several Locations the first that is not empty counts', () => {
    const location = (...values: string[]) =>
      redirectLocation(
        302,
        values.map((value) => ['Location', value]),
      );
    expect(location('/one', '/two')).toBe('/one');
    expect(location('', '/two')).toBe('/two');
    expect(location('/one', '')).toBe('/one');
  });
});

describe('the place a redirect leads to', () => {
  it.each([
    ['other', 'http://a.example/dir/other'],
    ['/x?y=z#part', 'http://a.example/x?y=z#part'],
    ['#part', 'http://a.example/dir/page?q=1#part'],
    ['../../x/./y', 'http://a.example/x/y'],
    ['HTTP://B.example:80/x', 'http://b.example/x'],
    ['http:x', 'http://a.example/dir/x'],
    ['/a b?c d', 'http://a.example/a%20b?c%20d'],
    ['/\xff\xfe?\xe9', 'http://a.example/%FF%FE?%E9'],
    ['/%zz%41', 'http://a.example/%zz%41'],
    ['?z', 'http://a.example/dir/page?z'],
    ['//b.example/x', 'http://b.example/x'],
    ['https://user:pass@b.example:8443/', 'https://b.example:8443/'],
    ['/\u00c3\u00a9', 'http://a.example/%C3%A9'],
  ])('%s', (location, url) => {
    expect(expectHop(nextHop(hop(), 302, location)).url.href).toBe(url);
  });

  it.each([
    ['ftp://a.example/', 'unsupported_scheme'],
    ['file:///etc/passwd', 'unsupported_scheme'],
    ['javascript:alert(1)', 'unsupported_scheme'],
    ['http://[::1/', 'invalid_url'],
    ['http://', 'invalid_url'],
    ['http://a.example:99999/', 'invalid_url'],
    [`/${'x'.repeat(65_536)}`, 'invalid_url'],
  ])('not %s', (location, code) => {
    expect(nextHop(hop(), 302, location)).toMatchObject({ kind: 'problem', code });
  });
});

it('whatever a Location holds leads to a URL that can be asked for, without credentials, or is refused', () => {
  const location = fc.oneof(
    fc.webUrl({ withFragments: true, withQueryParameters: true }),
    fc.string({ unit: fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code)) }),
    fc.stringMatching(/^(https?:)?[/\\]{0,3}([a-z:@[\]%.0-9]{0,12})([/?#].{0,12})?$/),
  );
  fc.assert(
    fc.property(location, fc.constantFrom(301, 303, 307), (text, status) => {
      const next = nextHop(hop(), status, text);
      if (next.kind === 'problem') {
        expect(['invalid_url', 'unsupported_scheme']).toContain(next.code);
        return;
      }
      expect(next.url.href).toMatch(/^https?:\/\/[^/@]+\//);
      expect(next.path).toMatch(/^\/[!-~]*$/);
      expect(next.target.origin).toBe(next.url.origin);
      if (next.url.origin !== 'http://a.example') {
        for (const secret of secrets) expect(next.headers).not.toContainEqual(secret);
      }
    }),
    { numRuns: 1_000 },
  );
});

it('the fragment of where a redirect comes from goes along, unless it has one of its own', () => {
  const from = hop({ url: new URL('http://a.example/x#here') });
  expect(expectHop(nextHop(from, 302, '/y')).url.href).toBe('http://a.example/y#here');
  expect(expectHop(nextHop(from, 302, '/y#there')).url.href).toBe('http://a.example/y#there');
});

describe('across origins', () => {
  it.each(['http://b.example/', 'https://a.example/', 'http://a.example:8080/', 'http://www.a.example/'])(
    'only safelisted headers go to %s',
    (location) => {
      expect(expectHop(nextHop(hop(), 307, location)).headers).toEqual(harmless);
    },
  );

  it('never sends any other header', () => {
    const allowed = new Set([
      'accept',
      'accept-encoding',
      'accept-language',
      'user-agent',
      'content-type',
      'content-language',
      'content-encoding',
    ]);
    const name = fc.oneof(
      fc.constantFrom(
        ...secrets.map(([n]) => n),
        'ACCEPT',
        'accept',
        'Content-Type',
        'content-language',
        'Proxy-Authorization',
      ),
      fc.stringMatching(/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}$/),
    );
    fc.assert(
      fc.property(
        fc.array(fc.tuple(name, fc.string())),
        fc.constantFrom(301, 302, 303, 307, 308),
        fc.constantFrom('GET', 'POST', 'PUT', 'HEAD'),
        fc.boolean(),
        (headers, status, method, hasBody) => {
          const before = hop({ headers, method, body: hasBody ? Buffer.from('x') : null });
          const away = expectHop(nextHop(before, status, 'https://evil.example/'));
          for (const [n] of away.headers) expect(allowed).toContain(n.toLowerCase());
          if (away.body === null) for (const [n] of away.headers) expect(n).not.toMatch(/^content-/i);
          // And what was dropped does not come back with the way back.
          const back = expectHop(nextHop(away, status, before.url.href));
          expect(back.headers.length).toBeLessThanOrEqual(away.headers.length);
        },
      ),
    );
  });
});

describe('the client', () => {
  it('follows a chain and answers with its end', async () => {
    const seen: string[] = [];
    const server = await httpServer((incoming, response) => {
      seen.push(
        `${incoming.method} ${incoming.url} ${incoming.headers['content-type']} ${incoming.headers['content-length']}`,
      );
      const next = { '/a': [307, '/b'], '/b': [302, 'c?x=y#z'] }[incoming.url ?? ''] as [number, string] | undefined;
      if (next === undefined) response.end('end');
      else response.writeHead(next[0], { Location: next[1] }).end('gone'.repeat(100));
    });
    const sent = request(`${server.url}/a`, {
      method: 'POST',
      body: '{}',
      headers: [['Content-Type', 'application/json']],
    });
    expect(text(expectReply(await testClient().send(sent)))).toBe('end');
    expect(seen).toEqual([
      'POST /a application/json 2',
      'POST /b application/json 2',
      'GET /c?x=y undefined undefined',
    ]);
    expect(server.connections()).toBe(1);
  });

  it('drops what might be a secret on the way to another origin, and vets that origin', async () => {
    const received: string[][] = [];
    const other = await httpServer((incoming, response) => {
      received.push(incoming.rawHeaders.filter((_text, i) => i % 2 === 0).map((n) => n.toLowerCase()));
      response.end('other');
    });
    const location = { value: `${other.url}/` };
    const server = await httpServer((_incoming, response) =>
      response.writeHead(302, { Location: location.value }).end(),
    );
    const url = server.url.replace('http://', 'http://user:secret@');
    expect(text(expectReply(await testClient().send(request(url, { headers: secrets.slice(1) }))))).toBe('other');
    expect(received).toEqual([['host', 'user-agent', 'accept']]);
    for (const denied of ['http://10.0.0.1/', 'http://169.254.169.254/latest', 'http://db/']) {
      location.value = denied;
      expect(await testClient().send(request(server.url))).toMatchObject({ code: 'denied' });
    }
    location.value = 'gopher://127.0.0.1/';
    expect(await testClient().send(request(server.url))).toMatchObject({
      code: 'unsupported_scheme',
      message: 'Unsupported protocol',
    });
  });

  it('follows 30 redirects and not one more', async () => {
    const server = await httpServer((incoming, response) => {
      const left = Number(incoming.url?.slice(1));
      if (left === 0) response.end('end');
      else response.writeHead(302, { Location: `/${left - 1}` }).end();
    });
    const client = testClient();
    expect(text(expectReply(await client.send(request(`${server.url}/30`))))).toBe('end');
    const outcome = expectFailure(await client.send(request(`${server.url}/31`)));
    expect(outcome).toMatchObject({ code: 'too_many_redirects', message: 'Number of redirects hit maximum amount' });
    const none = testClient({ redirectsMax: 0 });
    expect(await none.send(request(`${server.url}/1`))).toMatchObject({ code: 'too_many_redirects' });
    expectReply(await none.send(request(`${server.url}/0`)));
  });

  it('says where it ended and after how many redirects, also for a failure, and nothing where none was followed', async () => {
    const server = await httpServer((incoming, response) => {
      const left = Number(incoming.url?.slice(1).split('?')[0]);
      if (left === 0) response.end('end');
      else if (left === 10) response.destroy();
      else response.writeHead(302, { Location: left === 11 ? '/10' : `/${left - 1}?x#part` }).end();
    });
    const client = testClient();
    const url = server.url.replace('http://', 'http://user:secret@');
    const start = `${server.url}/1`;
    expect(expectReply(await client.send(request(`${server.url}/0`))).redirected).toBeUndefined();
    const { redirected } = expectReply(await client.send(request(`${url}/1`)));
    expect(redirected).toEqual({ url: `${server.url}/0?x#part`, hops: 1 });
    expect(await client.send(request(`${server.url}/11`))).toMatchObject({
      kind: 'failure',
      redirected: { url: `${server.url}/10`, hops: 1 },
    });
    expect(await testClient({ redirectsMax: 0 }).send(request(start))).not.toHaveProperty('redirected');
  });

  it('follows a redirect from https to http, unless it may not', async () => {
    const plain = await httpServer((_incoming, response) => response.end('plain'));
    const secure = await httpsServer('localhost', (incoming, response) => {
      const target = incoming.url === '/up' ? '/end' : plain.url;
      if (incoming.url === '/end') response.end('secure');
      else response.writeHead(302, { Location: target }).end();
    });
    const tls = { ca: testCa };
    expect(text(expectReply(await testClient({ tls }).send(request(secure.url))))).toBe('plain');
    const careful = testClient({ tls, followInsecureRedirects: false });
    expect(plain.connections()).toBe(1);
    expect(await careful.send(request(secure.url))).toMatchObject({
      kind: 'failure',
      code: 'insecure_redirect',
      message: 'Unsupported protocol',
    });
    expect(plain.connections()).toBe(1);
    expect(text(expectReply(await careful.send(request(`${secure.url}/up`))))).toBe('secure');
    // From http there is nothing to lose.
    const first = await httpServer((_incoming, response) => response.writeHead(302, { Location: plain.url }).end());
    expect(text(expectReply(await careful.send(request(first.url))))).toBe('plain');
  });

  it('takes a redirect without a Location for the reply', async () => {
    const server = await scriptedServer('HTTP/1.1 302 Found\r\nContent-Length: 2\r\n\r\nhm');
    const reply = expectReply(await testClient().send(request(server.url)));
    expect([reply.status, text(reply)]).toEqual([302, 'hm']);
  });

  it("does not wait for the end of a redirect's long body", async () => {
    const server = await httpServer((incoming, response) => {
      if (incoming.url === '/end') return void response.end('end');
      response.writeHead(302, { Location: '/end' });
      response.write(Buffer.alloc(200_000)); // and never ends
    });
    expect(text(expectReply(await testClient().send(request(`${server.url}/`))))).toBe('end');
  });
});
