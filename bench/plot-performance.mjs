#!/usr/bin/env node
/**
 * Draws what run.mjs has measured from end to end:
 *
 *     node bench/plot-performance.mjs ROWS.jsonl [OUTPUT.svg]     docs/performance.svg
 *
 * A panel for each figure, in it a bar for each peer: the median of all rounds, with a whisker from the least to
 * the most. What is no tunnel may have a bar far longer than all tunnels; it is cut then.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { CASES } from './cases.mjs';
import { round } from './figures.mjs';
import { PEERS } from './peers.mjs';
import { figure, peersOf, readRows, summary, valuesOf } from './rows.mjs';

/** Measures of the picture, in pixels. */
const WIDTH = 840;
const MARGIN = 12;
const HEAD = 60;
const COLUMN = 396;
const LABEL = 88;
const FIGURE = 62;
const TITLE = 34;
const ROW = 20;
const BAR = 12;
const BELOW = 18;
const FOOT = 30;

/** How much longer than those of all tunnels another bar may be before it is cut. */
const CUT = 2;

/** The picture, or `null` if rows have nothing to draw. */
export function picture(rows) {
  const panels = panelsOf(rows);
  if (panels.length === 0) return null;
  // Row by row, each as high as the higher panel in it.
  let y = HEAD;
  const drawn = [];
  for (let index = 0; index < panels.length; index += 2) {
    const pair = panels.slice(index, index + 2);
    drawn.push(
      ...pair.map((panel, side) => drawPanel(panel, side === 0 ? MARGIN : WIDTH - MARGIN - COLUMN, y)),
    );
    y += Math.max(...pair.map(({ bars }) => TITLE + bars.length * ROW)) + BELOW;
  }
  const height = y + FOOT;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-labelledby="title">
<title id="title">${escape(`Measured from end to end. ${panels.map(told).join('. ')}`)}</title>
<style>
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .head { font-size: 15px; font-weight: 600; }
  .what { font-size: 13px; font-weight: 600; }
  .small { font-size: 11px; fill: #59636e; }
  .tunnel { fill: #bf8700; }
  .own { fill: #0969da; }
  .bound { fill: #818b98; }
  .axis { stroke: #d1d9e0; }
  .whisker { stroke: #1f2328; stroke-width: 1.25; fill: none; }
  .cut { stroke: #ffffff; stroke-width: 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .small { fill: #9198a1; }
    .tunnel { fill: #d29922; }
    .own { fill: #4493f8; }
    .bound { fill: #9198a1; }
    .axis { stroke: #3d444d; }
    .whisker { stroke: #f0f6fc; }
    .cut { stroke: #0d1117; }
  }
</style>
<text class="head" x="${MARGIN}" y="24">Through both ends of a tunnel on one machine</text>
<text class="small" x="${MARGIN}" y="43">${escape(subtitle(rows))}</text>
${drawn.join('\n')}
<text class="small" x="${MARGIN}" y="${height - 12}">Bar and number: the median of all rounds. Whisker: the least and the most. Bars of what is no tunnel may be cut.</text>
</svg>
`;
}

function panelsOf(rows) {
  const peers = peersOf(
    rows,
    PEERS.map(({ name }) => name),
  );
  return Object.entries(CASES).flatMap(([name, { label, shown }]) =>
    shown.flatMap((metric) => {
      const values = valuesOf(rows, name, metric.key);
      const bars = peers
        .filter((peer) => values.has(peer))
        .map((peer) => ({ peer, ...summary(values.get(peer)) }));
      const title = [label, metric.label].filter(Boolean).join(', ');
      return bars.length === 0 ? [] : [{ title, unit: metric.unit, better: metric.better, bars }];
    }),
  );
}

function told({ title, unit, bars }) {
  return `${title}: ${bars.map(({ peer, median }) => `${peer} ${figure(median)} ${unit}`).join(', ')}`;
}

function subtitle(rows) {
  const results = rows.filter(({ kind }) => kind === 'result');
  const [{ cpu, cores, kernel, seconds }] = results;
  const rounds = new Set(results.map(({ round: number }) => number)).size;
  const parts = [
    cpu && `${cpu}, ${cores} cores`,
    kernel && `Linux ${kernel}`,
    seconds && `${seconds} s a case`,
  ];
  return [...parts, `${rounds} round${rounds === 1 ? '' : 's'}`].filter(Boolean).join('; ');
}

function drawPanel({ title, unit, better, bars }, x, y) {
  const zero = x + LABEL;
  const room = COLUMN - LABEL - FIGURE;
  const longest = longestOf(bars);
  const at = (value) => round(zero + Math.min(1, value / longest) * room, 1);
  const foot = y + TITLE + bars.length * ROW;
  return (
    `<text class="what" x="${x}" y="${y + 14}">${escape(title)}, ${escape(unit)} <tspan class="small">${better} is better</tspan></text>\n` +
    `<line class="axis" x1="${zero}" y1="${y + TITLE - 8}" x2="${zero}" y2="${foot}"/>\n` +
    bars.map((bar, index) => drawBar(bar, y + TITLE - 6 + index * ROW, { zero, at, longest })).join('\n')
  );
}

/** The value that a bar of full length stands for. */
function longestOf(bars) {
  const most = Math.max(...bars.map(({ max }) => max));
  const tunnels = bars.filter(({ peer }) => classOf(peer) !== 'bound').map(({ max }) => max);
  return tunnels.length > 0 && most > CUT * Math.max(...tunnels) ? Math.max(...tunnels) : most;
}

function drawBar({ peer, median, min, max }, top, { zero, at, longest }) {
  const [middle, baseline, end] = [top + BAR / 2, top + BAR - 2, at(median)];
  const isCut = max > longest;
  const whisker = `M${at(min)} ${top + 2}v${BAR - 4}M${at(min)} ${middle}H${at(max)}M${at(max)} ${top + 2}v${BAR - 4}`;
  const mark = isCut
    ? `<line class="cut" x1="${end - 14}" y1="${top + BAR + 2}" x2="${end - 8}" y2="${top - 2}"/>`
    : min < max
      ? `<path class="whisker" d="${whisker}"/>`
      : '';
  return (
    `<text x="${zero - 8}" y="${baseline}" text-anchor="end">${escape(peer)}</text>` +
    `<rect class="${classOf(peer)}" x="${zero}" y="${top}" width="${round(Math.max(1, end - zero), 1)}" height="${BAR}" rx="2"/>` +
    mark +
    `<text x="${round((isCut ? end : at(max)) + 6, 1)}" y="${baseline}">${figure(median)}</text>`
  );
}

/** Not only tunnels are measured, but bounds of them. */
function classOf(name) {
  if (name === 'smartvpn') return 'own';
  const kind = PEERS.find((peer) => peer.name === name)?.kind ?? 'tunnel';
  return kind === 'tunnel' ? 'tunnel' : 'bound';
}

function escape(text) {
  return text.replace(/[&<>"]/g, (sign) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[sign]);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [input, output = join(import.meta.dirname, '..', 'docs', 'performance.svg')] = process.argv.slice(2);
  if (!input) {
    console.error('Usage: node bench/plot-performance.mjs ROWS.jsonl [OUTPUT.svg]');
    process.exit(2);
  }
  const svg = picture(readRows(input));
  if (!svg) {
    console.error(`${input} has no rows of tunnels.`);
    process.exit(1);
  }
  writeFileSync(output, svg);
  console.log(output);
}
