import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const answerTimeoutMs = 1_000;
/** An address and its port; whatever else a file of that name may hold is none of ours. */
const urlPattern = /^http:\/\/localhost:\d{1,5}$/;

const noteIn = (directory: string): string => join(directory, 'echo.url');

/** Leaves a note in the data's directory where the echo server is, for a second start. Without it that says less. */
export function leaveEchoNote(directory: string, url: string): void {
  try {
    writeFileSync(noteIn(directory), `${url}\n`);
  } catch {
    // A directory that takes no note holds data all the same.
  }
}

export function removeEchoNote(directory: string): void {
  rmSync(noteIn(directory), { force: true });
}

/** Where the echo server of this directory is; undefined where nobody left word, or nobody answers there any more. */
export async function findEcho(directory: string): Promise<string | undefined> {
  try {
    const url = readFileSync(noteIn(directory), 'utf8').trim();
    if (!urlPattern.test(url)) return undefined;
    const { ok } = await fetch(`${url}/get`, { signal: AbortSignal.timeout(answerTimeoutMs) });
    return ok ? url : undefined;
  } catch {
    return undefined;
  }
}
