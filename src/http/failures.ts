import type { Failure, FailureCode, Timings } from '../core/outcome.ts';

/** Why a hop gave no answer: a {@link Failure} whose timings are not known yet. */
export type Problem = {
  readonly kind: 'problem';
  readonly code: FailureCode;
  /** libcurl's words where it has any: pg_net's users match on them. */
  readonly message: string;
};

/** Makes a {@link Problem}. */
export function problem(code: FailureCode, message: string): Problem {
  return { kind: 'problem', code, message };
}

/** Completes a problem with where the time went. */
export function failure(cause: Problem, timings: Timings): Failure {
  return { kind: 'failure', code: cause.code, message: cause.message, timings };
}

/** The problems whose text never varies; the words are those of curl_easy_strerror(3), libcurl 7.88. */
export const problems: {
  readonly [name in
    | 'invalidUrl'
    | 'unsupportedScheme'
    | 'unresolvable'
    | 'proxyUnresolvable'
    | 'connectFailed'
    | 'tlsFailed'
    | 'emptyReply'
    | 'notHttp'
    | 'badReply'
    | 'streamFailed'
    | 'framingFailed'
    | 'receiveFailed'
    | 'partialBody'
    | 'sendFailed'
    | 'tooManyRedirects'
    | 'insecureRedirect'
    | 'badCoding'
    | 'cancelled'
    | 'closed']: Problem;
} = {
  invalidUrl: problem('invalid_url', 'URL using bad/illegal format or missing URL'),
  unsupportedScheme: problem('unsupported_scheme', 'Unsupported protocol'),
  unresolvable: problem('unresolvable', "Couldn't resolve host name"),
  proxyUnresolvable: problem('proxy_failed', "Couldn't resolve proxy name"),
  connectFailed: problem('connect_failed', "Couldn't connect to server"),
  tlsFailed: problem('tls_failed', 'SSL connect error'),
  emptyReply: problem('empty_reply', 'Server returned nothing (no headers, no data)'),
  notHttp: problem('bad_reply', 'Unsupported protocol'),
  badReply: problem('bad_reply', 'Weird server reply'),
  framingFailed: problem('bad_reply', 'Error in the HTTP2 framing layer'),
  streamFailed: problem('bad_reply', 'Stream error in the HTTP/2 framing layer'),
  receiveFailed: problem('receive_failed', 'Failure when receiving data from the peer'),
  partialBody: problem('receive_failed', 'Transferred a partial file'),
  sendFailed: problem('send_failed', 'Failed sending data to the peer'),
  tooManyRedirects: problem('too_many_redirects', 'Number of redirects hit maximum amount'),
  insecureRedirect: problem('insecure_redirect', 'Unsupported protocol'),
  badCoding: problem('bad_content_encoding', 'Unrecognized or bad HTTP Content or Transfer-Encoding'),
  cancelled: problem('cancelled', 'The request was cancelled'),
  closed: problem('cancelled', 'The HTTP client was closed'),
};

/** A host that the address policy refuses; `rule` must not tell what a name resolved to. */
export function denied(rule: string): Problem {
  return problem('denied', `Denied by the address policy: ${rule}`);
}

/** A certificate that cannot be trusted; `cause` is OpenSSL's name for it or Node.js's. libcurl has one text for all of them. */
export function refusedCertificate(cause: string): Problem {
  return problem(
    certificateCodes[cause] ?? 'certificate_untrusted',
    'SSL peer certificate or SSH remote key was not OK',
  );
}

const certificateCodes: Readonly<Record<string, FailureCode>> = {
  CERT_HAS_EXPIRED: 'certificate_expired',
  CERT_NOT_YET_VALID: 'certificate_not_yet_valid',
  ERR_TLS_CERT_ALTNAME_INVALID: 'certificate_wrong_host',
};

/** The deadline passed; pg_net's text, with each part where it was spent. */
export function timedOut(timeoutMs: number, timings: Timings): Failure {
  const ms = (part: number) => `${part.toFixed(6)} ms`;
  const message =
    `Timeout of ${timeoutMs} ms reached. Total time: ${ms(timings.totalMs)} (DNS time: ${ms(timings.dnsMs)}, ` +
    `TCP/SSL handshake time: ${ms(timings.connectMs)}, HTTP Request/Response time: ${ms(timings.transferMs)})`;
  return { kind: 'failure', code: 'timed_out', message, timings };
}
