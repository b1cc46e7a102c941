import { readFileSync } from 'node:fs';

/** This package's version, as package.json has it. */
export const version: string = readVersion();

function readVersion(): string {
  // The same distance from `src/config` and from `dist/config`.
  const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
  if (typeof manifest === 'object' && manifest !== null && 'version' in manifest) {
    return String(manifest.version);
  }
  throw new Error('package.json has no version');
}
