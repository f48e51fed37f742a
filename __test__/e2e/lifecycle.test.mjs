/**
 * What ends a VPN, and what the host looks like afterwards. What each method does, over every transport,
 * is in behaviour.test.mjs.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { clientConfig, requires, TUNNEL, useSite, WEB } from './support/site.mjs';
import { eventually, interfaceWith, ping, reaches } from './support/traffic.mjs';

/** A client that changes more of its host than its interface: routes beside the tunnel, too. */
const FULL_TUNNEL = { routes: ['0.0.0.0/0'] };

describe('a busy JavaScript thread', { skip: requires() }, () => {
  const site = useSite();

  it('delays no packet', async () => {
    const server = await site.serve();
    const client = await site.connect();
    const blocked = [server, client].map(({ agent }) => agent.run(blockForThreeSeconds));
    const { received, maxMs, output } = await ping(site.client, WEB.address, {
      count: 140,
      intervalSecs: 0.02,
    });
    await Promise.all(blocked);
    assert.equal(received, 140, output);
    assert.ok(maxMs < 500, `a packet took ${maxMs} ms`);
  });
});

describe('the host is as found', { skip: requires() }, () => {
  const site = useSite();

  /** How a program may end, and how its process then does. */
  const endings = {
    'process.exit()': {
      act: () => void setImmediate(() => process.exit(7)),
      ended: { code: 7, signal: null },
    },
    'an uncaught throw': {
      act: () =>
        void setImmediate(() => {
          throw new Error('on purpose');
        }),
      ended: { code: 1, signal: null },
    },
    'an unhandled rejection': {
      act: () => void Promise.reject(new Error('on purpose')),
      ended: { code: 1, signal: null },
    },
    SIGTERM: { signal: 'SIGTERM', ended: { code: null, signal: 'SIGTERM' } },
    SIGINT: { signal: 'SIGINT', ended: { code: null, signal: 'SIGINT' } },
    SIGHUP: { signal: 'SIGHUP', ended: { code: null, signal: 'SIGHUP' } },
  };

  for (const [name, { act, signal, ended }] of Object.entries(endings)) {
    it(`after ${name} in the client`, async () => {
      const server = await site.serve();
      const { agent, assignedIp } = await site.connect(FULL_TUNNEL);
      assert.deepEqual(await end(agent), ended, agent.stderr);
      assert.equal(await interfaceWith(site.client, assignedIp), undefined);
      await server.agent.close();
      await site.assertAsFound();
    });

    it(`after ${name} in the server`, async () => {
      const server = await site.serve({ subnet6: TUNNEL.subnet6 });
      const client = await site.connect({ reconnect: false });
      assert.deepEqual(await end(server.agent), ended, server.agent.stderr);
      await client.vpn.event('status', ({ state }) => state === 'error');
      await client.agent.close();
      await site.assertAsFound();
    });

    const end = async (agent) => {
      if (signal) return agent.kill(signal);
      await agent.run(act).catch(() => {});
      return agent.ended;
    };
  }

  it('after a client was killed and another connects', async () => {
    const server = await site.serve();
    const { agent, config } = await site.connect(FULL_TUNNEL);
    await agent.kill('SIGKILL');
    const again = await site.connect(config);
    assert.equal(await reaches(site.client, WEB.address), true);
    await again.agent.close();
    await server.agent.close();
    await site.assertAsFound();
  });

  it('after a server was killed and another starts', async () => {
    const { agent, config } = await site.serve({ subnet6: TUNNEL.subnet6 });
    await agent.kill('SIGKILL');
    const again = await site.serve(config);
    await site.connect();
    assert.equal(await reaches(site.client, WEB.address), true);
    await again.agent.close();
  });

  it('after both ends were killed in the middle of traffic, twice', async () => {
    for (let round = 0; round < 2; round++) {
      const server = await site.serve();
      const client = await site.connect(FULL_TUNNEL);
      const traffic = ping(site.client, WEB.address, { count: 20, intervalSecs: 0.01 });
      await sleep(50);
      await Promise.all([server.agent.kill('SIGKILL'), client.agent.kill('SIGKILL')]);
      await traffic;
    }
    const server = await site.serve();
    const client = await site.connect(FULL_TUNNEL);
    assert.equal(await reaches(site.client, WEB.address), true);
    await client.agent.close();
    await server.agent.close();
    await site.assertAsFound();
  });
});

