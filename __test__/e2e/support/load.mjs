/** Load that goes on beside what a test looks at, and counts of it. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { start } from './program.mjs';
import { counters, eventually } from './traffic.mjs';

const UDP = fileURLToPath(new URL('./udp.mjs', import.meta.url));

/** Longer than any test looks at it, in seconds. */
const ENDLESS_SECS = 300;

let lastPort = 5200;

/**
 * Starts TCP flows with iperf3 that go on until they are stopped.
 *
 * @param {import('../../../scripts/lab.mjs').Host} from
 * @param {import('../../../scripts/lab.mjs').Host} to
 * @param {string} address that of `to`
 * @param {{ flows?: number, reverse?: boolean, args?: string[] }} [options] `reverse` sends from `to`
 * @returns {Promise<{ output(): string, stop(): Promise<void> }>}
 */
export async function bulk(from, to, address, { flows = 1, reverse = false, args = [] } = {}) {
  const port = `${++lastPort}`;
  const server = start(to, ['iperf3', '--server', '--one-off', '--forceflush', '--port', port]);
  await once(server.child.stdout, 'data'); // it prints when it listens
  const client = start(from, [
    'iperf3', '--client', address, '--port', port, '--parallel', `${flows}`, '--time', `${ENDLESS_SECS}`,
    '--forceflush', '--interval', '0.1', ...(reverse ? ['--reverse'] : []), ...args,
  ]); // prettier-ignore
  await eventually(() => assert.match(client.output(), /connected to/), 20_000);
  return {
    /** What iperf3 has printed on the side of `from`. */
    output: client.output,
    async stop() {
      await Promise.all([client.end('SIGKILL'), server.end('SIGKILL')]);
    },
  };
}

/** Starts counting the datagrams that come to a port; `stop()` resolves with how many came. */
export async function countDatagrams(host, address, port) {
  return untilStopped(await program(host, ['count', address, `${port}`]));
}

/** Answers datagrams that come to a port, until `stop()`. */
export async function echoDatagrams(host, address, port) {
  return untilStopped(await program(host, ['echo', address, `${port}`]));
}

/**
 * Starts sending datagrams; `ended` resolves with how many were sent.
 *
 * @param {import('../../../scripts/lab.mjs').Host} host
 * @param {string} address
 * @param {number} port
 * @param {{ size?: number, bytesPerSec: number, seconds: number, source?: string }} options `size` is that of
 *   the IPv4 packet
 * @returns {Promise<{ ended: Promise<{ packets: number, bytes: number }>, stop(): Promise<void> }>}
 */
export async function datagrams(host, address, port, { size = 1200, bytesPerSec, seconds, source }) {
  const argv = ['send', address, port, size, bytesPerSec, seconds, ...(source ? [source] : [])];
  const sender = await program(
    host,
    argv.map((word) => `${word}`),
  );
  return {
    /** Resolves when all are sent. */
    ended: sender.ended.then(() => result(sender)),
    /** Ends it early. */
    async stop() {
      sender.child.stdin.end();
      await sender.ended;
    },
  };
}

/** Sends datagrams to nobody in particular, and resolves with how many. */
export async function sendDatagrams(host, address, count, { port = 9, size = 200, source } = {}) {
  const { ended } = await datagrams(host, address, port, {
    size,
    bytesPerSec: 1e6,
    seconds: (count * size) / 1e6,
    source,
  });
  return ended;
}

async function program(host, args) {
  const running = start(host, [process.execPath, UDP, ...args]);
  await eventually(() => assert.match(running.output(), /ready/), 20_000);
  return running;
}

function untilStopped(running) {
  return {
    async stop() {
      running.child.stdin.end();
      await running.ended;
      return result(running);
    },
  };
}

function result({ output }) {
  return JSON.parse(output().trim().split('\n').at(-1));
}

/**
 * The bytes per second by which a figure of a client's telemetry grows during a time.
 *
 * @param {import('../../../scripts/lab-remote.mjs').RemoteVpn} server
 * @param {string} id
 * @param {'bytesSent' | 'bytesReceived'} figure
 * @param {number} milliseconds
 */
export async function rateOf(server, id, figure, milliseconds) {
  const begin = await reading(server, id, figure);
  await sleep(milliseconds);
  const end = await reading(server, id, figure);
  return ((end.bytes - begin.bytes) / (end.at - begin.at)) * 1000;
}

/** A figure, and when it was read, in milliseconds. */
export async function reading(server, id, figure) {
  const asked = performance.now();
  const { [figure]: bytes } = await server.getClientTelemetry(id);
  return { bytes, at: (asked + performance.now()) / 2 };
}

/** Packets that the kernel could not hand to whoever reads the TUN, and those that it has. */
export async function handedOver(host, device) {
  const { stdout } = await host.exec(['cat', `/sys/class/net/${device}/statistics/tx_dropped`]);
  return { refused: Number(stdout), taken: (await counters(host, device)).sent.packets };
}

/**
 * Sums of `TVpnDrops`, which must be those that stand beside them.
 *
 * @param {{ drops?: object, packetsDropped?: number, bytesDropped?: number }} figures statistics or telemetry
 * @returns {{ packets: number, bytes: number, reasons: Record<string, number>, classes: Record<string, number> }}
 */
export function sumOfDrops({ drops = {}, packetsDropped = 0, bytesDropped = 0 }) {
  const sum = { packets: 0, bytes: 0, reasons: {}, classes: {} };
  for (const [priority, byReason] of Object.entries(drops)) {
    assert.ok(['high', 'normal', 'low'].includes(priority), priority);
    for (const [reason, { packets, bytes }] of Object.entries(byReason)) {
      assert.ok(packets > 0, `${priority} ${reason} says nothing`);
      sum.packets += packets;
      sum.bytes += bytes;
      sum.reasons[reason] = (sum.reasons[reason] ?? 0) + packets;
      sum.classes[priority] = (sum.classes[priority] ?? 0) + packets;
    }
  }
  assert.deepEqual([sum.packets, sum.bytes], [packetsDropped, bytesDropped], JSON.stringify(drops));
  return sum;
}

/** The middle one. */
export function median(values) {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
