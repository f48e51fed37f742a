/** Servers and proxies that go away and come back during a download. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { notBuilt } from './support/daemon.mjs';
import { endure, GRACEFUL_STALL_MS, STALL_MS } from './support/faults.mjs';
import { moment } from './support/flow.mjs';
import { endAll } from './support/program.mjs';
import { BEHIND_PROXY, Nginx, ServerProcess } from './support/servers.mjs';
import { LONG, requires, useSite } from './support/site.mjs';

/** How long nothing is done to the tunnel, so that each cause has its own stall. */
const REST_MS = STALL_MS + 1_000;

/** How long the supervisor of a killed server takes to start it again. */
const RESTART_MS = 1_000;

describe('a download survives', { skip: requires() || notBuilt }, () => {
  const site = useSite();
  beforeEach(() => site.serveWeb());
  afterEach(() => endAll('SIGKILL'));

  it('the SIGKILL of the server', async (t) => {
    const server = await ServerProcess.start(site);
    const client = await site.connect();
    const times = LONG ? 3 : 1;
    await endure(t, site, client, { seconds: 3 + times * 6 }, async ({ cause }) => {
      for (let time = 1; time <= times; time++) {
        await sleep(1_000);
        await cause(`SIGKILL ${time}`, async () => {
          await server.kill('SIGKILL');
          await sleep(RESTART_MS);
          return server.start();
        });
        await sleep(REST_MS);
      }
    });
  });

  it('a restart of the server, which tells its clients', async (t) => {
    const server = await ServerProcess.start(site);
    const client = await site.connect();
    const options = { seconds: 8, stallMs: GRACEFUL_STALL_MS };
    await endure(t, site, client, options, async ({ cause }) => {
      await sleep(1_000);
      let begun;
      await cause('a restart', async () => {
        begun = moment();
        assert.deepEqual(await server.kill('SIGTERM'), { code: 0, signal: null });
        const listening = await server.start();
        t.diagnostic(`the server was away for ${(listening - begun).toFixed()} ms`);
        return listening;
      });
      const { lastErrorCode } = await client.vpn.event('status', ({ state }) => state === 'reconnecting');
      assert.equal(lastErrorCode, 'shutting-down');
      await sleep(REST_MS);
    });
  });
});

describe('a download through nginx survives', { skip: requires('nginx') || notBuilt }, () => {
  const site = useSite();
  beforeEach(() => site.serveWeb());
  afterEach(() => endAll('SIGKILL'));

  it('that it is reloaded, which cuts connections', async (t) => {
    await ServerProcess.start(site, BEHIND_PROXY);
    const nginx = await Nginx.start(site);
    const client = await site.connect();
    const times = LONG ? 5 : 2;
    await endure(t, site, client, { seconds: 3 + times * 6 }, async ({ cause }) => {
      for (let time = 1; time <= times; time++) {
        await sleep(1_000);
        // It is the end of the old worker that cuts; the new one is there since a second before.
        await cause(`reload ${time}`, () => nginx.reload());
        await sleep(REST_MS);
      }
    });
    assert.ok(client.vpn.seen('status').filter(({ state }) => state === 'reconnecting').length >= times);
  });
});
