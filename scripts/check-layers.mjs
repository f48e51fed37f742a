#!/usr/bin/env node
/**
 * Checks that each Rust file imports only from tiers below its own, and that the lowest tiers touch
 * neither clock, nor randomness, nor the outside world. docs/architecture.md says what it is for.
 *
 * The tiers are the groups of modules in src/lib.rs, from the top down; `src/bin` is above them all.
 */

import { readFileSync, readdirSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

import { readRust } from './rust-paths.mjs';

/** What a module may import from its own tier; in the key, `*` is every module. */
const WITHIN_A_TIER = {
  // Every part has errors, and each knows its code.
  '*': ['error'],
  // Both speak method names and JSON text, which `management` dispatches.
  addon: ['management'],
  // A bundle's records are packets with their offload headers.
  codec: ['packet'],
  // The associated data of a sealed frame is its header.
  crypto: ['codec'],
  // A dropped packet has a reason, which is its counter.
  packet: ['telemetry'],
  qos: ['packet', 'telemetry'],
};

/** The lowest tiers, from this module down, and what they may not name, with what to do instead. */
const PURE_FROM = 'session';
const IMPURE = {
  tokio: 'belongs to the engine and the outside world',
  'std::env': 'take what it says as an argument',
  'std::fs': 'files are the outside world',
  'std::net::TcpListener': 'sockets are the outside world',
  'std::net::TcpStream': 'sockets are the outside world',
  'std::net::UdpSocket': 'sockets are the outside world',
  'std::os': 'the system is the outside world',
  'std::process': 'processes are the outside world',
  'std::thread': 'tasks belong to the engine',
  'std::time::SystemTime': 'take the time as an argument',
  'std::time::Instant::now': 'take `now` as an argument',
  'Instant::now': 'take `now` as an argument',
  SystemTime: 'take the time as an argument',
  'thread::spawn': 'tasks belong to the engine',
  getrandom: 'take a random number generator as an argument',
  'rand::random': 'take a random number generator as an argument',
  'rand::rng': 'take a random number generator as an argument',
  'rand::rngs::SysRng': 'take a random number generator as an argument',
};

/** Crates that one module alone may name. */
const OWNED = { napi: 'addon', napi_derive: 'addon', clap: 'bin' };

/**
 * @typedef {object} Finding
 * @property {string} file from the root
 * @property {number} line
 * @property {string} message
 */

/**
 * @param {string} root the crate's folder
 * @returns {Finding[]}
 */
export function checkLayers(root) {
  const src = join(root, 'src');
  const tiers = readTiers(readFileSync(join(src, 'lib.rs'), 'utf8'));
  const files = rustFiles(src).map((file) => {
    const module = moduleOf(relative(src, file));
    return { file: relative(root, file), module, ...readRust(readFileSync(file, 'utf8')) };
  });
  const tests = new Set(
    files.flatMap(({ module, testModules }) => testModules.map((name) => [...module, name].join('::'))),
  );
  const isTest = (module) => module.some((_, index) => tests.has(module.slice(0, index + 1).join('::')));
  return files
    .filter(({ module }) => module.length > 0 && !isTest(module))
    .flatMap((file) => checkFile(file, tiers));
}

/** The modules of lib.rs with the tier of each, 0 at the top: blank lines part the tiers. */
function readTiers(lib) {
  const tiers = new Map([['bin', -1]]);
  const groups = lib
    .split(/\n\s*\n/)
    .map((group) => Array.from(group.matchAll(/^\s*(?:pub(?:\([^)]*\))? )?mod (\w+);/gm), ([, name]) => name))
    .filter((group) => group.length > 0);
  for (const [tier, names] of groups.entries()) {
    for (const name of names) tiers.set(name, tier);
  }
  if (!tiers.has(PURE_FROM)) throw new Error(`src/lib.rs has no module ${PURE_FROM}`);
  return tiers;
}

function checkFile({ file, module, paths }, tiers) {
  const [home] = module;
  const findings = [];
  const tier = tiers.get(home);
  if (tier === undefined) {
    return [{ file, line: 1, message: `the module ${home} is not in src/lib.rs` }];
  }
  for (const { segments, scope, line } of paths) {
    const message =
      importFault(home, resolve(segments, [...module, ...scope]), tiers) ??
      ownerFault(home, segments) ??
      (tier >= tiers.get(PURE_FROM) ? impurity(segments) : undefined);
    if (message) findings.push({ file, line, message });
  }
  return findings;
}

/** The module of the crate that a path leads to, if to any. */
function resolve(segments, module) {
  const [first, ...rest] = segments;
  if (first === 'crate' || (first === 'smartvpn' && module[0] === 'bin')) return rest[0];
  if (first === 'self') return module[0];
  if (first !== 'super') return undefined;
  const below = segments.filter((segment) => segment !== 'super');
  const ups = segments.length - below.length;
  return [...module.slice(0, Math.max(0, module.length - ups)), ...below][0];
}

function importFault(home, target, tiers) {
  if (target === undefined || target === home || !tiers.has(target)) return undefined;
  const [from, to] = [tiers.get(home), tiers.get(target)];
  if (to > from) return undefined;
  if (to < from) return `${home} may not import from ${target}, which is above it`;
  const allowed = [...WITHIN_A_TIER['*'], ...(WITHIN_A_TIER[home] ?? [])];
  return allowed.includes(target) ? undefined : `${home} may not import from ${target}, which is beside it`;
}

function ownerFault(home, [crate]) {
  const owner = OWNED[crate];
  return owner && owner !== home ? `only ${owner} may name ${crate}` : undefined;
}

function impurity(segments) {
  const path = segments.join('::');
  const named = Object.keys(IMPURE).find((name) => path === name || path.startsWith(`${name}::`));
  return named && `the lowest tiers may not name ${named}: ${IMPURE[named]}`;
}

/** `a/b.rs` and `a/b/mod.rs` are the module `a::b`; lib.rs is the root, `[]`. */
function moduleOf(file) {
  const parts = file.replace(/\.rs$/, '').split(sep);
  if (parts.at(-1) === 'mod') parts.pop();
  return parts.join() === 'lib' ? [] : parts;
}

function rustFiles(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.rs'))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .toSorted();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const findings = checkLayers(process.argv[2] ?? fileURLToPath(new URL('..', import.meta.url)));
  for (const { file, line, message } of findings) console.error(`${file}:${line}: ${message}`);
  if (findings.length > 0) process.exitCode = 1;
  else console.log('Every file imports only from below itself.');
}
