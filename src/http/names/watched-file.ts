import { readFileSync, statSync } from 'node:fs';

const checkedEveryMs = 5_000;

/**
 * A file of the system's configuration, parsed, and read again when it has changed. One that is missing, or that may not be
 * read, is empty.
 *
 * Synchronous on purpose: that takes microseconds every few seconds, where the thread pool, which asynchronous file operations
 * go through, may be busy with lookups that hang.
 */
export class WatchedFile<T> {
  readonly #path: string;
  readonly #parse: (text: string) => T;
  readonly #now: () => number;
  #checkedAtMs = Number.NEGATIVE_INFINITY;
  #version = '';
  #parsed: { readonly value: T } | undefined;

  constructor(path: string, parse: (text: string) => T, now: () => number) {
    this.#path = path;
    this.#parse = parse;
    this.#now = now;
  }

  /** What the file says, as of a few seconds ago at most. */
  get(): T {
    const nowMs = this.#now();
    if (this.#parsed === undefined || nowMs - this.#checkedAtMs >= checkedEveryMs) {
      this.#checkedAtMs = nowMs;
      const version = unlessFailed(() => versionOf(this.#path));
      if (this.#parsed === undefined || version !== this.#version) {
        this.#version = version;
        this.#parsed = { value: this.#parse(unlessFailed(() => readFileSync(this.#path, 'utf8'))) };
      }
    }
    return this.#parsed.value;
  }
}

function versionOf(path: string): string {
  const { ino, size, mtimeMs, ctimeMs } = statSync(path);
  return [ino, size, mtimeMs, ctimeMs].join(' ');
}

function unlessFailed(read: () => string): string {
  try {
    return read();
  } catch {
    return '';
  }
}
