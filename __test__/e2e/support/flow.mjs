/** What passes a tunnel while something happens to it: a download, and datagrams both ways, each with its pauses. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

import { moment } from './probe.mjs';
import { start } from './program.mjs';
import { WEB } from './site.mjs';
import { eventually } from './traffic.mjs';

export { moment };

const PROBE = fileURLToPath(new URL('./probe.mjs', import.meta.url));

/** Until a probe is under way. */
const PATIENCE_MS = 30_000;

/** A download that has stood still for so long, in milliseconds, will not go on. */
const GIVE_UP_MS = 30_000;

/** Datagrams a second, each way: a pause is then known to 10 ms. */
const STAMPS_PER_SEC = 100;

let lastPort = 6200;

/**
 * @typedef {object} Pauses
 * @property {{ at: number, ms: number }[]} pauses when nothing came: since when, and for how long
 * @property {number} longestMs the longest of them
 * @property {(since: number, until?: number) => number} stallAfter for how long after a moment nothing came, in
 *   milliseconds: the longest wait between `since` and `until`
 */

/** @returns {Pauses} */
function withPauses(seen) {
  return {
    ...seen,
    longestMs: Math.max(0, ...seen.pauses.map(({ ms }) => ms)),
    stallAfter(since, until = Infinity) {
      const waits = seen.pauses
        .filter(({ at, ms }) => at + ms > since && at < until)
        .map(({ at, ms }) => Math.min(at + ms, until) - Math.max(at, since));
      return Math.max(0, ...waits);
    },
  };
}

/**
 * Starts a download from the public host, whose web server runs, over one HTTP connection. Resolves with its first
 * byte.
 *
 * @param {import('../../../scripts/lab.mjs').Host} host
 * @param {{ bytes: number, seconds?: number, holdMs?: number, patienceMs?: number }} options `seconds` is how long it takes
 *   at least; `holdMs` how long the server waits in the middle of it; `patienceMs` how long nothing may come before it
 *   is given up
 * @returns {Promise<{ isOver(): boolean, stop(): Promise<void>, result(): Promise<Pauses & { bytes: number, whole: boolean,
 *   failure?: string, ended: number }> }>} `whole` is whether the SHA-256 is the right one
 */
export async function download(host, { bytes, seconds, holdMs, patienceMs = GIVE_UP_MS }) {
  const query = new URLSearchParams();
  if (seconds) query.set('rate', String(Math.ceil(bytes / seconds)));
  if (holdMs) query.set('holdMs', String(holdMs));
  const probe = await begin(host, [
    'fetch',
    `http://${WEB.address}/random/${bytes}?${query}`,
    `${patienceMs}`,
  ]);
  return {
    isOver: () => probe.json().length > 1,
    stop: () => probe.end('SIGKILL'),
    result: () => probe.ended.then(() => withPauses(report(probe))),
  };
}

/**
 * Starts datagrams both ways between two hosts. What one end gets must have been sent by the other, be newer than all
 * before it, and come once: `end()` asserts that, and resolves with what each end has seen.
 *
 * @param {import('../../../scripts/lab.mjs').Host} host
 * @param {import('../../../scripts/lab.mjs').Host} peer
 * @param {string} address that of `peer`
 * @param {{ perSecond?: number }} [options]
 * @returns {Promise<{ port: number, end(): Promise<{ up: Pauses & Stamps, down: Pauses & Stamps }> }>} `up` is what
 *   came to `peer`
 *
 * @typedef {{ sent: number, received: number, late: number, wrong: number, repeated: number, disordered: number, oldestMs: number }} Stamps
 */
export async function stamps(host, peer, address, { perSecond = STAMPS_PER_SEC } = {}) {
  const port = ++lastPort;
  const args = [address, `${port}`, randomBytes(32).toString('hex'), `${perSecond}`];
  const answering = await begin(peer, ['answer', ...args]);
  const calling = await begin(host, ['call', ...args]);
  return {
    port,
    async end() {
      const [down, up] = await Promise.all([calling, answering].map(stop));
      for (const { wrong, repeated, disordered } of [up, down]) {
        assert.deepEqual({ wrong, repeated, disordered }, { wrong: 0, repeated: 0, disordered: 0 });
      }
      return { up, down };
    },
  };
}

async function stop(probe) {
  probe.child.stdin.end();
  await probe.ended;
  return withPauses(report(probe));
}

async function begin(host, args) {
  const probe = start(host, [process.execPath, PROBE, ...args]);
  const begun = eventually(() => assert.ok(probe.json().length > 0, probe.output()), PATIENCE_MS);
  await Promise.race([begun, once(probe.child, 'exit')]);
  return probe;
}

function report(probe) {
  const last = probe.json().at(-1);
  assert.ok(last?.pauses, `the probe ended early: ${probe.output()}`);
  return last;
}
