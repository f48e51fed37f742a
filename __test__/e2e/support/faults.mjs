/** What must hold for a tunnel while something is done to its connection, and the figures to print. */
import assert from 'node:assert/strict';

import { download, moment, stamps } from './flow.mjs';
import { median } from './load.mjs';
import { STALE_MS } from './probe.mjs';
import { LONG, WEB } from './site.mjs';
import { eventually, interfaceWith } from './traffic.mjs';

/** How long nothing may pass once the cause is gone, in milliseconds. */
export const STALL_MS = 3_000;

/** The same where the server has said that it goes. */
export const GRACEFUL_STALL_MS = 1_000;

/** Within this a path that has gone silent is noticed while something is being sent. */
export const DETECTION_MS = 10_000;

/** What the noise of a machine with other things to do may add. The long run is for one that has not. */
export const NOISE_MS = LONG ? 0 : 1_000;

/** How much is downloaded. */
export const DOWNLOAD = LONG ? 256 << 20 : 48 << 20;

/**
 * Does something to a tunnel during a download of {@link DOWNLOAD} and datagrams both ways, and asserts that both
 * survive: not a byte is wrong or asked for twice, the client's address and interface are the same, and nothing stalls
 * for longer than allowed once a cause is gone.
 *
 * @param {import('node:test').TestContext} test
 * @param {object} site
 * @param {{ agent: object, vpn: object, assignedIp: string }} client
 * @param {object} options
 * @param {number} options.seconds how long the download takes without stalls
 * @param {number} [options.holdMs] how long the web server waits in the middle of it
 * @param {number} [options.bytes]
 * @param {number} [options.patienceMs] how long the download may stand still before it is given up
 * @param {number} [options.stallMs]
 * @param {number} [options.lateAtMost] how many datagrams may come each way when they are stale
 * @param {(run: Run) => Promise<void>} act does it
 *
 * @typedef {object} Run
 * @property {(what: string, act: () => Promise<number | void>, options?: { tcpStallMs?: number }) => Promise<void>} cause
 *   something that stops the traffic; it is gone when `act` resolves, or at the moment it resolves with. The inner TCP
 *   may take longer to go on than the tunnel, `tcpStallMs`, where its own retransmissions have backed off
 */
export async function endure(test, site, client, options, act) {
  const { seconds, holdMs = 0, bytes = DOWNLOAD, stallMs = STALL_MS, patienceMs, lateAtMost = 0 } = options;
  const before = await interfaceWith(site.client, client.assignedIp);
  assert.ok(before, 'the client has an interface');
  const both = holdMs ? undefined : await stamps(site.client, site.web, WEB.address);
  const flow = await download(site.client, { bytes, seconds, holdMs, patienceMs });
  client.vpn.forget();

  const causes = [];
  await act({
    flow,
    async cause(what, action, limits = {}) {
      const cause = { what, begun: moment(), tcpStallMs: stallMs, ...limits };
      causes.push(cause);
      cause.gone = (await action()) ?? moment();
    },
  });
  // With another address, the download would wait for ever.
  await eventually(() => assertUnchanged(site, client, before), STALL_MS);
  assert.ok(!flow.isOver(), 'the download ended before all was done: it shows nothing');
  const result = await flow.result();
  const passed = await both?.end();

  const [tcp, udp] = [result, passed?.down].map((pauses) => pauses && stallsOf(pauses, causes, holdMs));
  report(test, causes, { result, passed, tcp, udp, held: holdMs });
  assert.deepEqual(
    { bytes: result.bytes, whole: result.whole, failure: result.failure },
    { bytes, whole: true, failure: undefined },
  );
  for (const [index, { what, tcpStallMs }] of causes.entries()) {
    within(tcp[index], tcpStallMs, `the download, ${what}`);
    if (udp) within(udp[index], stallMs, `datagrams, ${what}`);
  }
  for (const { late } of passed ? [passed.up, passed.down] : []) {
    assert.ok(late <= lateAtMost, `${late} datagrams came more than ${STALE_MS} ms late`);
  }
  await assertUnchanged(site, client, before);
}

/** Asserts that the client still has its address, on the same interface, and that its engine has not ended. */
async function assertUnchanged(site, { agent, vpn, assignedIp }, before) {
  assert.equal((await vpn.getStatus()).assignedIp, assignedIp, 'the address is the same');
  const now = await interfaceWith(site.client, assignedIp);
  assert.equal(now?.ifindex, before.ifindex, 'the interface is the same');
  assert.deepEqual(vpn.seen('exit'), []);
  assert.equal(agent.running, true);
}

function stallsOf(pauses, causes, holdMs) {
  return causes.map(({ gone }, index) => {
    const stall = pauses.stallAfter(gone, causes[index + 1]?.begun);
    // What the web server itself has waited is nobody's fault.
    return holdMs ? Math.max(0, pauses.longestMs - holdMs) : stall;
  });
}

function within(ms, limitMs, what) {
  assert.ok(ms <= limitMs + NOISE_MS, `${what}: nothing for ${ms.toFixed()} ms, more than ${limitMs} ms`);
}

function report(test, causes, { result, passed, tcp, udp, held }) {
  for (const [index, { what, begun, gone }] of causes.entries()) {
    const figures = [
      `lasted ${(gone - begun).toFixed()} ms`,
      `download stalled ${tcp[index].toFixed()} ms more`,
    ];
    if (udp) figures.push(`datagrams ${udp[index].toFixed()} ms`);
    test.diagnostic(`${what}: ${figures.join(', ')}`);
  }
  const all = [`${result.bytes} bytes, SHA-256 ${result.whole ? 'right' : `WRONG (${result.failure})`}`];
  if (tcp.length > 0) {
    all.push(`stalls: median ${median(tcp).toFixed()} ms, longest ${Math.max(...tcp).toFixed()} ms`);
  }
  all.push(
    `longest pause ${result.longestMs.toFixed()} ms${held ? `, ${held} of them the web server's` : ''}`,
  );
  if (passed) {
    const { up, down } = passed;
    all.push(
      `datagrams: ${down.sent - up.received} of ${down.sent} lost up, ${up.sent - down.received} of ${up.sent} down, ` +
        `${up.late} and ${down.late} late, the oldest ${Math.max(up.oldestMs, down.oldestMs).toFixed()} ms`,
    );
  }
  test.diagnostic(all.join('; '));
}
