/** A path that drops everything without a word, during a download. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { DETECTION_MS, DOWNLOAD, endure, NOISE_MS, STALL_MS } from './support/faults.mjs';
import { moment } from './support/flow.mjs';
import { endAll } from './support/program.mjs';
import { LONG, requires, SERVER, useSite } from './support/site.mjs';

/** How long nothing is done to the tunnel, so that each cause has its own stall. */
const REST_MS = STALL_MS + 1_000;

/** Of the download, in bytes a second: the faster it is, the more is under way when the path goes silent. */
const RATE = 5e6;

/**
 * Datagrams that the outer connection holds already when its path goes silent. They come late if the path is back before
 * that was noticed: 64 KiB of what the tests send.
 */
const BUFFERED = 150;

describe('a path that swallows everything', { skip: requires() }, () => {
  const site = useSite();
  beforeEach(async () => {
    await site.serveWeb();
    await site.serve();
  });
  afterEach(async () => {
    await endAll('SIGKILL');
    await fill(site);
  });

  for (const ms of LONG ? [5_000, 15_000, 60_000] : [5_000]) {
    it(`for ${ms / 1_000} s loses a download nothing`, async (t) => {
      const client = await site.connect();
      const lateAtMost = ms < DETECTION_MS ? BUFFERED : 0;
      const options = { seconds: DOWNLOAD / RATE, patienceMs: 3 * ms + 30_000, lateAtMost };
      await endure(t, site, client, options, async ({ cause }) => {
        await sleep(2_000);
        // The sender's own time-out doubles with each try, so that its next one may be as far away again.
        await cause(`silence of ${ms} ms`, () => silence(site, () => sleep(ms)), {
          tcpStallMs: ms + STALL_MS,
        });
        await sleep(REST_MS);
      });
    });
  }

  it('is noticed soon', async (t) => {
    const client = await site.connect();
    const options = { seconds: 10, bytes: DOWNLOAD / 4, patienceMs: 90_000 };
    await endure(t, site, client, options, async ({ cause }) => {
      await sleep(2_000);
      const limits = { tcpStallMs: DETECTION_MS + STALL_MS };
      await cause('silence until it is noticed', () => silence(site, () => noticed(t, client.vpn)), limits);
      const healed = moment();
      await client.vpn.event('status', ({ state }) => state === 'connected');
      t.diagnostic(`connected ${(moment() - healed).toFixed()} ms after the path is back`);
      await sleep(REST_MS);
    });
  });
});

async function noticed(test, vpn) {
  const begun = moment();
  await vpn.event('status', ({ state }) => state === 'reconnecting', 2 * DETECTION_MS);
  const ms = moment() - begun;
  test.diagnostic(`noticed after ${ms.toFixed()} ms`);
  assert.ok(ms <= DETECTION_MS + NOISE_MS, `noticed after ${ms.toFixed()} ms`);
}

/** Drops what goes to the server and comes from it, for as long as `wait` takes; resolves with the moment of its end. */
async function silence(site, wait) {
  await site.internet.exec(['nft', '-f', '-'], { input: HOLE });
  try {
    await wait();
  } finally {
    await fill(site);
  }
  return moment();
}

function fill(site) {
  return site.internet.exec(['nft', '-f', '-'], { input: 'table ip hole\ndelete table ip hole\n' });
}

const HOLE = `table ip hole {
  chain forward {
    type filter hook forward priority 0;
    ip daddr ${SERVER.address} drop
    ip saddr ${SERVER.address} drop
  }
}`;
