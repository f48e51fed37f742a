/** Connections that are cut, held up, or cut to pieces on their way, during a download. */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { endure, NOISE_MS, STALL_MS } from './support/faults.mjs';
import { moment } from './support/flow.mjs';
import { median } from './support/load.mjs';
import { endAll } from './support/program.mjs';
import { openRelay } from './support/relay.mjs';
import { LONG, PORT, requires, SERVER, useSite } from './support/site.mjs';

const RELAY_PORT = 9443;
const THROUGH_RELAY = { serverUrl: `wss://${SERVER.address}:${RELAY_PORT}/` };

/** How long nothing is done to the tunnel, so that each cause has its own stall. */
const REST_MS = STALL_MS + 1_000;

/** What of a connection is passed on byte by byte: its handshakes, which are a few KiB, and 100 KiB of traffic. */
const SINGLE_BYTES = 108 * 1024;

describe('through a relay', { skip: requires() }, () => {
  const site = useSite();
  let relay;
  beforeEach(async () => {
    await site.serveWeb();
    await site.serve();
    relay = await openRelay(site, site.server, {
      listen: { host: SERVER.address, port: RELAY_PORT },
      to: { host: SERVER.address, port: PORT },
    });
  });
  afterEach(() => endAll('SIGKILL'));

  it('a download survives that its connection is cut in the middle of a frame', async (t) => {
    const client = await site.connect(THROUGH_RELAY);
    const ways = Array.from({ length: LONG ? 10 : 2 }, () => ['reset', 'end']).flat();
    await endure(t, site, client, { seconds: 3 + ways.length * 5 }, async ({ cause }) => {
      for (const way of ways) {
        await sleep(500);
        const after = randomInt(1, 100_000);
        await cause(`${way} after ${after} bytes`, () => cutNow(relay, way, after));
        await sleep(REST_MS);
      }
    });
  });

  for (const way of ['reset', 'end']) {
    it(`a download that pauses survives that its idle connection is cut (${way})`, async (t) => {
      const client = await site.connect(THROUGH_RELAY);
      const holdMs = LONG ? 20_000 : 6_000;
      await endure(t, site, client, { seconds: 4, holdMs }, async ({ cause }) => {
        await sleep(2_000 + holdMs / 2);
        await cause(`${way} after ${holdMs / 2} ms`, () => cutNow(relay, way));
        for (const expected of ['reconnecting', 'connected']) {
          await client.vpn.event('status', ({ state }) => state === expected);
        }
      });
    });
  }

  it('a download survives that everything is held for a while', async (t) => {
    const client = await site.connect(THROUGH_RELAY);
    await endure(t, site, client, { seconds: 14 }, async ({ cause }) => {
      for (const ms of [300, 2_000]) {
        await sleep(500);
        await cause(`held for ${ms} ms`, async () => {
          await relay.stall();
          await sleep(ms);
          await relay.resume();
        });
        await sleep(REST_MS);
      }
    });
  });

  it('a connection begins and goes on in segments of one byte', async (t) => {
    await relay.single(SINGLE_BYTES);
    const begun = moment();
    const client = await site.connect(THROUGH_RELAY);
    t.diagnostic(`connected after ${(moment() - begun).toFixed()} ms`);
    await endure(t, site, client, { bytes: 8 << 20, seconds: 2 }, async () => {});
    assert.deepEqual(client.vpn.seen('status'), [], 'it was never away');
  });

  for (const [how, order] of Object.entries({
    'in segments that are merged': () => relay.merge(true),
    '200 ms late, each way': () => relay.delay(200),
  })) {
    it(`a connection goes on ${how}`, async (t) => {
      await order();
      const client = await site.connect(THROUGH_RELAY);
      await endure(t, site, client, { bytes: 4 << 20, seconds: 2 }, async () => {});
      assert.deepEqual(client.vpn.seen('status'), [], 'it was never away');
    });
  }

  it('a connection is taken up again as fast as it was made', async (t) => {
    await relay.delay(ROUND_TRIP_MS / 2);
    const [made, resumed] = [[], []];
    for (let time = 0; time < (LONG ? 20 : 5); time++) {
      const begun = moment();
      const { agent, vpn } = await site.connect(THROUGH_RELAY);
      made.push(moment() - begun);
      await sleep(1_000);
      vpn.forget();
      await cutNow(relay, 'reset');
      const cut = moment();
      await vpn.event('status', ({ state }) => state === 'connected');
      resumed.push(moment() - cut);
      await agent.close();
    }
    const list = (values) =>
      `${median(values).toFixed()} ms (${values.map((ms) => ms.toFixed()).join(', ')})`;
    t.diagnostic(`over ${ROUND_TRIP_MS} ms: made in ${list(made)}, resumed in ${list(resumed)}`);
    // The first time the relay's own connection comes on top of TLS, HTTP and the handshake, each a round trip.
    const limitMs = median(made) + ROUND_TRIP_MS + NOISE_MS / 10;
    assert.ok(median(resumed) <= limitMs, `${median(resumed)} ms, more than ${limitMs} ms`);
  });
});

/** What the delayed relay makes of a path. */
const ROUND_TRIP_MS = 50;

async function cutNow(relay, way, after) {
  const accepted = await relay.cut(way, after);
  assert.ok(accepted > 0, 'there was a connection to cut');
}
