/** A proxy that ends TLS sees every frame and can change it. It can end sessions, and nothing else. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { endure, NOISE_MS, STALL_MS } from './support/faults.mjs';
import { moment, stamps } from './support/flow.mjs';
import { openHostileProxy } from './support/hostile-proxy.mjs';
import { forgedPacket } from './support/mischief.mjs';
import { endAll } from './support/program.mjs';
import { BEHIND_PROXY } from './support/servers.mjs';
import { authority, LONG, PORT, requires, SERVER, TUNNEL, useSite } from './support/site.mjs';

/** How many frames are false, and how many of them in one session. */
const [TARGET, BURST] = LONG ? [100_000, 200] : [5_000, 50];

/** The close codes of PROTOCOL §9 for what a peer does wrong, and what follows the one thing that is not wrong. */
const BLAMING = ['1002', '1008', '1009', 'after a hint'];

/** So long may it take until all are sent, in milliseconds: a new session for each burst. */
const PATIENCE_MS = (TARGET / BURST) * 1_000;

/** A session that is broken time and again waits no longer than this for its next try. */
const RECONNECT = { baseDelayMs: 10, maxDelayMs: 50 };

describe('a proxy that ends TLS', { skip: requires() }, () => {
  const site = useSite();
  let proxy;
  let server;
  beforeEach(async () => {
    server = await site.serve(BEHIND_PROXY);
    const [host, port] = BEHIND_PROXY.listenAddr.split(':');
    proxy = await openHostileProxy(site, site.server, {
      listen: { host: SERVER.address, port: PORT },
      to: { host, port: Number(port) },
      ...authority.issue([SERVER.address]),
    });
  });
  afterEach(() => endAll('SIGKILL'));

  it('may merge and split messages as it likes', async (t) => {
    await site.serveWeb();
    await proxy.reframe();
    const client = await site.connect();
    await endure(t, site, client, { bytes: LONG ? 64 << 20 : 16 << 20, seconds: 3 }, async () => {});
    assert.deepEqual(client.vpn.seen('status'), [], 'it was never away');
  });

  it('gets no false frame through, whatever it does', async (t) => {
    const { vpn, assignedIp } = await site.connect({ reconnect: RECONNECT });
    const passing = await stamps(site.client, site.server, TUNNEL.server, { perSecond: 300 });
    await sleep(500);
    const { port } = passing;
    const packets = {
      up: forgedPacket({ from: assignedIp, to: TUNNEL.server, port }),
      down: forgedPacket({ from: TUNNEL.server, to: assignedIp, port }),
    };
    await proxy.harm({ target: TARGET, burst: BURST, packets });
    const counts = await over(proxy);
    const mended = moment();
    await sleep(STALL_MS + NOISE_MS);

    const { up, down } = await passing.end();
    const { kinds, ...figures } = await proxy.counts();
    t.diagnostic(`${counts.false} false frames in ${figures.harmed} sessions: ${JSON.stringify(figures)}`);
    t.diagnostic(`begun with: ${JSON.stringify(kinds)}`);
    const backAfter = Math.max(up.stallAfter(mended), down.stallAfter(mended));
    t.diagnostic(`datagrams came: ${up.received} and ${down.received}; back after ${backAfter.toFixed()} ms`);
    assert.ok(figures.false >= TARGET);
    assert.equal(figures.closed, figures.harmed, 'each victim has closed its session');
    const unexpected = Object.keys(figures.codes).filter((code) => !BLAMING.includes(code));
    assert.deepEqual(unexpected, [], JSON.stringify(figures.codes));
    assert.ok(backAfter <= STALL_MS + NOISE_MS, `back after ${backAfter} ms`);
    assert.ok(up.received > 0 && down.received > 0);
    assert.deepEqual(
      [vpn, server.vpn].flatMap((end) => end.seen('exit')),
      [],
    );
    assert.ok(!vpn.seen('status').some(({ state }) => state === 'error'), 'it never gave up');
  });
});

/** Resolves with the counts when all false frames are sent. */
async function over(proxy) {
  for (const deadline = moment() + PATIENCE_MS; ; await sleep(50)) {
    const counts = await proxy.counts();
    if (counts.isOver) return counts;
    assert.ok(moment() < deadline, `not done: ${JSON.stringify(counts)}`);
  }
}
