import type { HeaderList } from '../core/request.ts';
import { transferCoding } from './codings.ts';
import { type Problem, problems } from './failures.ts';
import {
  contentLength,
  hexDigit,
  isBlank,
  joined,
  mayBeStatusLine,
  mayFollowSize,
  statusLine,
  statusLineBeginning,
  uncountableBytes,
  withoutBlanks,
} from './framing.ts';

/** Who is told what a reply says. Called while {@link ReplyParser.feed} runs. */
export type ReplyReader = {
  /**
   * The final head; interim ones (1xx) are skipped. Names and values as they were on the wire, a character per byte. Endless: the
   * body ends with the connection.
   */
  onHead(status: number, headers: HeaderList, isEndless: boolean): void;
  /** A part of the body, without its framing. A view of what was fed. */
  onBody(chunk: Uint8Array): void;
  /** The reply is complete. Nothing more is called. */
  onComplete(): void;
  /** It makes no sense. Nothing more is called. */
  onBroken(problem: Problem): void;
};

type State =
  | 'status line'
  | 'fields'
  | 'counted body'
  | 'chunk size'
  | 'chunk extension'
  | 'chunk data'
  | 'chunk end'
  | 'trailer'
  | 'switched'
  | 'endless body'
  | 'done';

/** Of a chunk of input no more than this is turned into text at a time: behind the head may stand a long body. */
const textBytes = 8_192;
/** As libcurl has it (CHUNK_MAXNUM_LEN): 64 bits. */
const chunkSizeDigitsMax = 16;
/** As newer versions of libcurl have it: each field takes a hundred times the three bytes that it may consist of. */
const fieldsMax = 5_000;

const cr = 13;
const lf = 10;

/**
 * Reads HTTP/1 replies (RFC 9112), one after another, however the network cuts them.
 *
 * Lenient in what is accepted, strict in what is reused. Whatever libcurl 7.88 understands is understood as it does (lines
 * that end in LF, folded fields, blanks around names, both lengths), because pg_net's users have such servers. But after a
 * reply that is not sound in all that concerns where it ends, {@link isReusable} is false and the connection is closed:
 * where one reply ends and the next begins is then never in doubt, which is what request smuggling lives on.
 */
export class ReplyParser {
  readonly #reader: ReplyReader;
  readonly #headBytesMax: number;
  #state: State = 'done';
  #expectsBody = true;
  /** A line that has not ended yet. */
  #partial = '';
  /** Bytes of all heads, or of the trailer section, so far. */
  #headBytes = 0;
  #status = 0;
  #headers: (readonly [string, string])[] = [];
  /** Of the body or the chunk. */
  #bytesLeft = 0;
  #chunkSizeDigits = 0;
  /** Of the framing between chunks. */
  #lastByte = 0;
  #isSound = true;
  #persists = false;
  #idleMsMax: number | undefined;
  #begun = false;

  constructor(reader: ReplyReader, headBytesMax: number) {
    this.#reader = reader;
    this.#headBytesMax = headBytesMax;
  }

  /** A request was sent: what is fed from now on is the reply to it. */
  begin(method: string): void {
    this.#state = 'status line';
    this.#expectsBody = method !== 'HEAD';
    this.#partial = '';
    this.#headBytes = 0;
    this.#status = 0;
    this.#headers = [];
    this.#isSound = true;
    this.#persists = false;
    this.#idleMsMax = undefined;
    this.#begun = false;
  }

  /** A byte of the reply was seen. */
  get hasBegun(): boolean {
    return this.#begun;
  }

  /** The reply is complete and sound and says that the connection stays open: it may carry another request. */
  get isReusable(): boolean {
    return this.#state === 'done' && this.#isSound && this.#persists;
  }

  /** How long the server keeps an idle connection (`Keep-Alive: timeout=5`), where it says so. */
  get idleMsMax(): number | undefined {
    return this.#idleMsMax;
  }

  /** Reads what came next; returns how much of it belongs to the reply. */
  feed(chunk: Buffer): number {
    let at = 0;
    if (chunk.length > 0) this.#begun = true;
    while (at < chunk.length && this.#state !== 'done') {
      switch (this.#state) {
        case 'status line':
        case 'fields':
        case 'trailer':
          at = this.#readLines(chunk, at);
          break;
        case 'switched':
        case 'endless body':
          this.#state = 'endless body';
          this.#reader.onBody(at === 0 ? chunk : chunk.subarray(at));
          return chunk.length;
        case 'counted body':
        case 'chunk data':
          at = this.#readBytes(chunk, at);
          break;
        default:
          this.#readChunkFraming(chunk[at] ?? 0);
          at += 1;
      }
    }
    return at;
  }

  /** The server will send no more. */
  finish(): void {
    switch (this.#state) {
      case 'done':
        return;
      case 'endless body':
        this.#complete();
        return;
      case 'status line':
      case 'switched':
        this.#break(problems.emptyReply);
        return;
      case 'fields':
        this.#break(problems.receiveFailed);
        return;
      default:
        this.#break(problems.partialBody);
    }
  }

