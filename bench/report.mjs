#!/usr/bin/env node
/**
 * Prints rows as Markdown: medians, and beside them the median of the per-round ratios to a base.
 *
 *     node bench/report.mjs ROWS.jsonl [--base ocserv] [--max-load 0.05]
 *
 * With `--max-load`, only what was measured while no more than that share of all CPUs was busy just before.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { CASES } from './cases.mjs';
import { PEERS } from './peers.mjs';
import { figure, peersOf, ratio, readRows, summary, valuesOf } from './rows.mjs';

/** @param {{ base?: string, maxLoad?: number }} [options] */
export function tables(rows, { base, maxLoad = Infinity } = {}) {
  const quiet = rows.filter(({ load_before: load = 0 }) => load <= maxLoad);
  return [endToEnd(quiet, base), parts(quiet), failures(quiet)].filter(Boolean).join('\n');
}

function endToEnd(rows, base) {
  const peers = peersOf(
    rows,
    PEERS.map(({ name }) => name),
  );
  const lines = Object.entries(CASES).flatMap(([name, { label, shown }]) =>
    shown.flatMap((metric) => {
      const values = valuesOf(rows, name, metric.key);
      if (values.size === 0) return [];
      const what = [label, metric.label].filter(Boolean).join(', ');
      return [[`${what}, ${metric.unit}`, ...peers.map((peer) => cell(values, peer, base))]];
    }),
  );
  return lines.length === 0 ? '' : markdown(['', ...peers], lines);
}

function cell(values, peer, base) {
  const rounds = values.get(peer);
  if (!rounds) return '';
  const times = base && base !== peer ? ratio(rounds, values.get(base)) : null;
  return figure(summary(rounds).median) + (times === null ? '' : ` (${times.toFixed(2)} ×)`);
}

function parts(rows) {
  const lines = rows
    .filter(({ kind }) => kind === 'part')
    .map(({ case: name, metrics }) => [name, figure(metrics.median_ns), rate(metrics)]);
  return lines.length === 0 ? '' : markdown(['part', 'ns', 'a second'], lines);
}

function rate({ bytes_per_s: bytes, elements_per_s: elements }) {
  if (bytes) return `${figure(bytes / 1e9)} GB`;
  return elements ? `${figure(elements / 1e6)} million` : '';
}

function failures(rows) {
  return rows
    .filter(({ error }) => error)
    .map(
      ({ round, peer, case: name, error }) =>
        `- round ${round}, ${peer}, ${name}: ${error.split('\n', 2).join(': ')}\n`,
    )
    .join('');
}

function markdown(head, lines) {
  const line = (cells) => `| ${cells.join(' | ')} |\n`;
  return line(head) + `|${'---|'.repeat(head.length)}\n` + lines.map(line).join('');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { base: { type: 'string' }, 'max-load': { type: 'string', default: 'Infinity' } },
  });
  const [file] = positionals;
  const { base } = values;
  const maxLoad = Number(values['max-load']);
  if (positionals.length !== 1 || Number.isNaN(maxLoad)) {
    console.error('Usage: node bench/report.mjs ROWS.jsonl [--base PEER] [--max-load 0.05]');
    process.exit(2);
  }
  const rows = readRows(file);
  const peers = peersOf(rows, []);
  if (base !== undefined && !peers.includes(base)) {
    console.error(`${file} has rows of ${peers.join(', ')}; --base must be one of them, not "${base}".`);
    process.exit(2);
  }
  console.log(tables(rows, { base, maxLoad }));
}