describe('signals belong to the program', { skip: requires() }, () => {
  const site = useSite();

  it('a program’s own handler runs, and the tunnel goes on', async () => {
    await site.serve();
    const { agent } = await site.connect(FULL_TUNNEL);
    await agent.run(() => void process.on('SIGTERM', () => process.stdout.write('mine')));
    process.kill(agent.pid, 'SIGTERM');
    await eventually(() => assert.equal(agent.stdout, 'mine'));
    await sleep(200);
    assert.equal(agent.running, true);
    assert.equal(await reaches(site.client, WEB.address), true);
  });

  it('a handler that exits leaves the host as found', async () => {
    await site.serve();
    const { agent, assignedIp } = await site.connect(FULL_TUNNEL);
    await agent.run(() => void process.on('SIGINT', () => process.exit(9)));
    assert.deepEqual(await agent.kill('SIGINT'), { code: 9, signal: null });
    assert.equal(await interfaceWith(site.client, assignedIp), undefined);
  });

  it('listeners exist only while something is set on the host', async () => {
    await site.serve();
    const agent = await site.agent(site.client);
    const vpn = await agent.startedClient();
    assert.deepEqual(await agent.run(countSignalListeners), [0, 0, 0]);
    await vpn.connect(clientConfig());
    assert.deepEqual(await agent.run(countSignalListeners), [1, 1, 1]);
    await vpn.disconnect();
    assert.deepEqual(await agent.run(countSignalListeners), [0, 0, 0]);
  });
});

describe('stop() and close()', { skip: requires() }, () => {
  const site = useSite();

  it('end a connected client with one exit event', async () => {
    const server = await site.serve();
    const { agent, vpn } = await site.connect(FULL_TUNNEL);
    const elapsedMs = await agent.run(({ vpns }) => {
      const [client] = vpns.values();
      const begun = performance.now();
      client.stop();
      client.stop();
      return performance.now() - begun;
    });
    assert.ok(elapsedMs < 100, `stop() took ${elapsedMs} ms`);
    await vpn.close();
    await vpn.close();
    const exits = vpn.events.filter(({ name }) => name === 'exit');
    assert.deepEqual(
      exits.map(({ args }) => args[0].code),
      [0],
    );
    assert.equal(vpn.events.at(-1).name, 'exit', 'no event follows it');
    assert.equal((await server.vpn.event('client-disconnected')).reason, 'client-disconnect');
    await server.agent.close();
    await site.assertAsFound();
  });

  it('free the server’s port and tell its clients', async () => {
    const { agent, vpn, config } = await site.serve();
    const client = await site.connect({ reconnect: false });
    await vpn.close();
    const status = await client.vpn.event('status', ({ state }) => state === 'error');
    assert.equal(status.lastErrorCode, 'shutting-down');
    const again = await site.serve(config, { agent });
    assert.equal((await again.vpn.getStatus()).state, 'connected');
  });

  it('at any moment of a connect() leave nothing', async () => {
    await site.serve();
    const agent = await site.agent(site.client);
    for (let delayMs = 0; delayMs < 60; delayMs += 4) {
      const vpn = await agent.startedClient();
      const outcome = vpn.connect(clientConfig(FULL_TUNNEL)).then(
        () => 'connected',
        ({ code }) => code,
      );
      await sleep(delayMs);
      await vpn.close();
      assert.ok(['connected', 'aborted'].includes(await outcome), `after ${delayMs} ms: ${await outcome}`);
    }
  });

  it('let the same object begin anew', async () => {
    const { vpn } = await site.serve();
    await vpn.stopServer();
    assert.equal((await vpn.getStatus()).state, 'disconnected');
    await vpn.start();
    const client = await site.connect();
    assert.equal(await reaches(site.client, TUNNEL.server), true);
    await client.vpn.close();
    await client.vpn.start();
    await client.vpn.connect(client.config);
    assert.equal(await reaches(site.client, TUNNEL.server), true);
  });
});

/** Runs in an agent. */
function blockForThreeSeconds() {
  for (const end = Date.now() + 3_000; Date.now() < end;);
}

/** Runs in an agent. */
function countSignalListeners() {
  return ['SIGINT', 'SIGTERM', 'SIGHUP'].map((signal) => process.listenerCount(signal));
}
