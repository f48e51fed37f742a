/** Runs criterion for the parts, and reads what it has written. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';

import { ROOT } from '../scripts/run.mjs';
import { round } from './figures.mjs';

/** Compiling included. */
const TIMEOUT_MS = 60 * 60_000;

/** Why the parts cannot be measured here, or `null`. */
export function obstacle() {
  const { status } = spawnSync('cargo', ['--version'], { stdio: 'ignore' });
  return status === 0 ? null : 'Measuring the parts needs cargo: https://rustup.rs';
}

/**
 * @param {(end: (() => void) | null) => void} hold told how to end it early
 * @returns {Promise<object[]>} rows
 */
export async function measureParts(hold) {
  const folder = join(targetFolder(), 'criterion');
  const names = readdirSync(join(ROOT, 'benches'))
    .filter((file) => file.endsWith('.rs'))
    .map((file) => basename(file, '.rs'));
  const begun = Date.now();
  // In a process group of its own, with all that it compiles and runs.
  const child = spawn('cargo', ['bench', ...names.flatMap((name) => ['--bench', name])], {
    cwd: ROOT,
    detached: true,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const end = () => process.kill(-child.pid, 'SIGKILL');
  hold(end);
  const timer = setTimeout(end, TIMEOUT_MS);
  try {
    const [code, signal] = await once(child, 'close');
    if (code !== 0)
      throw new Error(`\`cargo bench\` ${signal ? `was ended by ${signal}` : `failed (${code})`}.`);
  } finally {
    clearTimeout(timer);
    hold(null);
  }
  return readEstimates(folder, begun);
}

/**
 * The rows of what criterion has measured since a time.
 *
 * @param {string} folder
 * @param {number} [since] in milliseconds
 */
export function readEstimates(folder, since = 0) {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => basename(path) === 'estimates.json' && basename(join(path, '..')) === 'new')
    .filter((path) => statSync(join(folder, path)).mtimeMs >= since)
    .toSorted()
    .map((path) => {
      const { median } = readJson(folder, path);
      const { full_id: id, throughput } = readJson(folder, path, '..', 'benchmark.json');
      const { lower_bound: low, upper_bound: high } = median.confidence_interval;
      const rates = Object.entries(throughput ?? {}).map(([what, count]) => [
        `${what.toLowerCase()}_per_s`,
        Math.round((count / median.point_estimate) * 1e9),
      ]);
      return {
        kind: 'part',
        round: 1,
        peer: 'smartvpn',
        case: id,
        metrics: {
          median_ns: round(median.point_estimate, 2),
          low_ns: round(low, 2),
          high_ns: round(high, 2),
          ...Object.fromEntries(rates),
        },
      };
    });
}

function targetFolder() {
  const { stdout } = spawnSync('cargo', ['metadata', '--format-version=1', '--no-deps'], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  return JSON.parse(stdout).target_directory;
}

function readJson(...path) {
  return JSON.parse(readFileSync(join(...path), 'utf8'));
}
