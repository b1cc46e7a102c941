import { type SecretSource, secretValueProblem } from '../core/secret-values.ts';

/** A value is asked for anew after so long: a rotation needs no restart, and a vault is not asked for every request. */
const keptForMs = 1_000;
/** A source that takes longer is given up, and asked anew for the next request. */
export const readTimeoutMs = 5_000;

/** A value that can be used, or why there is none. */
export type Reading = { readonly value: string } | { readonly problem: string };

const tooLate: Reading = { problem: 'could not be read in time' };

/** The values of secrets, as their source has them now, or a moment ago. */
export class SecretValues {
  readonly #source: SecretSource;
  readonly #now: () => number;
  /** Of declared secrets only, so there are as few. */
  readonly #readings = new Map<string, { readonly reading: Promise<Reading>; untilMs: number }>();

  constructor(source: SecretSource, now: () => number) {
    this.#source = source;
    this.#now = now;
  }

  /** Never rejects, and resolves within `timeoutMs`. */
  async read(name: string, timeoutMs: number): Promise<Reading> {
    return await within(this.#read(name), timeoutMs);
  }

  /** Those who ask at the same time share one reading. One that failed is not kept. */
  #read(name: string): Promise<Reading> {
    const known = this.#readings.get(name);
    if (known !== undefined && this.#now() < known.untilMs) return known.reading;
    const entry = { reading: within(readFrom(this.#source, name), readTimeoutMs), untilMs: Number.POSITIVE_INFINITY };
    this.#readings.set(name, entry);
    void entry.reading.then((reading) => {
      entry.untilMs = 'value' in reading ? this.#now() + keptForMs : Number.NEGATIVE_INFINITY;
    });
    return entry.reading;
  }
}

async function readFrom(source: SecretSource, name: string): Promise<Reading> {
  let value: string | undefined;
  try {
    value = await source.read(name);
  } catch (error) {
    return { problem: `could not be read${codeOf(error)}` };
  }
  if (value === undefined) return { problem: 'has no value' };
  const problem = typeof value === 'string' ? secretValueProblem(value) : 'it is no text';
  return problem === undefined ? { value } : { problem: `cannot be used: ${problem}` };
}

/** ` (EACCES)`: of an error nothing else can be told that is sure not to quote a value. */
function codeOf(error: unknown): string {
  const code: unknown = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
  return typeof code === 'string' && /^E[A-Z]{2,20}$/.test(code) ? ` (${code})` : '';
}

async function within(reading: Promise<Reading>, timeoutMs: number): Promise<Reading> {
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<Reading>((resolve) => {
    timer = setTimeout(() => resolve(tooLate), Math.min(timeoutMs, readTimeoutMs));
  });
  try {
    return await Promise.race([reading, expired]);
  } finally {
    clearTimeout(timer);
  }
}
