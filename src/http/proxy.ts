import type net from 'node:net';
import type { HttpProxy } from '../core/proxies.ts';
import type { HeaderList } from '../core/request.ts';
import type { Target } from './connector.ts';
import type { Deadline } from './deadline.ts';
import { type Problem, problem, problems } from './failures.ts';
import type { Hop } from './hop.ts';

/** A connection that leads to a proxy and not to the target: requests over it say where they are to go. */
export type ViaProxy = {
  /** What the proxy is told beside the request's own headers. */
  readonly headers: HeaderList;
};

/** Of a proxy's answer to CONNECT no more than this is read. */
const replyBytesMax = 65_536;

/** What a proxy is told with each request that it passes on. */
export function viaProxy({ authorization }: HttpProxy): ViaProxy {
  return {
    headers: [
      ...(authorization === undefined ? [] : ([['Proxy-Authorization', authorization]] as const)),
      ['Proxy-Connection', 'Keep-Alive'],
    ],
  };
}

/**
 * The path and the headers with which a hop is sent to a proxy: the whole URL, and ours where the request has the same. Of Host
 * it may say only what the URL says (RFC 9112, 3.2), which was judged; some proxies go by Host.
 */
export function formForProxy(
  { target, path, headers }: Pick<Hop, 'target' | 'path' | 'headers'>,
  via: ViaProxy,
): Pick<Hop, 'path' | 'headers'> {
  const ours = new Set(['host', ...via.headers.map(([name]) => name.toLowerCase())]);
  return {
    path: target.origin + path,
    headers: [...via.headers, ...headers.filter(([name]) => !ours.has(name.toLowerCase()))],
  };
}

/**
 * Asks the proxy at the other end of the socket for a tunnel to the target (RFC 9110, 9.3.6). Resolves with what went wrong;
 * with undefined when whatever is written to the socket from now on goes to the target. Never rejects; at the end of the
 * deadline, or when it fails, the socket is destroyed.
 */
export function openTunnel(
  socket: net.Socket,
  proxy: HttpProxy,
  target: Target,
  deadline: Deadline,
): Promise<Problem | undefined> {
  return new Promise((resolve) => {
    const reply = new TunnelReply();
    let done = false;
    function finish(result: Problem | undefined): void {
      if (done) return;
      done = true;
      deadline.onEnd(undefined);
      socket.off('data', read);
      socket.off('close', abort);
      if (result !== undefined) socket.destroy();
      resolve(result);
    }
    function read(chunk: Buffer): void {
      const result = reply.read(chunk);
      if (result === undefined) return;
      if ('kind' in result) {
        finish(result);
        return;
      }
      // What follows is the target's: TLS will read it.
      socket.pause();
      if (result.rest.length > 0) socket.unshift(result.rest);
      finish(undefined);
    }
    function abort(): void {
      finish(tunnelFailed('Proxy CONNECT aborted'));
    }
    socket.on('data', read);
    socket.once('close', abort);
    deadline.onEnd(() => finish(problems.cancelled));
    if (done) return;
    if (socket.destroyed) abort();
    else socket.write(connectRequest(target, viaProxy(proxy)), 'latin1');
  });
}

/** Nothing of the request goes to the proxy: its headers are the target's alone. */
function connectRequest({ host, port }: Target, via: ViaProxy): string {
  const authority = `${host}:${port}`;
  const fields = [['Host', authority], ...via.headers].map(([name, value]) => `${name}: ${value}\r\n`);
  return `CONNECT ${authority} HTTP/1.1\r\n${fields.join('')}\r\n`;
}

/** libcurl's words for the failure, then its words for the reason. */
function tunnelFailed(reason: string): Problem {
  return problem('proxy_failed', `${problems.receiveFailed.message}: ${reason}`);
}

/**
 * A proxy's reply to CONNECT, as it arrives. Of it only the status and the end of the header section mean anything: a tunnel
 * that was granted begins there, whatever the fields say (RFC 9110, 9.3.6).
 */
class TunnelReply {
  #bytes = 0;
  #statusLine = '';
  #granted = false;
  #lineBytes = 0;

  /** Undefined while there must be more; then what went wrong, or what came after the reply. */
  read(chunk: Buffer): Problem | { readonly rest: Buffer } | undefined {
    for (const [index, byte] of chunk.entries()) {
      this.#bytes += 1;
      if (this.#bytes > replyBytesMax) return tunnelFailed('CONNECT response too large');
      if (byte === lineFeed) {
        if (this.#granted && this.#lineBytes === 0) return { rest: chunk.subarray(index + 1) };
        if (!this.#granted) {
          const status = statusOf(this.#statusLine);
          if (!/^2/.test(status)) return tunnelFailed(`CONNECT tunnel failed, response ${status}`);
          this.#granted = true;
        }
        this.#lineBytes = 0;
      } else if (byte !== carriageReturn) {
        this.#lineBytes += 1;
        if (!this.#granted) this.#statusLine += String.fromCharCode(byte);
      }
    }
    return undefined;
  }
}

const lineFeed = 0x0a;
const carriageReturn = 0x0d;

/** Three digits; `0` for what is no status line of HTTP/1, as libcurl says it. */
function statusOf(line: string): string {
  return /^HTTP\/1\.\d (\d{3})(?!\d)/.exec(line)?.[1] ?? '0';
}
