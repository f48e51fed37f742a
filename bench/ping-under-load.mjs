#!/usr/bin/env node
/**
 * Measures echo requests beside bulk on a path with a bottleneck: bare, and through smartvpn.
 *
 *     node bench/ping-under-load.mjs [--rounds 5] [--seconds 10] [--rate 50] [--queue 100]
 *                                    [--output bench/results/NAME.jsonl]
 *
 * Makes its own network (scripts/lab-site.mjs): client, router and server, with a token bucket filter of
 * `--rate` Mbit/s and a drop-tail queue of `--queue` ms in the router, each way. Needs root, iperf3, ping, tc and
 * the built daemon. Peers take turns, round by round, with a fresh tunnel each time:
 *
 *     bare           no tunnel
 *     smartvpn       congestionControl 'auto'
 *     smartvpn-cubic congestionControl 'system', where the system's is cubic
 *
 * The inner TCP is cubic for all. Writes one JSON object a line; `samples_ms` are the single round-trip times.
 */
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, release } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import platform from '../lib/platform.js';
import { openSite, SERVER } from '../scripts/lab-site.mjs';
import { missingTools } from '../scripts/tools.mjs';
import { busyShare, percentile, round } from './figures.mjs';
import { openTunnel, PORT, TUNNEL } from './tunnel.mjs';

const IPERF_PORT = '5201';

const PEERS = {
  bare: null,
  smartvpn: { congestionControl: 'auto' },
  'smartvpn-cubic': { congestionControl: 'system' },
};

const CASES = {
  'ping-idle': null,
  'ping-load': [],
  'ping-load-rev': ['--reverse'],
};

const PING_INTERVAL_MS = 5;

/** The time in which the bulk finds its pace before the first echo request, in seconds. */
const SETTLE_SECS = 3;

/** The bulk's time to that of the echo requests, whose interval the kernel's timers make up to twice as long. */
const OUTLASTS = 2.5;

/** Bytes that the token bucket lets pass at once. */
const BUCKET = '32k';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '10' },
    rate: { type: 'string', default: '50' },
    queue: { type: 'string', default: '100' },
    output: { type: 'string' },
  },
});
const [rounds, seconds, rate, queueMs] = ['rounds', 'seconds', 'rate', 'queue'].map((name) => {
  const number = Number(values[name]);
  if (number > 0 && Number.isFinite(number)) return number;
  console.error(`--${name} must be a number above 0, not "${values[name]}".`);
  process.exit(2);
});
const today = new Date().toISOString().slice(0, 10);
const output = values.output ?? join(import.meta.dirname, 'results', `${today}-ping-under-load.jsonl`);

const missing = missingTools(['ip', 'iperf3', 'nft', 'ping', 'ss', 'tc']);
if (missing) {
  console.error(missing);
  process.exit(1);
}

mkdirSync(dirname(output), { recursive: true });
writeFileSync(output, '');
write({
  kind: 'setup',
  host: release(),
  cpus: availableParallelism(),
  link: `veth, tbf rate ${rate}mbit burst ${BUCKET} limit ${limitBytes()} in a router, each way`,
  cc: readFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'utf8').trim(),
  seconds,
  version: spawnSync(platform.findDaemon(), ['--version'], { encoding: 'utf8' }).stdout.trim(),
  time: new Date().toISOString(),
});

for (let number = 1; number <= rounds; number++) {
  for (const [peer, settings] of Object.entries(PEERS)) await measurePeer(number, peer, settings);
}
console.log(`\n${output}`);

