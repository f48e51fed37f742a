#!/usr/bin/env node
/**
 * Checks the sources without running them: `node scripts/lint.mjs [--quick]`, which leaves clippy out.
 *
 * What cannot run here is left out and said; with SMARTVPN_NO_SKIP=1 that is a failure.
 */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { heading, run, tool, works } from './run.mjs';

/**
 * The checks in the order they run in. `missing()` says why one cannot run here.
 *
 * @type {{ name: string, command: string[], slow?: boolean, missing: () => Promise<string | false> }[]}
 */
const CHECKS = [
  { name: 'prettier', command: [tool('prettier'), '--check', '.'], missing: noTools },
  { name: 'oxlint', command: [tool('oxlint')], missing: noTools },
  { name: 'tsc', command: [tool('tsc'), '-p', '.'], missing: noTools },
  { name: 'layers', command: [process.execPath, 'scripts/check-layers.mjs'], missing: async () => false },
  {
    name: 'limits',
    command: [process.execPath, 'scripts/limits.mjs', '--check'],
    missing: async () => false,
  },
  { name: 'rustfmt', command: ['cargo', 'fmt', '--check'], missing: () => noCargo('fmt', 'rustfmt') },
  {
    name: 'clippy',
    command: ['cargo', 'clippy', '--all-targets', '--all-features', '--', '-D', 'warnings'],
    missing: () => noCargo('clippy', 'clippy'),
    slow: true,
  },
];

/**
 * @param {{ quick?: boolean }} [options] `quick` leaves out what compiles
 * @returns {Promise<{ passed: number, failed: string[], skipped: { name: string, reason: string }[] }>}
 */
export async function lint({ quick = false } = {}) {
  const outcome = { passed: 0, failed: [], skipped: [] };
  for (const { name, command, missing, slow } of CHECKS) {
    if (quick && slow) continue;
    const reason = await missing();
    if (reason) {
      outcome.skipped.push({ name, reason });
      continue;
    }
    heading(name);
    try {
      await run(command[0], command.slice(1));
      outcome.passed++;
    } catch (error) {
      console.error(error.message);
      outcome.failed.push(name);
    }
  }
  return outcome;
}

async function noTools() {
  return !existsSync(tool('tsc')) && 'The development tools are missing: `npm ci`.';
}

async function noCargo(command, component) {
  const there = await works('cargo', [command, '--version']);
  return !there && `cargo has no ${command}: \`rustup component add ${component}\`.`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { failed, skipped } = await lint({ quick: process.argv.includes('--quick') });
  for (const { name, reason } of skipped) console.log(`Left out: ${name}. ${reason}`);
  if (failed.length > 0) console.error(`Failed: ${failed.join(', ')}.`);
  const incomplete = process.env.SMARTVPN_NO_SKIP === '1' && skipped.length > 0;
  process.exitCode = failed.length > 0 || incomplete ? 1 : 0;
}
