import type { Socket } from 'node:net';
import { Client, type Dispatcher } from 'undici';

/** How long an idle connection is kept, unless the server announces less. */
const keepAliveMs = 30_000;
/** Margin before the end that a server announces, so that a request does not cross its FIN. */
const keepAliveMarginMs = 1_000;
/** One socket with the HTTP client that owns it. */
export class Connection {
  readonly socket: Socket;
  readonly origin: string;
  /** It has carried a request before, so the server may have closed it meanwhile. */
  reused = false;
  /** Since when it has been kept without a request, on the clock of `performance.now()`. */
  idleSinceMs = 0;
  readonly #client: Client;

  constructor(origin: string, socket: Socket, responseHeaderBytesMax: number) {
    this.origin = origin;
    this.socket = socket;
    let given = false;
    this.#client = new Client(origin, {
      // A client asks again when its socket has closed under a waiting request; that request is then ours to retry.
      connect: (_options, callback) => {
        const first = !given;
        given = true;
        queueMicrotask(() => (first ? callback(null, socket) : callback(new StaleConnection(), null)));
      },
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: keepAliveMs,
      keepAliveMaxTimeout: keepAliveMs,
      keepAliveTimeoutThreshold: keepAliveMarginMs,
      maxHeaderSize: responseHeaderBytesMax,
    });
    // undici emits this for an error inside a handler; without a listener it would end the process.
    this.#client.on('error' as 'drain', () => undefined);
  }

  dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): void {
    this.#client.dispatch(options, handler);
  }

  destroy(): void {
    this.#client.destroy(null, () => undefined);
    this.socket.destroy();
  }
}

/** The socket closed before the request could be written to it. */
export class StaleConnection extends Error {
  override readonly name = 'StaleConnection';
}
