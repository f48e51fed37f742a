/** A tunnel whose server goes away and comes back. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { assertFails } from './support/assert.mjs';
import { requires, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, interfaceWith, reaches } from './support/traffic.mjs';

/** Short delays, so that a test does not wait for the default back-off. */
const RECONNECT = { baseDelayMs: 100, maxDelayMs: 300 };

describe('a server that goes away', { skip: requires() }, () => {
  const site = useSite();

  for (const [how, end] of Object.entries({
    'is stopped': ({ agent }) => agent.close(),
    'is killed': ({ agent }) => agent.kill('SIGKILL'),
  })) {
    it(`and ${how} and comes back finds its client again, interface and routes kept`, async () => {
      const server = await site.serve();
      const { agent, vpn, assignedIp } = await site.connect({ reconnect: RECONNECT, routes: ['0.0.0.0/0'] });
      const { ifindex } = await interfaceWith(site.client, assignedIp);
      vpn.forget();

      await end(server);
      // That it is connected may be told a moment after the call that it answers.
      const { state, lastErrorCode } = await vpn.event('status', (status) => status.state !== 'connected');
      assert.equal(state, 'reconnecting');
      assert.equal(lastErrorCode, how === 'is stopped' ? 'shutting-down' : 'connection-lost');
      assert.equal((await vpn.getStatus()).state, 'reconnecting');
      assert.equal(await reaches(site.client, WEB.address), false, 'nothing leaves beside the tunnel');
      assert.ok(await interfaceWith(site.client, assignedIp), 'the interface stays');

      await site.serve(server.config);
      const connected = await vpn.event('status', (status) => status.state === 'connected');
      const now = await interfaceWith(site.client, connected.assignedIp);
      assert.equal(now.ifindex, ifindex, 'the interface is the same');
      assert.equal(await reaches(site.client, WEB.address), true);
      assert.equal(agent.running, true);
      assert.equal(vpn.seen('exit').length, 0);
    });
  }

  it('is given up after maxAttempts', async () => {
    const server = await site.serve();
    const { vpn, assignedIp } = await site.connect({ reconnect: { ...RECONNECT, maxAttempts: 2 } });
    await server.agent.close();
    const status = await vpn.event('status', ({ state }) => state === 'error');
    assert.equal(status.lastErrorCode, 'connection-refused');
    assert.equal(await interfaceWith(site.client, assignedIp), undefined);
    await site.assertAsFound();
  });

  it('is given up at once without reconnect', async () => {
    const server = await site.serve();
    const { vpn } = await site.connect({ reconnect: false });
    await server.agent.kill('SIGKILL');
    const status = await vpn.event('status', ({ state }) => state === 'error');
    assert.equal(status.lastErrorCode, 'connection-lost');
    assert.equal(
      vpn.seen('status').some(({ state }) => state === 'reconnecting'),
      false,
    );
    await site.serve();
  });

  it('may be left while it is away', async () => {
    const server = await site.serve();
    const { vpn, config, assignedIp } = await site.connect({ reconnect: RECONNECT });
    await server.agent.close();
    await vpn.event('status', ({ state }) => state === 'reconnecting');
    await assertFails(vpn.connect(config), 'already-connected');
    await vpn.disconnect();
    assert.equal((await vpn.getStatus()).state, 'disconnected');
    assert.equal(await interfaceWith(site.client, assignedIp), undefined);

    await site.serve();
    await sleep(1_000);
    assert.equal((await vpn.getStatus()).state, 'disconnected', 'it does not come back by itself');
  });

  it('counts on over reconnects', async () => {
    const server = await site.serve();
    const { vpn } = await site.connect({ reconnect: RECONNECT });
    await reaches(site.client, TUNNEL.server);
    await eventually(async () => assert.ok((await vpn.getStatistics()).packetsReceived >= 3));
    await server.agent.close();
    await site.serve();
    await vpn.event('status', ({ state, lastErrorCode }) => state === 'connected' && !lastErrorCode);
    await eventually(async () => assert.equal(await reaches(site.client, TUNNEL.server), true));
    assert.ok((await vpn.getStatistics()).packetsReceived >= 4);
  });
});
