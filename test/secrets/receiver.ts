import type { IncomingHttpHeaders } from 'node:http';
import { httpServer, httpsServer, type TestServer } from '../http/loopback.ts';

export type Received = {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
};

export type Receiver = TestServer & { readonly received: Received[] };

/**
 * A server that says what it was sent, in its body and in a header; gone when the test ends. `/redirect?to=URL` redirects (307), `/hang`
 * never answers, `/break` leaves in the middle.
 */
export async function startReceiver(scheme: 'http' | 'https'): Promise<Receiver> {
  const received: Received[] = [];
  const start = scheme === 'https' ? httpsServer.bind(undefined, 'localhost') : httpServer;
  const server = await start((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const { url: path = '', headers } = request;
      received.push({ path, headers, body: Buffer.concat(chunks) });
      const to = new URL(path, 'http://x').searchParams.get('to');
      if (path.startsWith('/hang')) return;
      if (path.startsWith('/break')) {
        response.writeHead(200, { 'content-length': '1000000' });
        response.write(JSON.stringify(headers), () => response.destroy());
        return;
      }
      if (path.startsWith('/redirect') && to !== null) {
        response.writeHead(307, { location: to.replace('AUTHORIZATION', headers.authorization ?? '') }).end();
        return;
      }
      const echo = JSON.stringify(headers);
      response.writeHead(200, { 'content-type': 'application/json', 'x-echo': headers.authorization ?? '' }).end(echo);
    });
  });
  return { ...server, received };
}
