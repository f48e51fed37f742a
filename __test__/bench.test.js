'use strict';

const assert = require('node:assert/strict');
const { spawn, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { before, describe, test } = require('node:test');

const { ROOT } = require('./support/child.js');

const RUN = join(ROOT, 'bench', 'run.mjs');

/** Two rounds of three peers; the last one's second round failed. */
const ROWS = [
  result(1, 'none', 'tcp-1', { mbit_s: 20_000 }),
  result(1, 'smartvpn', 'tcp-1', { mbit_s: 1000, cpu_s_per_gb: 5 }),
  result(1, 'other & <co>', 'tcp-1', { mbit_s: 500, cpu_s_per_gb: 10 }),
  result(2, 'none', 'tcp-1', { mbit_s: 21_000 }),
  result(2, 'smartvpn', 'tcp-1', { mbit_s: 3000, cpu_s_per_gb: 4 }),
  { kind: 'result', round: 2, peer: 'other & <co>', case: 'tcp-1', error: 'it did not answer\nat all' },
  {
    kind: 'part',
    round: 1,
    peer: 'smartvpn',
    case: 'seal/64',
    metrics: { median_ns: 200, bytes_per_s: 32e7 },
  },
];

function result(round, peer, name, metrics) {
  return {
    kind: 'result',
    round,
    peer,
    case: name,
    metrics,
    load_before: 0.01 * round,
    cpu: 'a "chip"',
    cores: 2,
  };
}

function makeFolder(t) {
  const folder = mkdtempSync(join(tmpdir(), 'smartvpn-bench-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

describe('what was measured', () => {
  let rows;
  before(async () => (rows = await import('../bench/rows.mjs')));

  test('has medians, and ratios within each round', () => {
    const values = rows.valuesOf(ROWS, 'tcp-1', 'mbit_s');
    assert.deepEqual([...values.keys()], ['none', 'smartvpn', 'other & <co>']);
    assert.deepEqual(rows.summary(values.get('smartvpn')), { median: 2000, min: 1000, max: 3000, count: 2 });
    assert.equal(rows.ratio(values.get('smartvpn'), values.get('none')), (1000 / 20_000 + 3000 / 21_000) / 2);
    assert.equal(rows.ratio(values.get('smartvpn'), values.get('other & <co>')), 2);
    assert.equal(rows.ratio(values.get('smartvpn'), undefined), null);
  });

  test('has the middle one as its median, or the mean of two', async () => {
    const { median } = await import('../bench/figures.mjs');
    assert.deepEqual([median([3]), median([9, 1, 2]), median([4, 1, 2, 3])], [3, 2, 2.5]);
  });

  test('is a row a line', (t) => {
    const file = join(makeFolder(t), 'rows.jsonl');
    writeFileSync(file, ROWS.map((row) => `${JSON.stringify(row)}\n`).join(''));
    assert.deepEqual(rows.readRows(file), ROWS);
    assert.deepEqual(rows.peersOf(ROWS, ['smartvpn', 'none', 'absent']), [
      'smartvpn',
      'none',
      'other & <co>',
    ]);
  });

  test('says on what', () => {
    const { kernel, cpu, cores, commit } = rows.describeMachine();
    assert.ok(kernel && cpu && commit && cores > 0);
  });

  test('is printed as a table, with ratios to a base', async () => {
    const { tables } = await import('../bench/report.mjs');
    assert.equal(
      tables(ROWS, { base: 'smartvpn' }),
      `|  | none | smartvpn | other & <co> |
|---|---|---|---|
| 1 TCP stream up, Mbit/s | 20,500 (13.50 ×) | 2,000 | 500 (0.50 ×) |
| 1 TCP stream up, CPU time, s/GB |  | 4.5 | 10 (2.00 ×) |

| part | ns | a second |
|---|---|---|
| seal/64 | 200 | 0.32 GB |

- round 2, other & <co>, tcp-1: it did not answer: at all
`,
    );
    assert.match(tables(ROWS, { maxLoad: 0.01 }), /\| 20,000 \| 1,000 \| 500 \|/);
  });

  test('is drawn, with each peer', async () => {
    const { picture } = await import('../bench/plot-performance.mjs');
    const svg = picture(ROWS);
    assertWellFormed(svg);
    for (const peer of ['none', 'smartvpn', 'other &amp; &lt;co&gt;'])
      assert.ok(svg.includes(`>${peer}</text>`), peer);
    assert.equal(svg.match(/<rect /g).length, 5);
    assert.equal(svg.match(/class="cut"/g).length, 1);
    assert.match(svg, /a &quot;chip&quot;, 2 cores; 2 rounds/);
    assert.equal(picture([]), null);
  });
});

/** Every element is closed in its turn, and no sign stands for itself that may not. */
function assertWellFormed(xml) {
  const open = [];
  const rest = xml.replace(
    /<(\/?)([a-z]+)((?: [\w:-]+="[^"<&]*(?:&(?:amp|lt|gt|quot);[^"<&]*)*")*)(\/?)>/gi,
    (_, end, name, __, empty) => {
      if (end) assert.equal(open.pop(), name);
      else if (!empty) open.push(name);
      return '';
    },
  );
  assert.deepEqual(open, []);
  assert.doesNotMatch(rest.replace(/&(amp|lt|gt|quot);/g, ''), /[<&]/);
}

test("criterion's estimates become rows", async (t) => {
  const { readEstimates } = await import('../bench/parts.mjs');
  const folder = makeFolder(t);
  const write = (name, throughput) => {
    const median = { point_estimate: 250, confidence_interval: { lower_bound: 240, upper_bound: 260 } };
    for (const kind of ['new', 'base']) {
      mkdirSync(join(folder, name, kind), { recursive: true });
      writeFileSync(join(folder, name, kind, 'estimates.json'), JSON.stringify({ median }));
      writeFileSync(
        join(folder, name, kind, 'benchmark.json'),
        JSON.stringify({ full_id: name, throughput }),
      );
    }
  };
  write('seal/64', { Bytes: 64 });
  write('snapshot', null);
  const metrics = { median_ns: 250, low_ns: 240, high_ns: 260 };
  const common = { kind: 'part', round: 1, peer: 'smartvpn' };
  assert.deepEqual(readEstimates(folder), [
    { ...common, case: 'seal/64', metrics: { ...metrics, bytes_per_s: 256_000_000 } },
    { ...common, case: 'snapshot', metrics },
  ]);
  assert.deepEqual(readEstimates(folder, Date.now() + 60_000), []);
});

test('wrong arguments are told what would be right', async (t) => {
  const { parseOptions } = await import('../bench/options.mjs');
  assert.throws(() => parseOptions(['--rounds', '0']), {
    message: '--rounds must be a whole number above 0, not "0".',
  });
  assert.throws(
    () => parseOptions(['--seconds', 'long']),
    /--seconds must be a whole number above 0, not "long"/,
  );
  assert.throws(
    () => parseOptions(['--cases', 'tcp-1,tcp-9']),
    /--cases takes tcp-1, .*; there is no "tcp-9"/,
  );
  assert.throws(() => parseOptions(['--peers', '']), /--peers takes none, .*; there is no ""/);
  assert.throws(() => parseOptions(['--fast']), /'--fast'[^]*npm run bench -- \[--parts/);
  const { parts, endToEnd, cases, rounds } = parseOptions(['--cases', 'ping-idle,tcp-1', '--end-to-end']);
  assert.deepEqual(
    { parts, endToEnd, cases, rounds },
    { parts: false, endToEnd: true, cases: ['tcp-1', 'ping-idle'], rounds: 3 },
  );

  const folder = makeFolder(t);
  const { status, stderr } = spawnSync(
    process.execPath,
    [RUN, '--rounds', 'x', '--out', join(folder, 'rows.jsonl')],
    {
      encoding: 'utf8',
    },
  );
  assert.equal(status, 2);
  assert.match(stderr, /^--rounds must be/);
  assert.deepEqual(readdirSync(folder), []);
});

describe('measuring', () => {
  let skip;
  before(async () => {
    const [{ obstacle }, { default: smartvpn }] = await Promise.all([
      import('../bench/end-to-end.mjs'),
      import('../bench/peers/smartvpn.mjs'),
    ]);
    skip = obstacle() ?? smartvpn.find();
  });

  const measure = (folder, cases, seconds) => [
    RUN, '--end-to-end', '--rounds', '1', '--seconds', `${seconds}`, '--peers', 'none,smartvpn',
    '--cases', cases, '--out', join(folder, 'rows.jsonl'),
  ]; // prettier-ignore

  test('writes rows and a picture', (t) => {
    if (skip) return t.skip(skip);
    const folder = makeFolder(t);
    const { status, stdout, stderr } = spawnSync(process.execPath, measure(folder, 'tcp-1,ping-idle', 1), {
      encoding: 'utf8',
      timeout: 60_000,
    });
    assert.equal(status, 0, stdout + stderr);
    const rows = readFileSync(join(folder, 'rows.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    assert.deepEqual(
      rows.map(({ kind, round, case: name, peer }) => [kind, round, name, peer]),
      [
        ['result', 1, 'tcp-1', 'none'],
        ['result', 1, 'tcp-1', 'smartvpn'],
        ['result', 1, 'ping-idle', 'none'],
        ['result', 1, 'ping-idle', 'smartvpn'],
      ],
    );
    for (const { metrics, load_before: load, version, kernel, cpu, cores } of rows) {
      assert.ok(metrics.machine_busy >= 0 && metrics.machine_busy <= 1);
      assert.ok(load >= 0 && load <= 1 && version && kernel && cpu && cores > 0);
    }
    const [bare, tunnel, , ping] = rows.map(({ metrics }) => metrics);
    assert.ok(tunnel.mbit_s > 1 && bare.mbit_s > tunnel.mbit_s);
    assert.ok(tunnel.cpu_s_per_gb > 0 && bare.cpu_s_per_gb === undefined);
    assert.ok(ping.rtt_p50_ms > 0 && ping.rtt_p99_ms >= ping.rtt_p50_ms);
    assertWellFormed(readFileSync(join(folder, 'rows.svg'), 'utf8'));
  });

  test('leaves nothing behind when it is interrupted', async (t) => {
    if (skip) return t.skip(skip);
    const folder = makeFolder(t);
    const child = spawn(process.execPath, measure(folder, 'tcp-1', 60), {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const below = await eventually(() => {
      const all = descendants(child.pid);
      return all.some(({ name }) => name === 'iperf3') && all;
    });
    child.kill('SIGINT');
    const [code] = await once(child, 'exit');
    assert.equal(code, 130);
    const isThere = (pid) => processes().some((process) => process.pid === pid);
    await eventually(() => below.every(({ pid }) => !isThere(pid)));
    assert.deepEqual(readdirSync(folder), []);
  });
});

async function eventually(look) {
  const end = performance.now() + 10_000;
  for (;;) {
    const seen = look();
    if (seen) return seen;
    assert.ok(performance.now() < end, 'in vain');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function processes() {
  const { stdout } = spawnSync('ps', ['-eo', 'pid=,ppid=,comm='], { encoding: 'utf8' });
  return Array.from(stdout.matchAll(/^\s*(\d+)\s+(\d+)\s+(.*)$/gm), ([, pid, parent, name]) => ({
    pid: Number(pid),
    parent: Number(parent),
    name,
  }));
}

function descendants(pid) {
  const all = processes();
  const below = (parent) =>
    all.filter((each) => each.parent === parent).flatMap((each) => [each, ...below(each.pid)]);
  return below(pid);
}
