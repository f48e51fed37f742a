#!/usr/bin/env node
/**
 * Measures the parts with criterion, and tunnels from end to end:
 *
 *     npm run bench -- [--parts | --end-to-end] [--rounds 3] [--seconds 5] [--cases a,b] [--peers a,b]
 *                      [--out FILE] [--daemon PATH]
 *
 * Writes a row for each measurement to bench/results/DATE-bench.jsonl and draws docs/performance.svg; with `--out`,
 * the picture lies beside the rows. `--daemon` is measured in place of the one that `npm run build` has made.
 * What is not installed is left out, with the reason. README.md says what the cases are.
 */
import { appendFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join, resolve } from 'node:path';

import * as tunnels from './end-to-end.mjs';
import { parseOptions } from './options.mjs';
import * as parts from './parts.mjs';
import { picture } from './plot-performance.mjs';
import { tables } from './report.mjs';
import { describeMachine, readRows } from './rows.mjs';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'];

const options = readOptions();
if (options.daemon) process.env.SMARTVPN_BENCH_DAEMON = resolve(options.daemon);
const output = options.out ? resolve(options.out) : unusedName();
const drawing = options.out
  ? `${output.replace(/\.jsonl$/, '')}.svg`
  : join(import.meta.dirname, '..', 'docs', 'performance.svg');
const machine = describeMachine();

/** Ends what runs, when a signal ends this process. */
let end = () => {};
let isEnding = false;
for (const signal of SIGNALS) process.once(signal, () => endBy(signal));

mkdirSync(dirname(output), { recursive: true });
rmSync(output, { force: true });
let failed = 0;
if (options.parts && isPossible('The parts', parts)) {
  const rows = await parts.measureParts((stop) => (end = stop ?? (() => {})));
  for (const row of rows) write({ ...row, time: new Date().toISOString() });
}
if (options.endToEnd && isPossible('Tunnels', tunnels)) {
  failed = await tunnels.measureAll(options, write, (site) => (end = () => site?.close()));
}
finish();

function readOptions() {
  try {
    return parseOptions(process.argv.slice(2));
  } catch (error) {
    console.error(error.message);
    return process.exit(2);
  }
}

function unusedName() {
  const stem = join(import.meta.dirname, 'results', `${new Date().toISOString().slice(0, 10)}-bench`);
  for (let number = 1; ; number++) {
    const name = `${stem}${number === 1 ? '' : `-${number}`}.jsonl`;
    if (!existsSync(name)) return name;
  }
}

function isPossible(what, { obstacle }) {
  const reason = obstacle();
  if (reason) console.log(`Left out: ${what}: ${reason}`);
  return !reason;
}

function write(row) {
  if (isEnding) return; // what the end has broken off
  appendFileSync(output, `${JSON.stringify({ ...row, ...machine })}\n`);
  const { kind, round, peer, case: name, metrics, error } = row;
  if (kind !== 'result') return;
  const figures = Object.entries(metrics ?? {}).map(([key, value]) => `${key} ${value}`);
  console.log(`${round} ${name.padEnd(10)} ${peer.padEnd(12)} ${error ?? figures.join(', ')}`);
}

function finish() {
  if (!existsSync(output)) {
    console.log('Nothing was measured.');
    return;
  }
  const rows = readRows(output);
  console.log(`\n${tables(rows)}\n${output}`);
  const svg = picture(rows);
  if (svg) {
    writeFileSync(drawing, svg);
    console.log(drawing);
  }
  if (failed > 0) {
    console.error(`${failed} measurements failed; their rows say why.`);
    process.exitCode = 1;
  }
}

async function endBy(signal) {
  isEnding = true;
  try {
    await end();
  } finally {
    process.exit(128 + constants.signals[signal]);
  }
}
