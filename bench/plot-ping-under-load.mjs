#!/usr/bin/env node
/**
 * Draws echo requests beside bulk, as ping-under-load.mjs has measured them:
 *
 *     node bench/plot-ping-under-load.mjs ROWS.jsonl [OUTPUT.svg]     docs/ping-under-load.svg
 *
 * Of each peer and case a bar from the 1st to the 99th percentile of all rounds' samples, the half of them in
 * the middle in strong colour, with the median as a number. Where rows have no samples, the medians of the
 * rounds' percentiles stand for them.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { percentile, round } from './figures.mjs';

/** What is drawn, from the top: peer, case, and what it says. Rows that are not there are left out. */
const SERIES = [
  ['bare', 'ping-idle', 'no tunnel, idle'],
  ['smartvpn', 'ping-idle', 'smartvpn, idle'],
  ['bare', 'ping-load', 'no tunnel, bulk up'],
  ['smartvpn-cubic', 'ping-load', 'smartvpn (cubic), bulk up'],
  ['smartvpn', 'ping-load', 'smartvpn, bulk up'],
  ['bare', 'ping-load-rev', 'no tunnel, bulk down'],
  ['smartvpn-cubic', 'ping-load-rev', 'smartvpn (cubic), bulk down'],
  ['smartvpn', 'ping-load-rev', 'smartvpn, bulk down'],
];

/** Measures of the picture, in pixels. */
const WIDTH = 760;
const LEFT = 210;
const RIGHT = 96;
const TOP = 64;
const ROW = 34;
const BAR = 16;
const BOTTOM = 46;

/** Steps that an axis may have, in milliseconds. */
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

const [input, output = join(import.meta.dirname, '..', 'docs', 'ping-under-load.svg')] =
  process.argv.slice(2);
if (!input) {
  console.error('Usage: node bench/plot-ping-under-load.mjs ROWS.jsonl [OUTPUT.svg]');
  process.exit(2);
}
const rows = readFileSync(input, 'utf8')
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line));
const bars = SERIES.map(barOf).filter(Boolean);
if (bars.length === 0) {
  console.error(`${input} has no rows of ${[...new Set(SERIES.map(([peer]) => peer))].join(', ')}.`);
  process.exit(1);
}
writeFileSync(output, picture());
console.log(output);

function barOf([peer, name, label]) {
  const results = rows.filter((row) => row.kind === 'result' && row.peer === peer && row.case === name);
  if (results.length === 0) return null;
  const samples = results.flatMap(({ metrics }) => metrics.samples_ms ?? []);
  const of = (percent) =>
    samples.length > 0
      ? percentile(samples, percent)
      : percentile(results.map(({ metrics }) => metrics[`rtt_p${percent}_ms`]).filter(Number.isFinite), 50);
  const rates = results.map(({ metrics }) => metrics.mbit_s).filter(Number.isFinite);
  const [low, first, middle, third, high] = [1, 25, 50, 75, 99].map(of);
  return {
    label,
    own: peer.startsWith('smartvpn'),
    low: low ?? middle,
    first: first ?? middle,
    middle,
    third: third ?? middle,
    high: high ?? middle,
    goodput: rates.length > 0 ? percentile(rates, 50) : undefined,
  };
}

function picture() {
  const height = TOP + bars.length * ROW + BOTTOM;
  const longest = Math.max(...bars.map(({ high }) => high));
  const step = STEPS.find((candidate) => longest / candidate <= 8) ?? STEPS.at(-1);
  const end = Math.ceil(longest / step) * step;
  const x = (ms) => round(LEFT + (ms / end) * (WIDTH - LEFT - RIGHT), 1);
  const foot = TOP + bars.length * ROW;
  const ticks = Array.from({ length: end / step + 1 }, (_, index) => index * step);
  const setup = rows.find(({ kind }) => kind === 'setup');
  const rounds = new Set(rows.filter(({ kind }) => kind === 'result').map((row) => row.round)).size;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-labelledby="title">
<title id="title">Round-trip times of echo requests: ${escape(bars.map(({ label, middle }) => `${label} ${figure(middle)} ms`).join(', '))}</title>
<style>
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .head { font-size: 15px; font-weight: 600; }
  .small { font-size: 11px; fill: #59636e; }
  .grid { stroke: #d1d9e0; }
  .other { fill: #9a6700; }
  .own { fill: #0969da; }
  .range { opacity: 0.35; }
  .middle { stroke: #1f2328; stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .small { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .other { fill: #d29922; }
    .own { fill: #4493f8; }
    .middle { stroke: #f0f6fc; }
  }
</style>
<text class="head" x="12" y="24">Ping beside a bulk transfer, ms</text>
<text class="small" x="12" y="44">${escape(subtitle(setup, rounds))}</text>
${ticks.map((ms) => `<line class="grid" x1="${x(ms)}" y1="${TOP}" x2="${x(ms)}" y2="${foot}"/><text class="small" x="${x(ms)}" y="${foot + 18}" text-anchor="middle">${ms}</text>`).join('\n')}
${bars.map((bar, index) => drawn(bar, TOP + index * ROW, x)).join('\n')}
<text class="small" x="12" y="${foot + 38}">Pale: 1st to 99th percentile. Strong: the half in the middle. Line and number: the median. At the right: Mbit/s of the bulk.</text>
</svg>
`;
}

function subtitle(setup, rounds) {
  const parts = setup ? [setup.link, `${setup.seconds} s a case`] : [];
  return [...parts, `${rounds} round${rounds === 1 ? '' : 's'}`].join('; ');
}

function drawn({ label, own, low, first, middle, third, high, goodput }, top, x) {
  const y = top + (ROW - BAR) / 2;
  const baseline = y + BAR - 3;
  const bar = (kind, from, to) =>
    `<rect class="${kind}" x="${x(from)}" y="${y}" width="${round(Math.max(1, x(to) - x(from)), 1)}" height="${BAR}" rx="2"/>`;
  const side = own ? 'own' : 'other';
  const rate =
    goodput === undefined
      ? ''
      : `<text class="small" x="${WIDTH - 12}" y="${baseline}" text-anchor="end">${figure(goodput)}</text>`;
  return (
    `<text x="${LEFT - 10}" y="${baseline}" text-anchor="end">${escape(label)}</text>` +
    bar(`${side} range`, low, high) +
    bar(side, first, third) +
    `<line class="middle" x1="${x(middle)}" y1="${y - 3}" x2="${x(middle)}" y2="${y + BAR + 3}"/>` +
    `<text x="${round(x(high) + 8, 1)}" y="${baseline}">${figure(middle)}</text>${rate}`
  );
}

function figure(number) {
  return number < 10 ? `${round(number, 1)}` : `${Math.round(number)}`;
}

function escape(text) {
  return text.replace(/[&<>"]/g, (sign) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[sign]);
}