/** All cases of one peer, on a network of its own. */
async function measurePeer(number, peer, settings) {
  const site = await openSite();
  const [client] = site.clients;
  try {
    await Promise.all(
      [client, site.server].map((host) => host.sh('echo cubic > /proc/sys/net/ipv4/tcp_congestion_control')),
    );
    for (const port of ['port0', 'port1']) {
      await site.internet.exec([
        'tc', 'qdisc', 'add', 'dev', port, 'root', 'tbf',
        'rate', `${rate}mbit`, 'burst', BUCKET, 'limit', `${limitBytes()}`,
      ]); // prettier-ignore
    }
    const tunnel = settings && (await openTunnel(site, [client], settings));
    const address = tunnel ? TUNNEL : SERVER.address;
    for (const [name, load] of Object.entries(CASES)) {
      const before = await busyShare(500);
      const metrics = await measure(site, client, address, load);
      write({ kind: 'result', round: number, peer, case: name, metrics, load_before: before, time: now() });
      const { rtt_p50_ms: median, rtt_p99_ms: p99, mbit_s: goodput, machine_busy: busy } = metrics;
      console.log(
        `${number} ${peer.padEnd(15)} ${name.padEnd(14)} ${median} / ${p99} ms` +
          `${goodput === undefined ? '' : `, ${goodput} Mbit/s`}, ${Math.round(100 * busy)} % busy`,
      );
    }
    await tunnel?.close();
  } finally {
    await site.lab.close();
  }
}

/** Echo requests, beside bulk if `load` is given: iperf3's further arguments. */
async function measure(site, host, address, load) {
  const bulk = load && (await startBulk(site, host, address, load));
  const samples = [];
  const count = Math.round((seconds * 1000) / PING_INTERVAL_MS);
  const [busy, carriers, { stdout }] = await Promise.all([
    busyShare(seconds * 1000),
    bulk && sleep(seconds * 500).then(() => carriersOf(site, host)),
    host.exec(
      ['ping', '-n', '-c', `${count}`, '-i', `${PING_INTERVAL_MS / 1000}`, '-W', '2', address],
      { check: false, timeoutMs: 10 * seconds * 1000 + 60_000 },
    ),
  ]); // prettier-ignore
  for (const [, ms] of stdout.matchAll(/time=([\d.]+) ms/g)) samples.push(Number(ms));
  if (samples.length === 0) throw new Error(`No echo request was answered:\n${stdout}`);
  const end = bulk && (await bulk.ended);
  return {
    rtt_p50_ms: percentile(samples, 50),
    rtt_p90_ms: percentile(samples, 90),
    rtt_p99_ms: percentile(samples, 99),
    rtt_max_ms: percentile(samples, 100),
    lost: count - samples.length,
    ...(end && {
      mbit_s: round(end.sum_received.bits_per_second / 1e6, 1),
      retransmits: end.sum_sent.retransmits,
      outer: carriers,
    }),
    machine_busy: busy,
    samples_ms: samples,
  };
}

async function startBulk(site, host, address, args) {
  const server = site.server.spawn(['iperf3', '--server', '--one-off', '--port', IPERF_PORT], {
    stdio: 'ignore',
  });
  const listens = `for try in $(seq 200); do ss -ltn | grep -q :${IPERF_PORT} && exit 0; sleep 0.02; done; exit 1`;
  await site.server.sh(listens);
  const running = host.exec(
    [
      'iperf3', '--json', '--client', address, '--port', IPERF_PORT, '--congestion', 'cubic',
      '--omit', `${SETTLE_SECS}`, '--time', `${OUTLASTS * seconds}`, ...args,
    ],
    { timeoutMs: (OUTLASTS * seconds + 30) * 1000 },
  ); // prettier-ignore
  const ended = running.then(({ stdout }) => JSON.parse(stdout).end).finally(() => server.kill('SIGKILL'));
  ended.catch(() => {}); // told by whoever waits for it
  await sleep(SETTLE_SECS * 1000);
  return { ended };
}

/** The congestion control and the round-trip time of the connection that carries the tunnel, at both ends. */
async function carriersOf(site, host) {
  const look = async (end, filter) => {
    const { stdout } = await end.exec(['ss', '-tin', 'state', 'established', filter]);
    const [, control] = /^\s+(?:ts sack |ts |sack )*(\w+) /m.exec(stdout) ?? [];
    const [, rtt] = / rtt:([\d.]+)\//.exec(stdout) ?? [];
    return control && { cc: control, srtt_ms: Number(rtt) };
  };
  return {
    client: await look(host, `( dport = :${PORT} )`),
    server: await look(site.server, `( sport = :${PORT} )`),
  };
}

function limitBytes() {
  return Math.round((rate * 1e6 * queueMs) / 8000);
}

function now() {
  return new Date().toISOString();
}

function write(row) {
  appendFileSync(output, `${JSON.stringify(row)}\n`);
}
