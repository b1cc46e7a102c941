import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { secretNamePattern } from '../core/secret-references.ts';
import type { SecretSource } from '../core/secret-values.ts';

/** More than a secret may have, with the line break that ends the file. */
const fileBytesMax = 16_384;

/**
 * The secrets of a directory, as Kubernetes and Docker mount them: the value of `stripe` is what the file `stripe` holds, in UTF-8,
 * without a line break at its end. What changes there is seen within a second. A file that is not there is a secret without a value.
 *
 * Read synchronously on purpose: that takes microseconds, where the thread pool, which asynchronous file operations go through,
 * may be busy with lookups that hang.
 */
export function secretDirectory(path: string): SecretSource {
  return {
    async read(name) {
      // Not for the worker, which asks for names that are declared: for whoever else calls it.
      if (!secretNamePattern.test(name)) return undefined;
      const bytes = contentsOf(join(path, name));
      return bytes && new TextDecoder('utf-8', { fatal: true }).decode(bytes).replace(/\r?\n$/, '');
    },
  };
}

function contentsOf(file: string): Uint8Array | undefined {
  let descriptor: number;
  try {
    // Non-blocking: opening a pipe would wait for whoever writes into it.
    descriptor = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    if (!fstatSync(descriptor).isFile()) throw Object.assign(new Error('not a file'), { code: 'EINVAL' });
    const bytes = Buffer.alloc(fileBytesMax);
    return bytes.subarray(0, readSync(descriptor, bytes, 0, fileBytesMax, 0));
  } finally {
    closeSync(descriptor);
  }
}
