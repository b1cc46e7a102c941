import { type Problem, problems } from './failures.ts';

/**
 * What a Content-Length says: the length; undefined for one beyond counting, which libcurl does not count on either. What follows the digits is passed
 * over as libcurl does, unless it is another length.
 */
export function contentLength(value: string): number | undefined | 'none' {
  const [first = '', ...others] = value.split(',').map((part) => /^\s*\+?(\d+)/.exec(part)?.[1] ?? '');
  if (first === '' || others.some((other) => other !== first)) return 'none';
  const length = Number(first);
  return Number.isSafeInteger(length) ? length : undefined;
}

/** The last of the codings where it is `chunked`, 'none' where nothing is coded; we asked for no other. */
export function transferCoding(value: string): 'chunked' | 'none' | Problem {
  const codings = value
    .split(',')
    .map((coding) => coding.trim().toLowerCase())
    .filter((coding) => coding !== '' && coding !== 'identity');
  if (codings.length === 0) return 'none';
  return codings.every((coding) => coding === 'chunked') ? 'chunked' : problems.badCoding;
}
