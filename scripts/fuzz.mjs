#!/usr/bin/env node
/**
 * Fuzzes what reads bytes of others: `node scripts/fuzz.mjs [--seconds N] [target…]`, 60 seconds each of all
 * targets of fuzz/ unless told otherwise. fuzz/README.md says more.
 *
 * It takes cargo-fuzz; where that is not, it says so. With a nightly toolchain AddressSanitizer looks on. What has
 * been found before is tried by `cargo test` in any case.
 */

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { ROOT, heading, run, works } from './run.mjs';

/** What libFuzzer is told: no input is longer than a corpus may have it, and none takes seconds or gigabytes. */
const LIMITS = ['-max_len=70000', '-timeout=10', '-rss_limit_mb=2048'];

/** The names of all targets. */
function targets() {
  return readdirSync(join(ROOT, 'fuzz/fuzz_targets'))
    .filter((file) => file.endsWith('.rs'))
    .map((file) => file.slice(0, -'.rs'.length))
    .toSorted();
}

/** Why nothing can be fuzzed here; false where it can. */
export async function cannotFuzz() {
  if (await works('cargo', ['fuzz', '--version'])) return false;
  return 'cargo-fuzz is missing: `cargo install cargo-fuzz`.';
}

/**
 * @param {{ seconds: number, names?: string[] }} options `seconds` for each target
 * @returns {Promise<{ passed: number, failed: string[], skipped: { name: string, reason: string }[] }>}
 */
export async function fuzz({ seconds, names = targets() }) {
  const outcome = { passed: 0, failed: [], skipped: [] };
  const isNightly = await works('cargo', ['+nightly', '--version']);
  const [toolchain, sanitizer] = isNightly ? [['+nightly'], 'address'] : [[], 'none'];
  for (const name of names) {
    heading(`fuzz ${name}`);
    const how = [`-max_total_time=${seconds}`, ...LIMITS];
    try {
      await run('cargo', [...toolchain, 'fuzz', 'run', '--sanitizer', sanitizer, name, '--', ...how]);
      outcome.passed++;
    } catch (error) {
      console.error(error.message);
      outcome.failed.push(`fuzz ${name}`);
    }
  }
  return outcome;
}

async function main() {
  const { values, positionals: names } = parseArgs({
    options: { seconds: { type: 'string', default: '60' } },
    allowPositionals: true,
  });
  const seconds = Number(values.seconds);
  if (!Number.isInteger(seconds) || seconds < 1)
    throw new Error('--seconds takes a whole number of seconds.');
  const unknown = names.find((name) => !targets().includes(name));
  if (unknown) throw new Error(`There is no target ${unknown}; there are ${targets().join(', ')}.`);
  const reason = await cannotFuzz();
  if (reason) throw new Error(`Nothing can be fuzzed here. ${reason}`);
  const { failed } = await fuzz({ seconds, names: names.length > 0 ? names : undefined });
  if (failed.length > 0) throw new Error(`Failed: ${failed.join(', ')}. The inputs are in fuzz/artifacts/.`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await main();
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
