#!/usr/bin/env node
/**
 * Writes docs/limits.md from the sources: `node scripts/limits.mjs [--check]`, which only says whether it
 * is as it would be written. What is shown is in limits-list.mjs.
 */

import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

import { NO_LIMITS, SECTIONS, TIME } from './limits-list.mjs';
import { readRust } from './rust-paths.mjs';
import { Evaluator, Range, Time, readConstants } from './source-constants.mjs';

export const PAGE = 'docs/limits.md';

const HEAD = `# Limits

Every queue, cap, timer and bound of smartvpn, with the constant that sets it and the reason that stands beside it in
the sources. \`node scripts/limits.mjs\` writes this page from them, and \`npm run lint\` fails where the two differ.
KiB, MiB and GiB are powers of 1,024. API and PROTOCOL are the documents that the interfaces were built to.
`;

/** A number of this name bounds something, and so does every time. */
const LIMIT_NAME =
  /(?:^|_)(?:MAX|LIMIT|CAPACITY|BACKLOG|TIMEOUT|HISTORY|PATIENCE)(?:_|$)|_(?:BYTES|PACKETS)$/;
const NUMBER_TYPE = /^(?:[iu](?:8|16|32|64|size)|f64)$/;

/** Units of time, with how many seconds each has, and how many of it there must be: 60 s are not a minute. */
const TIME_UNITS = [
  { unit: 'h', length: 3_600, least: 1 },
  { unit: 'min', length: 60, least: 2 },
  { unit: 's', length: 1, least: 1 },
  { unit: 'ms', length: 1e-3, least: 1 },
  { unit: 'µs', length: 1e-6, least: 0 },
];

/**
 * @param {string} root the package's folder
 * @param {{ sections?: typeof SECTIONS, noLimits?: typeof NO_LIMITS }} [list]
 * @returns {{ page: string, findings: string[] }} the page, and what is wrong with the list or the sources
 */
export function describeLimits(root, { sections = SECTIONS, noLimits = NO_LIMITS } = {}) {
  const constants = readSources(root);
  const evaluator = new Evaluator(constants);
  const findings = [];
  const shown = new Set();

  const row = (file, name, unit) => {
    const constant = constants.find((one) => one.file === file && one.name === name);
    if (!constant) {
      findings.push(`${file}: there is no ${name}, which scripts/limits-list.mjs lists`);
      return [];
    }
    shown.add(constant);
    if (!constant.comment) findings.push(`${file}: ${name} has no comment that says why it is what it is`);
    const value = show(evaluator.valueOf(constant), unit);
    return [
      `| \`${name}\` | ${value} | ${constant.comment.replaceAll('|', '\\|')} | [${file}](../${file}) |`,
    ];
  };
  const parts = sections.map(({ title, intro, files }) => {
    const rows = Object.entries(files).flatMap(([file, names]) =>
      Object.entries(names).flatMap(([name, unit]) => row(file, name, unit)),
    );
    return `\n## ${title}\n\n${intro}\n\n| constant | value | why | where |\n|---|---|---|---|\n${rows.join('\n')}\n`;
  });

  const others = constants.filter((constant) => looksLikeLimit(constant) && !shown.has(constant));
  for (const { file, name } of others) {
    if (!noLimits[file]?.includes(name)) {
      findings.push(`${file}: say in scripts/limits-list.mjs what unit ${name} has, or that it is no limit`);
    }
  }
  for (const [file, names] of Object.entries(noLimits)) {
    for (const name of names) {
      if (!others.some((one) => one.file === file && one.name === name)) {
        findings.push(
          `${file}: scripts/limits-list.mjs says that ${name} is no limit, and nothing would think so`,
        );
      }
    }
  }
  return { page: HEAD + parts.join(''), findings };
}

/** The constants of the engine and the package, those of test code apart. */
function readSources(root) {
  const sources = new Map(
    ['src', 'lib'].flatMap((folder) =>
      readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile() && /\.(?:rs|js)$/.test(entry.name))
        .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
        .map((file) => [file, readFileSync(join(root, file), 'utf8')]),
    ),
  );
  const isTest = (file) => {
    const folder = dirname(file);
    const parent = [`${folder}.rs`, `${folder}/mod.rs`, `${folder}/lib.rs`].find((one) => sources.has(one));
    return parent !== undefined && readRust(sources.get(parent)).testModules.includes(basename(file, '.rs'));
  };
  return Array.from(sources.keys())
    .filter((file) => !file.endsWith('.rs') || !isTest(file))
    .toSorted()
    .flatMap((file) => readConstants(file, sources.get(file)));
}

function looksLikeLimit({ file, name, type }) {
  if (!file.endsWith('.rs')) return false;
  if (type === 'Duration') return true;
  return NUMBER_TYPE.test(type) && LIMIT_NAME.test(name.split('::').at(-1));
}

function show(value, unit) {
  if (value === null) return 'none';
  if (Array.isArray(value)) {
    const numbers = value.map((one) => (one instanceof Time ? showTime(one) : withCommas(one))).join(' and ');
    return unit === TIME ? numbers : `${numbers} ${unit}`;
  }
  if (value instanceof Range) return `${withCommas(value.from)} to ${withCommas(value.to)} ${unit}`;
  if (value instanceof Time || unit === TIME) return showTime(value);
  if (unit === 'bytes') return showBytes(value);
  return `${showNumber(value)} ${value === 1 && unit.length > 2 ? unit.replace(/s$/, '') : unit}`;
}

function showTime({ nanos }) {
  const inUnits = TIME_UNITS.map(({ unit, length, least }) => ({
    unit,
    least,
    number: Number((nanos / 1e9 / length).toPrecision(12)),
  }));
  const isShort = ({ number, least }) => number >= least && Number.isInteger(number * 10);
  const { number, unit } = inUnits.find(isShort) ?? inUnits.at(-1);
  return `${withCommas(number)} ${unit}`;
}

function showBytes(bytes) {
  for (const [power, unit] of [
    [30, 'GiB'],
    [20, 'MiB'],
    [10, 'KiB'],
  ]) {
    if (bytes >= 2 ** power && bytes % 2 ** power === 0) return `${withCommas(bytes / 2 ** power)} ${unit}`;
  }
  return `${showNumber(bytes)} bytes`;
}

/** Powers of two are told as what they are where they are too long to read. */
function showNumber(number) {
  for (const [sum, sign] of [
    [number, ''],
    [number + 1, ' − 1'],
  ]) {
    if (number >= 2 ** 32 && isPowerOfTwo(BigInt(sum))) return `2^${Math.log2(sum)}${sign}`;
  }
  return withCommas(number);
}

function isPowerOfTwo(number) {
  return (number & (number - 1n)) === 0n;
}

function withCommas(number) {
  return number.toLocaleString('en-US');
}

function main(root, check) {
  const { page, findings } = describeLimits(root);
  for (const finding of findings) console.error(finding);
  const path = join(root, PAGE);
  if (!check) writeFileSync(path, page);
  else if (!existsSync(path) || readFileSync(path, 'utf8') !== page) {
    findings.push('it differs');
    console.error(`${PAGE} is not what the sources say: run \`node scripts/limits.mjs\`.`);
  }
  if (findings.length > 0) process.exitCode = 1;
  else console.log(`${PAGE} is what the sources say.`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main(fileURLToPath(new URL('..', import.meta.url)), process.argv.includes('--check'));
}
