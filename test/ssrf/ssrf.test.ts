import { execFile } from 'node:child_process';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ownNetwork } from '../../ssrf/own-network.mjs';

const { whyNot } = ownNetwork();
if (whyNot !== undefined) console.warn(`test/ssrf/ssrf.test.ts is skipped: ${whyNot}`);

type Result = {
  readonly isSound: boolean;
  readonly tries: number;
  readonly became: Readonly<Record<string, number>>;
  readonly canaries: Readonly<Record<string, number>>;
  readonly elsewhere: Readonly<Record<string, number>>;
  readonly [what: string]: unknown;
};

/** A short run of `npm run ssrf`. */
function ssrf(...words: readonly string[]): Promise<{ status: number | null; result: Result }> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, ['ssrf/ssrf.mjs', '--json', ...words], (_, stdout) =>
      resolve({ status: child.exitCode, result: JSON.parse(stdout) as Result }),
    );
    onTestFinished(() => void child.kill());
  });
}

describe.skipIf(whyNot !== undefined)(
  'in a network where every address is a canary but two',
  { timeout: 60_000 },
  () => {
    test('no try reaches one: spellings, names, redirects, a name server that changes its mind', async () => {
      const { status, result } = await ssrf('--tries', '800');
      expect(result).toMatchObject({ isSound: true, tries: 800, elsewhere: {}, examples: [] });
      expect(new Set(Object.values(result.canaries))).toEqual(new Set([0]));
      // There was something to be had.
      expect(result['redirects followed']).toBeGreaterThan(200);
      expect(result['questions to the name server']).toBeGreaterThan(200);
      expect(result["connections to the attacker's own server"]).toBeGreaterThan(100);
      expect(result.became['denied']).toBeGreaterThan(400);
      expect(status).toBe(0);
    });

    test('all of them would be reached if the policy let them', async () => {
      const { status, result } = await ssrf('--tries', '800', '--allow', 'all');
      expect(result.isSound).toBe(false);
      for (const [address, count] of Object.entries(result.canaries)) expect(count, address).toBeGreaterThan(0);
      expect(Object.keys(result.elsewhere).length).toBeGreaterThan(5);
      expect(status).toBe(1);
    });
  },
);
