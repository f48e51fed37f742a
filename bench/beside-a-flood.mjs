#!/usr/bin/env node
/**
 * Measures echo requests of one client while another one, behind an uplink of its own, floods 50 Mbit/s of UDP:
 * bare, and through smartvpn with a limit of 10 Mbit/s on the flooding client.
 *
 *     node bench/beside-a-flood.mjs [--rounds 5] [--seconds 10] [--output bench/results/NAME.jsonl]
 *
 * Needs root, iperf3, ping and the built daemon. Writes one JSON object a line.
 */
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism, release } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import { openSite, SERVER } from '../scripts/lab-site.mjs';
import { missingTools } from '../scripts/tools.mjs';
import { busyShare, percentile } from './figures.mjs';
import { openTunnel, TUNNEL } from './tunnel.mjs';

const LIMIT = 10e6 / 8;
const BURST = 65_536;
const IPERF_PORT = '5201';
const PING_INTERVAL_MS = 5;

/** The flood's time to that of the echo requests, whose interval the kernel's timers make up to twice as long. */
const OUTLASTS = 2.5;

const CASES = { idle: null, 'flood-up': [], 'flood-down': ['--reverse'] };

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '10' },
    output: { type: 'string' },
  },
});
const [rounds, seconds] = ['rounds', 'seconds'].map((name) => {
  const number = Number(values[name]);
  if (number > 0 && Number.isFinite(number)) return number;
  console.error(`--${name} must be a number above 0, not "${values[name]}".`);
  process.exit(2);
});
const missing = missingTools(['ip', 'iperf3', 'nft', 'ping', 'ss']);
if (missing) {
  console.error(missing);
  process.exit(1);
}

const today = new Date().toISOString().slice(0, 10);
const output = values.output ?? join(import.meta.dirname, 'results', `${today}-beside-a-flood.jsonl`);
mkdirSync(dirname(output), { recursive: true });
writeFileSync(output, '');
write({ kind: 'setup', host: release(), cpus: availableParallelism(), link: 'veth', seconds });
for (let number = 1; number <= rounds; number++) {
  for (const peer of ['bare', 'smartvpn']) await measurePeer(number, peer);
}
console.log(`\n${output}`);

async function measurePeer(number, peer) {
  const site = await openSite({ clients: 2 });
  const [flooder, other] = site.clients;
  try {
    const tunnel = peer === 'bare' ? null : await openTunnel(site, [flooder, other]);
    for (const { clientId, assignedIp } of (await tunnel?.server.listClients()) ?? []) {
      // The first to connect, and so the first address.
      if (assignedIp === '10.8.0.2') await tunnel.server.setClientRateLimit(clientId, LIMIT, BURST);
    }
    for (const [name, load] of Object.entries(CASES)) {
      const metrics = await measure(site, tunnel ? TUNNEL : SERVER.address, load);
      write({ kind: 'result', round: number, peer, case: name, metrics, time: new Date().toISOString() });
      const { rtt_p50_ms: median, rtt_p99_ms: p99, machine_busy: busy, flood_mbit_s: flood } = metrics;
      const arrived = flood === undefined ? '' : `, flood ${flood} Mbit/s`;
      console.log(
        `${number} ${peer} ${name}: ${median} / ${p99} ms${arrived}, ${Math.round(100 * busy)} % busy`,
      );
    }
    await tunnel?.close();
  } finally {
    await site.lab.close();
  }
}

async function measure(site, address, load) {
  const [flooder, other] = site.clients;
  const flood = load && (await startFlood(site, flooder, address, load));
  const count = Math.round((seconds * 1000) / PING_INTERVAL_MS);
  const ping = ['ping', '-n', '-c', `${count}`, '-i', `${PING_INTERVAL_MS / 1000}`, '-W', '2', address];
  const [busy, { stdout }] = await Promise.all([
    busyShare(seconds * 1000),
    other.exec(ping, { check: false, timeoutMs: 10 * seconds * 1000 + 60_000 }),
  ]);
  const samples = Array.from(stdout.matchAll(/time=([\d.]+) ms/g), ([, ms]) => Number(ms));
  if (samples.length === 0) throw new Error(`No echo request was answered:\n${stdout}`);
  const sum = flood && (await flood.ended).sum;
  return {
    rtt_p50_ms: percentile(samples, 50),
    rtt_p99_ms: percentile(samples, 99),
    rtt_max_ms: percentile(samples, 100),
    lost: count - samples.length,
    ...(sum && {
      flood_mbit_s: Math.round(((sum.bits_per_second / 1e6) * (100 - sum.lost_percent)) / 10) / 10,
      flood_lost_percent: Math.round(10 * sum.lost_percent) / 10,
    }),
    machine_busy: busy,
  };
}

async function startFlood(site, host, address, args) {
  const server = site.server.spawn(['iperf3', '--server', '--one-off', '--port', IPERF_PORT], {
    stdio: 'ignore',
  });
  await site.server.sh(
    `for try in $(seq 200); do ss -ltn | grep -q :${IPERF_PORT} && exit 0; sleep 0.02; done; exit 1`,
  );
  const running = host.exec(
    [
      'iperf3', '--json', '--client', address, '--port', IPERF_PORT, '--udp', '--bitrate', '50M',
      '--length', '1200', '--time', `${Math.ceil(OUTLASTS * seconds) + 1}`, ...args,
    ],
    { timeoutMs: (OUTLASTS * seconds + 30) * 1000 },
  ); // prettier-ignore
  const ended = running.then(({ stdout }) => JSON.parse(stdout).end).finally(() => server.kill('SIGKILL'));
  ended.catch(() => {}); // told by whoever waits for it
  await sleep(1_000);
  return { ended };
}

function write(row) {
  appendFileSync(output, `${JSON.stringify(row)}\n`);
}
