#!/usr/bin/env node
/**
 * Shows that the simulation finds what it is there to find: `node scripts/mutants.mjs [NAME…]`.
 *
 * Each patch in tests/mutants/ plants one bug in a copy of the sources. Its head says what it breaks, which story
 * must find it, and what that story must say. A mutant that is not found, or by something else than it should be,
 * is a failure. Takes minutes; SIM_SEEDS sets how many stories are told at most.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { ROOT, heading, read } from './run.mjs';

const FOLDER = join(ROOT, 'tests', 'mutants');

/** What `cargo test` needs of the project. */
const SOURCES = ['Cargo.toml', 'Cargo.lock', 'build.rs', '.cargo', 'src', 'tests', 'benches'];

/** A mutant that takes longer hangs. */
const TIMEOUT_MS = 10 * 60_000;

/** Stories told at most before a mutant counts as not found. */
const SEEDS = '10000';

/**
 * @typedef {{ name: string, patch: string, breaks: string, story: string, says: string }} Mutant
 * @returns {Mutant[]} all mutants, by name
 * @throws {Error} if the head of one lacks something
 */
export function mutants() {
  const names = readdirSync(FOLDER).filter((file) => file.endsWith('.patch'));
  return names.toSorted().map((file) => {
    const patch = join(FOLDER, file);
    const [head] = readFileSync(patch, 'utf8').split(/^diff /m);
    const field = (name) => {
      const [, text] = new RegExp(`^${name}: (.+)$`, 'm').exec(head) ?? [];
      if (!text) throw new Error(`${file} does not say "${name}: …".`);
      return text;
    };
    const [breaks, story, says] = ['Breaks', 'Found by', 'Says'].map(field);
    return { name: file.replace(/\.patch$/, ''), patch, breaks, story, says };
  });
}

/**
 * What became of a mutant.
 *
 * @param {Mutant} mutant
 * @param {string} output what the simulation printed
 * @returns {{ seed?: string, failure?: string }}
 */
export function judge({ story, says }, output) {
  const [, seed] = new RegExp(`^SEED=(\\d+) .*${story}$`, 'm').exec(output) ?? [];
  if (/^error(\[E\d+\])?: (?!test failed)/m.test(output) && !/^running \d+ tests?$/m.test(output))
    return { failure: 'it does not compile' };
  if (!seed) return { failure: 'nothing found it' };
  if (!output.includes(says)) return { seed, failure: `it was found, but nothing said "${says}"` };
  return { seed };
}

async function run(names) {
  const all = mutants().filter(({ name }) => names.length === 0 || names.some((part) => name.includes(part)));
  const tree = mkdtempSync(join(tmpdir(), 'smartvpn-mutants-'));
  const failed = [];
  try {
    for (const source of SOURCES.map((name) => join(ROOT, name)).filter((path) => existsSync(path))) {
      cpSync(source, join(tree, basename(source)), { recursive: true });
    }
    for (const mutant of all) {
      heading(`${mutant.name}: ${mutant.breaks}`);
      const started = performance.now();
      await git(tree, ['apply', mutant.patch]);
      const { seed, failure } = judge(mutant, await simulate(tree, mutant.story));
      await git(tree, ['apply', '--reverse', mutant.patch]);
      const seconds = Math.round((performance.now() - started) / 1_000);
      const found = seed === undefined ? '' : `found by ${mutant.story}, seed ${seed}, after ${seconds} s`;
      console.log([failure, found].filter(Boolean).join('; '));
      if (failure) failed.push(mutant.name);
    }
  } finally {
    rmSync(tree, { recursive: true });
  }
  console.log(`\n${all.length - failed.length} of ${all.length} mutants found`);
  if (failed.length > 0 || all.length === 0) process.exitCode = 1;
  for (const name of failed) console.log(`  ${name} survives`);
}

/** What the simulation prints; that it fails is what is wanted. */
async function simulate(tree, story) {
  // Cargo's folder of the project is not touched: its addon must not become a mutant's.
  const targets = join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'mutants');
  const env = { CARGO_TARGET_DIR: targets, SIM_SEEDS: process.env.SIM_SEEDS ?? SEEDS, RUST_BACKTRACE: '0' };
  const args = ['test', '--test', 'simulation', '--', '--exact', story, '--nocapture'];
  return both(tree, env, ['cargo', ...args]);
}

/** Standard output and error of a program, in one text. */
async function both(cwd, env, [command, ...args]) {
  const stdio = ['ignore', 'pipe', 'pipe'];
  const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio, timeout: TIMEOUT_MS });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (part) => {
      text += part;
    });
  }
  await once(child, 'close');
  return text;
}

function git(tree, args) {
  // A folder for temporary files may lie in somebody's repository.
  return read('git', args, { cwd: tree, env: { GIT_CEILING_DIRECTORIES: tmpdir() } });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await run(process.argv.slice(2));
