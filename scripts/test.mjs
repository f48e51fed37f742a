#!/usr/bin/env node
/**
 * Runs every test there is: `node scripts/test.mjs [--no-skip] [--long]`.
 *
 * What needs something that is not here (root, a program, `/dev/net/tun`) is skipped with the reason; with
 * `--no-skip`, or SMARTVPN_NO_SKIP=1, each skip is a failure. With `--long`, tests that can be run for seconds
 * or for minutes, or with few clients or many, take the larger measure: they are told by SMARTVPN_LONG=1. Then
 * the simulation must also find what is planted for it (mutants.mjs).
 *
 * The last line is `N passed, N failed, N skipped`.
 */

import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';

import { build } from './build.mjs';
import { readCargoTests } from './cargo-results.mjs';
import { ensureDependencies } from './ensure-deps.mjs';
import { cannotFuzz, fuzz } from './fuzz.mjs';
import { lint } from './lint.mjs';
import { ROOT, heading, read, run } from './run.mjs';

const { values: options } = parseArgs({
  options: { 'no-skip': { type: 'boolean' }, long: { type: 'boolean' } },
});
const noSkip = options['no-skip'] ?? process.env.SMARTVPN_NO_SKIP === '1';
const long = options.long ?? process.env.SMARTVPN_LONG === '1';
/** A file of tests that takes longer hangs; some are idle for ten minutes when there is time. */
const FILE_TIMEOUT_MS = (long ? 30 : 10) * 60_000;
/** For each target. */
const FUZZ_SECONDS = 10;
const measure = long ? { SMARTVPN_LONG: '1' } : {};

/** @type {{ passed: number, failed: string[], skipped: { name: string, reason: string }[] }} */
const total = { passed: 0, failed: [], skipped: [] };

await attempt('the development tools', ensureDependencies);
add(await lint({ quick: true }));
const built = await attempt('the build', build);
add(await rustTests());
add(await fuzzing());
if (built) add(await nodeTests());
if (long) add(await mutantTests());
report();

function add({ passed, failed, skipped }) {
  total.passed += passed;
  total.failed.push(...failed);
  total.skipped.push(...skipped);
}

/** Whether `step` succeeded; what else can run does. */
async function attempt(name, step) {
  try {
    await step();
    return true;
  } catch (error) {
    console.error(error.message);
    total.failed.push(name);
    return false;
  }
}

async function rustTests() {
  heading('cargo test');
  const args = ['test', '--no-fail-fast', '--', '--show-output'];
  let failure;
  const output = await read('cargo', args, { echo: true, env: measure }).catch((error) => {
    failure = error;
    return error.output ?? '';
  });
  const outcome = readCargoTests(output);
  if (failure && outcome.failed.length === 0) outcome.failed.push(failure.message);
  return outcome;
}

/** Whether the simulation finds the bugs that are planted for it. */
async function mutantTests() {
  heading('mutants');
  try {
    await run(process.execPath, ['scripts/mutants.mjs']);
    return { passed: 1, failed: [], skipped: [] };
  } catch (error) {
    return { passed: 0, failed: [error.message], skipped: [] };
  }
}

/** What fuzzing has found is among the Rust tests; looking for more is for where the tool is, and no skip elsewhere. */
async function fuzzing() {
  const reason = await cannotFuzz();
  if (!reason) return fuzz({ seconds: FUZZ_SECONDS });
  heading(`Nothing new is fuzzed. ${reason}`);
  return { passed: 0, failed: [], skipped: [] };
}

async function nodeTests() {
  heading('node --test');
  const folder = mkdtempSync(join(tmpdir(), 'smartvpn-test-'));
  const tally = join(folder, 'tally.jsonl');
  const outcome = { passed: 0, failed: [], skipped: [] };
  let failure;
  try {
    writeFileSync(tally, '');
    await run(
      process.execPath,
      [
        '--test',
        // Tests of the network share the machine's time; side by side they would measure each other.
        '--test-concurrency=1',
        `--test-timeout=${FILE_TIMEOUT_MS}`,
        '--test-reporter=spec',
        '--test-reporter-destination=stdout',
        '--test-reporter=./scripts/test-tally.mjs',
        `--test-reporter-destination=${tally}`,
        ...testFiles(),
      ],
      { env: measure },
    );
  } catch (error) {
    failure = error;
  }
  const lines = readFileSync(tally, 'utf8').split('\n').filter(Boolean);
  rmSync(folder, { recursive: true });
  for (const { verdict, name, file, reason } of lines.map((line) => JSON.parse(line))) {
    const where = `${file}: ${name}`;
    if (verdict === 'passed') outcome.passed++;
    else if (verdict === 'failed') outcome.failed.push(where);
    else outcome.skipped.push({ name: where, reason });
  }
  if (failure && outcome.failed.length === 0) outcome.failed.push(failure.message);
  return outcome;
}

function testFiles() {
  return readdirSync(join(ROOT, '__test__'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.test\.m?js$/.test(entry.name))
    .map((entry) => relative(ROOT, join(entry.parentPath ?? entry.path, entry.name)))
    .toSorted();
}

function report() {
  const { passed, failed, skipped } = total;
  if (skipped.length > 0) heading(`Skipped${noSkip ? ', which is a failure here' : ''}`);
  for (const [reason, names] of byReason(skipped)) {
    console.log(reason);
    for (const name of names) console.log(`  ${name}`);
  }
  if (failed.length > 0) heading('Failed');
  for (const name of failed) console.log(`  ${name}`);
  console.log(`\n${passed} passed, ${failed.length} failed, ${skipped.length} skipped`);
  if (failed.length > 0 || (noSkip && skipped.length > 0)) process.exitCode = 1;
}

function byReason(skipped) {
  const groups = new Map();
  for (const { name, reason } of skipped) groups.set(reason, [...(groups.get(reason) ?? []), name]);
  return groups;
}