  /** Reads lines until the head (or the trailer section) or the text ends; returns where it stopped. */
  #readLines(chunk: Buffer, start: number): number {
    const text = chunk.toString('latin1', start, Math.min(start + textBytes, chunk.length));
    const first = this.#state;
    let at = 0;
    while (at < text.length) {
      if (this.#state === 'status line' && this.#partial.length < statusLineBeginning.length) {
        if (!mayBeStatusLine(this.#partial + text.slice(at, at + statusLineBeginning.length))) {
          this.#break(problems.notHttp);
          return start;
        }
      }
      const end = text.indexOf('\n', at);
      this.#headBytes += (end < 0 ? text.length : end + 1) - at;
      if (this.#headBytes > this.#headBytesMax) {
        this.#break(problems.receiveFailed);
        return start;
      }
      if (end < 0) {
        this.#partial += text.slice(at);
        return start + text.length;
      }
      let line = text.slice(at, end);
      if (this.#partial !== '') {
        line = this.#partial + line;
        this.#partial = '';
      }
      line = this.#withoutEnd(line);
      at = end + 1;
      if (this.#state === 'status line') this.#readStatusLine(line);
      else if (this.#state === 'fields') this.#readField(line);
      else if (line === '') this.#complete();
      else if (!line.includes(':') && !isBlank(line.charCodeAt(0))) this.#break(problems.receiveFailed);
      if (this.#state !== first && this.#state !== 'fields') break;
    }
    return start + at;
  }

  /** A line ends in one CR (before the LF); none and several are understood (RFC 9112, 2.2), but not trusted. */
  #withoutEnd(line: string): string {
    let end = line.length;
    while (end > 0 && line.charCodeAt(end - 1) === cr) end -= 1;
    if (end !== line.length - 1) this.#isSound = false;
    return line.slice(0, end);
  }

  #readStatusLine(line: string): void {
    const read = statusLine(line);
    if ('kind' in read) {
      this.#break(read);
      return;
    }
    this.#status = read.status;
    this.#persists = read.persists;
    this.#state = 'fields';
  }

  #readField(line: string): void {
    if (line === '') {
      this.#endHead();
      return;
    }
    const first = line.charCodeAt(0);
    const colon = line.indexOf(':');
    if (isBlank(first)) this.#unfold(withoutBlanks(line, 0, line.length));
    else if (colon < 0 || line.includes('\0')) this.#break(problems.badReply);
    else if (this.#headers.length === fieldsMax) this.#break(problems.receiveFailed);
    else if (line.includes('\r')) this.#readFieldWithCr(line, colon);
    else this.#headers.push([line.slice(0, colon), withoutBlanks(line, colon + 1, line.length)]);
  }

  /** A CR within a value ends it, as in libcurl; anywhere else it might end the head for somebody else. */
  #readFieldWithCr(line: string, colon: number): void {
    this.#isSound = false;
    const end = line.indexOf('\r');
    if (end < colon) this.#break(problems.badReply);
    else this.#headers.push([line.slice(0, colon), withoutBlanks(line, colon + 1, end)]);
  }

