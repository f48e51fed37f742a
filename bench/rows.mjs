/**
 * Rows of measurements, one JSON object a line:
 *
 *     { kind: 'result', round, peer, case, metrics, load_before, version, time, … }    a peer in a case
 *     { kind: 'result', round, peer, case, error, … }                                  a case that failed
 *     { kind: 'part', peer, case, metrics, … }                                         of `cargo bench`
 *
 * and in each, what it was measured on: `kernel`, `cpu`, `cores`, `commit`.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, release } from 'node:os';

import { ROOT } from '../scripts/run.mjs';
import { median } from './figures.mjs';

/** What the rows of this machine have in common. */
export function describeMachine() {
  const { stdout } = spawnSync('git', ['describe', '--always', '--dirty'], { cwd: ROOT, encoding: 'utf8' });
  return {
    kernel: release(),
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    commit: stdout?.trim() || 'unknown',
  };
}

/** @param {string} file of JSON lines */
export function readRows(file) {
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
}

/** The values of one metric, by peer, and in each by round. */
export function valuesOf(rows, name, key) {
  const values = new Map();
  for (const { kind, peer, case: its, round, metrics } of rows) {
    if (kind !== 'result' || its !== name || !Number.isFinite(metrics?.[key])) continue;
    if (!values.has(peer)) values.set(peer, new Map());
    values.get(peer).set(round, metrics[key]);
  }
  return values;
}

/** @param {Map<number, number>} rounds of {@link valuesOf} */
export function summary(rounds) {
  const values = [...rounds.values()];
  return { median: median(values), min: Math.min(...values), max: Math.max(...values), count: values.length };
}

/** The median of the ratios within each round that both took part in; `null` without one. */
export function ratio(rounds, base) {
  const ratios = [...rounds].filter(([round]) => base?.get(round) > 0);
  return ratios.length === 0 ? null : median(ratios.map(([round, value]) => value / base.get(round)));
}

/** The peers of rows: the known ones in their order, then the others. */
export function peersOf(rows, known) {
  const there = new Set(rows.filter(({ kind }) => kind === 'result').map(({ peer }) => peer));
  return [...known.filter((peer) => there.has(peer)), ...[...there].filter((peer) => !known.includes(peer))];
}

/** A number with three digits that count, and commas between thousands. */
export function figure(number) {
  if (number >= 100) return Math.round(number).toLocaleString('en-US');
  return `${Number(number.toPrecision(number < 1 ? 2 : 3))}`;
}
