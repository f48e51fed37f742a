/** What is measured of each peer. */
import { percentile, busySince, round } from './figures.mjs';
import { FULL_PAYLOAD, iperf, ping } from './load.mjs';
import { cpuSeconds, peakMemory } from './processes.mjs';

const SMALL_PAYLOAD = 64;
const PINGS = 400;
const PING_INTERVAL_MS = 5;

/**
 * @typedef {object} Run one peer, connected
 * @property {import('./site.mjs').Site} site
 * @property {import('./site.mjs').Tunnel} tunnel
 * @property {number} seconds of a transfer
 * @property {number} connectMs from the start of the client to the first reply
 * @property {number} connectBusy the share of all CPUs that was busy meanwhile
 */

/**
 * @typedef {object} Case
 * @property {string} label what it says in tables and pictures
 * @property {('tunnel' | 'relay' | 'bare')[]} kinds the peers that it makes sense for
 * @property {(run: Run) => Promise<Record<string, number>>} measure
 * @property {Metric[]} shown
 *
 * @typedef {object} Metric
 * @property {string} key
 * @property {string} unit
 * @property {string} [label] besides that of the case
 * @property {'more' | 'less'} better
 */

const GOODPUT = { key: 'mbit_s', unit: 'Mbit/s', better: 'more' };
const CPU = { key: 'cpu_s_per_gb', unit: 's/GB', label: 'CPU time', better: 'less' };

const ALL = ['tunnel', 'relay', 'bare'];
const PACKETS = ['tunnel', 'bare'];
const TUNNELS = ['tunnel'];

/** @type {Record<string, Case>} */
export const CASES = {
  'tcp-1': {
    label: '1 TCP stream up',
    kinds: ALL,
    measure: (run) => tcp(run, 1),
    shown: [GOODPUT, CPU],
  },
  'tcp-1-rev': {
    label: '1 TCP stream down',
    kinds: ALL,
    measure: (run) => tcp(run, 1, '--reverse'),
    shown: [GOODPUT, CPU],
  },
  'tcp-4': {
    label: '4 TCP streams up',
    kinds: ALL,
    measure: (run) => tcp(run, 4),
    shown: [GOODPUT, CPU],
  },
  'tcp-4-rev': {
    label: '4 TCP streams down',
    kinds: ALL,
    measure: (run) => tcp(run, 4, '--reverse'),
    shown: [GOODPUT, CPU],
  },
  'udp-small': {
    label: '64-byte datagrams received',
    kinds: PACKETS,
    measure: (run) => udp(run, SMALL_PAYLOAD),
    shown: [{ key: 'pps', unit: 'packets/s', better: 'more' }],
  },
  'udp-mtu': {
    label: '1,392-byte datagrams received',
    kinds: PACKETS,
    measure: (run) => udp(run, FULL_PAYLOAD),
    shown: [GOODPUT],
  },
  'ping-idle': {
    label: 'Round trip, idle',
    kinds: PACKETS,
    measure: pingIdle,
    shown: [
      { key: 'rtt_p50_ms', unit: 'ms', label: 'median', better: 'less' },
      { key: 'rtt_p99_ms', unit: 'ms', label: '99 %', better: 'less' },
    ],
  },
  connect: {
    label: 'From start to first reply',
    kinds: TUNNELS,
    measure: async ({ connectMs, connectBusy }) => ({
      connect_ms: round(connectMs, 1),
      machine_busy: connectBusy,
    }),
    shown: [{ key: 'connect_ms', unit: 'ms', better: 'less' }],
  },
  rss: {
    label: 'Peak memory',
    kinds: TUNNELS,
    measure: memory,
    shown: [
      { key: 'peak_client_mib', unit: 'MiB', label: 'client', better: 'less' },
      { key: 'peak_server_mib', unit: 'MiB', label: 'server', better: 'less' },
    ],
  },
};

async function tcp(run, streams, ...args) {
  const { report, usage } = await transfer(run, ['--parallel', `${streams}`, ...args]);
  const { sum_received: received, sum_sent: sent } = report.end;
  // Those of the seconds that do not count included, as the CPU time has them, too.
  const bytes = report.intervals.reduce((total, { sum }) => total + sum.bytes, 0);
  return {
    mbit_s: round(received.bits_per_second / 1e6, 1),
    retransmits: sent.retransmits,
    ...usage(bytes),
  };
}

async function udp(run, payload) {
  const { report, usage } = await transfer(run, ['--udp', '--bitrate', '0', '--length', `${payload}`]);
  const { sum_received: received, sum_sent: sent } = report.end;
  // iperf3's own loss leaves out what was lost after the last arrival.
  return {
    pps: Math.round(received.bytes / payload / received.seconds),
    mbit_s: round((received.bytes * 8) / received.seconds / 1e6, 1),
    sent_pps: Math.round(sent.bytes / payload / sent.seconds),
    payload,
    ...usage(0),
  };
}

/** `usage` tells of the time of a transfer: CPU seconds of both ends, and per GB of so many bytes. */
async function transfer({ site, tunnel, seconds }, args) {
  const { client, server } = tunnel.pids;
  const [share, before] = [busySince(), [client, server].map(cpuSeconds)];
  const report = await iperf(site, tunnel.serverTunnelAddress, seconds, args);
  const used = [client, server].map(cpuSeconds).map((after, end) => round(after - before[end], 2));
  const busy = share();
  return {
    report,
    usage: (bytes) => ({
      ...(client.length > 0 && { cpu_client_s: used[0], cpu_server_s: used[1] }),
      ...(client.length > 0 && bytes > 0 && { cpu_s_per_gb: round((used[0] + used[1]) / (bytes / 1e9), 3) }),
      machine_busy: busy,
    }),
  };
}

async function pingIdle({ site, tunnel }) {
  const share = busySince();
  const times = await ping(site, tunnel.serverTunnelAddress, PINGS, PING_INTERVAL_MS);
  return {
    rtt_p50_ms: percentile(times, 50),
    rtt_p99_ms: percentile(times, 99),
    rtt_max_ms: percentile(times, 100),
    lost: PINGS - times.length,
    machine_busy: share(),
  };
}

/** The most that each end has had in memory after four streams up and four down. */
async function memory(run) {
  const { pids } = run.tunnel;
  await tcp(run, 4);
  const { machine_busy: busy } = await tcp(run, 4, '--reverse');
  return {
    peak_client_mib: round(peakMemory(pids.client), 1),
    peak_server_mib: round(peakMemory(pids.server), 1),
    machine_busy: busy,
  };
}