  /** Folded lines are one value (RFC 9112, 5.2). What is folded may be a length, so it is not trusted with the connection. */
  #unfold(rest: string): void {
    this.#isSound = false;
    const previous = this.#headers.pop();
    if (previous === undefined || rest.includes('\0')) this.#break(problems.badReply);
    else this.#headers.push([previous[0], joined(previous[1], rest)]);
  }

  #endHead(): void {
    const status = this.#status;
    if (status < 200 && status !== 101) {
      this.#state = 'status line';
      // Its bytes count on: interim replies without end have one.
      this.#headers = [];
      return;
    }
    // Nobody asked for another protocol. As libcurl: what is spoken from now on is the body, and if nothing is, there is no reply.
    if (status === 101) {
      this.#state = 'switched';
      this.#reader.onHead(status, this.#headers, true);
      return;
    }
    const framing = this.#framing();
    const hasBody = this.#expectsBody && status !== 204 && status !== 304;
    if (typeof framing === 'object') {
      if (hasBody) {
        this.#break(framing);
        return;
      }
      this.#isSound = false;
    }
    // A 204 that speaks of a body (RFC 9110, 8.6 forbids it) may be about to send one.
    if (status === 204 && (framing === 'chunk size' || this.#bytesLeft > 0)) this.#isSound = false;
    if (!hasBody) this.#bytesLeft = 0;
    this.#state = hasBody && typeof framing === 'string' ? framing : 'counted body';
    this.#reader.onHead(status, this.#headers, this.#state === 'endless body');
    if (this.#state === 'counted body' && this.#bytesLeft === 0) this.#complete();
  }

  /** Where the body ends (RFC 9112, 6.3), as far as this is said; and whether the connection lasts. */
  #framing(): 'counted body' | 'chunk size' | 'endless body' | Problem {
    let length: number | undefined;
    let hasLength = false;
    let codings = '';
    for (const [name, value] of this.#headers) {
      // The lengths tell all but a few names apart; the rest of them is not looked at.
      switch (name.length) {
        case 14:
        case 15: {
          if (name.trimEnd().toLowerCase() !== 'content-length') break;
          const said = contentLength(value);
          if (said === 'none' || (hasLength && said !== length)) return problems.badReply;
          if (name.length !== 14 || hasLength || !/^\d+$/.test(value)) this.#isSound = false;
          length = said;
          hasLength = true;
          break;
        }
        case 17:
        case 18:
          if (name.trimEnd().toLowerCase() !== 'transfer-encoding') break;
          if (name.length !== 17) this.#isSound = false;
          codings += `${codings === '' ? '' : ','}${value}`;
          break;
        case 10:
          this.#readConnection(name, value);
          break;
        case 16:
          if (name.toLowerCase() === 'proxy-connection') this.#readOptions(value);
          break;
      }
    }
    if (codings !== '') {
      const last = transferCoding(codings);
      if (typeof last === 'object') return last;
      if (last === 'chunked') {
        if (hasLength || codings.length !== 'chunked'.length) this.#isSound = false;
        this.#chunkSizeDigits = 0;
        this.#bytesLeft = 0;
        return 'chunk size';
      }
      this.#isSound = false;
      if (last === 'compressed') return 'endless body';
    }
    this.#bytesLeft = length ?? 0;
    return length === undefined ? 'endless body' : 'counted body';
  }

  /** `Connection` and `Keep-Alive` have equally long names. */
  #readConnection(name: string, value: string): void {
    const lower = name.toLowerCase();
    if (lower === 'connection') {
      this.#readOptions(value);
    } else if (lower === 'keep-alive') {
      const seconds = /(?:^|[,;\s])timeout\s*=\s*"?(\d{1,6})/i.exec(value)?.[1];
      if (seconds !== undefined) this.#idleMsMax = Number(seconds) * 1_000;
    }
  }

  #readOptions(value: string): void {
    if (/(?:^|[,\s])close(?:$|[,\s])/i.test(value)) this.#isSound = false;
    else if (/(?:^|[,\s])keep-alive(?:$|[,\s])/i.test(value)) this.#persists = true;
  }

  #readBytes(chunk: Buffer, at: number): number {
    const end = Math.min(chunk.length, at + this.#bytesLeft);
    this.#bytesLeft -= end - at;
    const isChunked = this.#state === 'chunk data';
    this.#reader.onBody(at === 0 && end === chunk.length ? chunk : chunk.subarray(at, end));
    if (this.#bytesLeft === 0 && this.#state !== 'done') {
      if (isChunked) this.#state = 'chunk end';
      else this.#complete();
    }
    return end;
  }

  #readChunkFraming(byte: number): void {
    switch (this.#state) {
      case 'chunk size': {
        const digit = hexDigit(byte);
        if (digit >= 0) {
          this.#chunkSizeDigits += 1;
          this.#bytesLeft = this.#bytesLeft * 16 + digit;
          if (this.#chunkSizeDigits > chunkSizeDigitsMax || this.#bytesLeft >= uncountableBytes) {
            this.#break(problems.receiveFailed);
          }
        } else if (this.#chunkSizeDigits === 0) {
          this.#break(problems.receiveFailed);
        } else {
          this.#headBytes = 0;
          this.#state = 'chunk extension';
          if (!mayFollowSize(byte)) this.#isSound = false;
          this.#readChunkFraming(byte);
        }
        return;
      }
      case 'chunk extension':
        // Ignored, whatever it is (RFC 9112, 7.1.1), but not for ever.
        this.#headBytes += 1;
        if (byte === lf) this.#beginChunk();
        else if (this.#headBytes > textBytes) this.#break(problems.receiveFailed);
        break;
      default:
        if (byte === lf) this.#endChunk();
        else if (byte !== cr) this.#break(problems.receiveFailed);
    }
    // Some take a CR alone, or a NUL, for the end of the line, and what stands behind it for a chunk.
    if ((byte === lf) !== (this.#lastByte === cr) || byte === 0) this.#isSound = false;
    this.#lastByte = byte;
  }

  #beginChunk(): void {
    this.#headBytes = 0;
    this.#state = this.#bytesLeft === 0 ? 'trailer' : 'chunk data';
  }

  #endChunk(): void {
    this.#chunkSizeDigits = 0;
    this.#state = 'chunk size';
  }

  #complete(): void {
    if (this.#state === 'endless body') this.#isSound = false;
    this.#state = 'done';
    this.#reader.onComplete();
  }

  #break(problem: Problem): void {
    this.#isSound = false;
    this.#state = 'done';
    this.#reader.onBroken(problem);
  }
}
