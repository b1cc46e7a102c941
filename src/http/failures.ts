import type { Failure, FailureCode, Timings } from '../core/outcome.ts';

/** Why a hop gave no answer: a {@link Failure} whose timings are not known yet. */
export type Problem = {
  readonly kind: 'problem';
  readonly code: FailureCode;
  /** libcurl's words where it has any: pg_net's users match on them. */
  readonly message: string;
};

/** How far an exchange came before it failed. */
export type Progress = {
  /** A byte of a reply was parsed. */
  readonly replyBegun: boolean;
  /** The final (not 1xx) header section is complete. */
  readonly headersComplete: boolean;
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
    | 'connectFailed'
    | 'certificateRefused'
    | 'tlsFailed'
    | 'emptyReply'
    | 'badReply'
    | 'receiveFailed'
    | 'partialBody'
    | 'sendFailed'
    | 'tooManyRedirects'
    | 'cancelled'
    | 'closed']: Problem;
} = {
  invalidUrl: problem('invalid_url', 'URL using bad/illegal format or missing URL'),
  unsupportedScheme: problem('unsupported_scheme', 'Unsupported protocol'),
  unresolvable: problem('unresolvable', "Couldn't resolve host name"),
  connectFailed: problem('connect_failed', "Couldn't connect to server"),
  certificateRefused: problem('tls_failed', 'SSL peer certificate or SSH remote key was not OK'),
  tlsFailed: problem('tls_failed', 'SSL connect error'),
  emptyReply: problem('empty_reply', 'Server returned nothing (no headers, no data)'),
  badReply: problem('bad_reply', 'Weird server reply'),
  receiveFailed: problem('receive_failed', 'Failure when receiving data from the peer'),
  partialBody: problem('receive_failed', 'Transferred a partial file'),
  sendFailed: problem('send_failed', 'Failed sending data to the peer'),
  tooManyRedirects: problem('too_many_redirects', 'Number of redirects hit maximum amount'),
  cancelled: problem('cancelled', 'The request was cancelled'),
  closed: problem('cancelled', 'The HTTP client was closed'),
};

/** A host that the address policy refuses; `rule` must not tell what a name resolved to. */
export function denied(rule: string): Problem {
  return problem('denied', `Denied by the address policy: ${rule}`);
}

/** The deadline passed; pg_net's text, with each part where it was spent. */
export function timedOut(timeoutMs: number, timings: Timings): Failure {
  const ms = (part: number) => `${part.toFixed(6)} ms`;
  const message =
    `Timeout of ${timeoutMs} ms reached. Total time: ${ms(timings.totalMs)} (DNS time: ${ms(timings.dnsMs)}, ` +
    `TCP/SSL handshake time: ${ms(timings.connectMs)}, HTTP Request/Response time: ${ms(timings.transferMs)})`;
  return { kind: 'failure', code: 'timed_out', message, timings };
}

/** Says what an error of undici, its parser or the socket means for the request. */
export function exchangeProblem(error: unknown, progress: Progress): Problem {
  const { code, syscall, message } = describe(error);
  if (code === 'UND_ERR_INVALID_ARG' || code === 'UND_ERR_NOT_SUPPORTED') {
    return problem('invalid_request', `Invalid request: ${message}`);
  }
  if (syscall === 'write' && !progress.replyBegun) return problems.sendFailed;
  // After the headers the only thing left to misunderstand is where the body ends.
  if (progress.headersComplete) return cutBody(code) ? problems.partialBody : bodyProblem(code);
  if (unintelligible(code, message)) return problems.badReply;
  if (code === 'UND_ERR_SOCKET') return progress.replyBegun ? problems.receiveFailed : problems.emptyReply;
  if (syscall !== undefined || code.startsWith('ERR_SSL') || code === 'ECONNRESET') return problems.receiveFailed;
  return problem('failed', message === '' ? 'Request failed' : message);
}

/** A connection that ended in order, before the body did. */
function cutBody(code: string): boolean {
  return (
    code === 'UND_ERR_SOCKET' || code === 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH' || code === 'HPE_INVALID_EOF_STATE'
  );
}

function bodyProblem(code: string): Problem {
  return code.startsWith('HPE_') || code === 'ERR_ASSERTION' ? problems.badReply : problems.receiveFailed;
}

/** What undici's parser refuses: it throws for some replies and destroys the socket for others. */
function unintelligible(code: string, message: string): boolean {
  return (
    code.startsWith('HPE_') ||
    code === 'ERR_ASSERTION' ||
    code === 'UND_ERR_HEADERS_OVERFLOW' ||
    // undici reports any unparsable header after a Content-Length as a mismatch.
    code === 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH' ||
    (code === 'UND_ERR_SOCKET' && (message === 'bad response' || message === 'bad upgrade'))
  );
}

function describe(error: unknown): { code: string; syscall: string | undefined; message: string } {
  if (!(error instanceof Error)) return { code: '', syscall: undefined, message: String(error) };
  const { code, syscall } = error as Error & { code?: unknown; syscall?: unknown };
  if (error.name === 'HTTPParserError') {
    // undici 7 leaves the parser's code undefined and puts its reason into the message only.
    const parserCode = error.message.includes('EOF') ? 'HPE_INVALID_EOF_STATE' : 'HPE_INVALID';
    return { code: parserCode, syscall: undefined, message: error.message };
  }
  return {
    code: typeof code === 'string' ? code : '',
    syscall: typeof syscall === 'string' ? syscall : undefined,
    message: error.message,
  };
}
