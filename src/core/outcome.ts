import type { HeaderList } from './request.ts';

/** Where a request went that was redirected. */
export type Redirected = {
  /** The last URL that was asked, without credentials. */
  readonly url: string;
  /** How many redirects were followed. */
  readonly hops: number;
};

/** Where the time of a request went, in milliseconds; the parts libcurl names in its time-out text. */
export type Timings = {
  readonly dnsMs: number;
  readonly connectMs: number;
  readonly transferMs: number;
  readonly totalMs: number;
};

/** The server answered, whatever the status. */
export type Reply = {
  readonly kind: 'reply';
  readonly status: number;
  /** As the server wrote them: order, case and repetitions kept. */
  readonly headers: HeaderList;
  readonly body: Uint8Array;
  /** The body was longer than the limit; `body` holds what was read up to it. */
  readonly truncated: boolean;
  /** To be called when the body is no longer needed, where there is one: large bodies are limited in number. */
  readonly release?: (() => void) | undefined;
  /** Undefined where no redirect was followed. */
  readonly redirected?: Redirected | undefined;
  readonly timings: Timings;
};

/** Why there is no answer; stored in `net._http_response.error_code`. */
export type FailureCode =
  | 'invalid_request'
  | 'unsupported_scheme'
  | 'invalid_url'
  | 'denied'
  | 'secret_refused'
  | 'secret_unavailable'
  | 'unresolvable'
  | 'connect_failed'
  | 'proxy_failed'
  | 'certificate_expired'
  | 'certificate_not_yet_valid'
  | 'certificate_untrusted'
  | 'certificate_wrong_host'
  | 'tls_failed'
  | 'empty_reply'
  | 'bad_reply'
  | 'receive_failed'
  | 'send_failed'
  | 'bad_content_encoding'
  | 'too_many_redirects'
  | 'insecure_redirect'
  | 'timed_out'
  | 'cancelled'
  | 'failed';

/** No answer: refused by us, by the network or by the deadline. */
export type Failure = {
  readonly kind: 'failure';
  readonly code: FailureCode;
  /** The text pg_net's users match on (libcurl's words), stored in `error_msg`. */
  readonly message: string;
  /** Undefined where no redirect was followed. */
  readonly redirected?: Redirected | undefined;
  readonly timings: Timings;
};

/** What became of a request. Failures are data: only bugs throw. */
export type Outcome = Reply | Failure;

/** What net.cancel makes of a request. */
export const cancelledMessage = 'The request was cancelled';

/** No time spent: for requests that were refused before anything was tried. */
export const noTimings: Timings = Object.freeze({ dnsMs: 0, connectMs: 0, transferMs: 0, totalMs: 0 });

/** Cancelled before anything was sent. */
export const cancelled: Failure = Object.freeze({
  kind: 'failure',
  code: 'cancelled',
  message: cancelledMessage,
  timings: noTimings,
});
